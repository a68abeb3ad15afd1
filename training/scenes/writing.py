"""Writes scenes to disk: a data set with its manifest, a contact sheet, the sample pictures of the demo."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.scenes.dataset import SceneDataset
from training.scenes.drawing import Image
from training.scenes.scene import SCENES_VERSION

SAMPLE_SIZE = 320
NUM_SAMPLES = 60
SAMPLE_SPLIT = "test"
SAMPLE_SEED = 2026
"""A seed of its own: the demo's pictures are not those that recall is measured on."""
SHEET_GAP = 6

_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 84, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
"""Full colour resolution: halved, thin coloured lines bleed into the background."""

_SAMPLES_README = """# Sample pictures

{num} drawings with captions that `make demo` adds to the collection. They are rendered by
this project and contain nothing else: made by `python -m training.scenes samples --out service/samples`
(scenes version {version}, split `{split}`, seed {seed}).

Licence: CC0-1.0 for the pictures and captions, so that you can use them for anything; the code that draws
them is Apache-2.0.

`manifest.jsonl` holds one record per picture: `id`, `file`, `caption` and `metadata` (`background`,
`num_objects`, `num_groups`, `kinds`, `main_colour`).
"""


def write_dataset(dataset: SceneDataset, directory: Path, *, num_captions: int = 1) -> Path:
    """Writes PNG pictures and ``manifest.jsonl``: ``image``, ``captions``, ``split``, ``facts`` a line.

    Args:
        dataset: What to write.
        directory: Made when absent; files of the same names are replaced.
        num_captions: Phrasings for each picture.

    Returns:
        The manifest's path.
    """
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for index, example in enumerate(dataset):
        name = f"{dataset.split}_{index:06d}.png"
        _write_image(images / name, example.rgb)
        others = [dataset.caption(index, dataset.phrasing + more) for more in range(1, num_captions)]
        records.append(
            {
                "image": f"images/{name}",
                "captions": [example.caption, *others],
                "split": dataset.split,
                "facts": example.facts,
            }
        )
    return _write_manifest(directory, records)


def contact_sheet(dataset: SceneDataset, num_columns: int = 6) -> Image:
    """All pictures of the data set in a grid, row by row."""
    step = dataset.size + SHEET_GAP
    num_columns = max(1, min(num_columns, len(dataset)))
    sheet = np.full(
        (math.ceil(len(dataset) / num_columns) * step + SHEET_GAP, num_columns * step + SHEET_GAP, 3),
        255,
        np.uint8,
    )
    for index in range(len(dataset)):
        row, column = divmod(index, num_columns)
        top, left = SHEET_GAP + row * step, SHEET_GAP + column * step
        sheet[top : top + dataset.size, left : left + dataset.size] = dataset.render(index)
    return sheet


def write_contact_sheet(dataset: SceneDataset, path: Path, num_columns: int = 6) -> None:
    """Writes the contact sheet; the file's ending chooses its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_image(path, contact_sheet(dataset, num_columns))


def sample_dataset() -> SceneDataset:
    """The scenes of the demo."""
    return SceneDataset(SAMPLE_SPLIT, NUM_SAMPLES, SAMPLE_SEED, SAMPLE_SIZE)


def write_samples(directory: Path) -> Path:
    """Writes the demo's pictures, their manifest and a README.

    Returns:
        The manifest's path.
    """
    directory.mkdir(parents=True, exist_ok=True)
    dataset = sample_dataset()
    records = []
    for index, example in enumerate(dataset):
        identifier = f"scene-{index:02d}"
        (directory / f"{identifier}.jpg").write_bytes(encode_sample(example.rgb))
        records.append(
            {
                "id": identifier,
                "file": f"{identifier}.jpg",
                "caption": example.caption,
                "metadata": sample_metadata(example.facts),
            }
        )
    readme = _SAMPLES_README.format(num=len(dataset), version=SCENES_VERSION, split=SAMPLE_SPLIT, seed=SAMPLE_SEED)
    (directory / "README.md").write_text(readme, encoding="utf-8")
    return _write_manifest(directory, records)


def encode_sample(rgb: Image) -> bytes:
    """A picture as JPEG bytes."""
    is_done, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), _JPEG)
    assert is_done
    return encoded.tobytes()


def sample_metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the demo can filter by; the main colour is that of the group which covers most of the picture."""
    groups = facts["groups"]
    largest = max(
        groups,
        key=lambda group: sum((right - left) * (bottom - top) for left, top, right, bottom in group["boxes"]),
    )
    return {
        "background": facts["background"]["kind"],
        "num_objects": sum(group["count"] for group in groups),
        "num_groups": len(groups),
        "kinds": sorted(group["kind"] for group in groups),
        "main_colour": largest["colour"],
    }


def _write_manifest(directory: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path = directory / "manifest.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def _write_image(path: Path, rgb: Image) -> None:
    is_done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert is_done
    path.write_bytes(encoded.tobytes())
