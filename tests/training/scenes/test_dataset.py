from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.scenes import SceneDataset, sample_scene
from training.scenes.__main__ import main
from training.scenes.writing import contact_sheet, encode_sample, sample_dataset, sample_metadata

SAMPLES = Path(__file__).resolve().parents[3] / "service" / "samples"


def _records(manifest: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def test_an_example_holds_picture_caption_facts_and_boxes_that_belong_together() -> None:
    example = SceneDataset("val", 5)[3]
    rgb, caption, facts, boxes = example
    assert rgb.shape == (128, 128, 3)
    assert caption == SceneDataset("val", 5).caption(3)
    assert facts == sample_scene("val", 3).facts()
    assert boxes.shape == (len(facts["groups"]), 4)
    np.testing.assert_allclose(boxes, [group["box"] for group in facts["groups"]], atol=1e-4)


def test_examples_do_not_depend_on_order_or_length() -> None:
    short, long = SceneDataset("train", 5), SceneDataset("train", 1000)
    np.testing.assert_array_equal(short[4].rgb, long[4].rgb)
    assert long[4].caption == short[4].caption


def test_the_data_set_ends_at_its_length() -> None:
    dataset = SceneDataset("train", 3)
    assert len(list(dataset)) == len(dataset) == 3
    assert dataset[-1].caption == dataset[2].caption
    with pytest.raises(IndexError, match="index is 3"):
        dataset[3]
    with pytest.raises(ValueError, match="num is -1"):
        SceneDataset("train", -1)
    with pytest.raises(ValueError, match="'tset'"):
        SceneDataset("tset", 1)


def test_the_recoloured_split_tells_of_the_colours_before() -> None:
    example, original = SceneDataset("recoloured", 3)[1], SceneDataset("test", 3)[1]
    assert [group["colour"] for group in example.facts["groups"]] == [
        group["colour"] for group in original.facts["groups"]
    ]
    assert np.abs(example.rgb.astype(int) - original.rgb).mean() > 5


def test_facts_are_json() -> None:
    facts = SceneDataset("rearranged", 4)[3].facts
    assert json.loads(json.dumps(facts)) == facts


def test_rendering_needs_no_torch() -> None:
    code = "import sys, training.scenes as s; s.SceneDataset('train', 1)[0]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_write_makes_pictures_and_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "write",
                "--split",
                "test",
                "--num",
                "3",
                "--size",
                "64",
                "--captions",
                "2",
                "--out",
                str(tmp_path / "new"),
            ]
        )
        == 0
    )
    manifest = tmp_path / "new" / "manifest.jsonl"
    assert capsys.readouterr().out.strip() == str(manifest)
    records = _records(manifest)
    dataset = SceneDataset("test", 3, size=64)
    for index, record in enumerate(records):
        picture = cv2.imread(str(manifest.parent / str(record["image"])))
        assert picture is not None
        np.testing.assert_array_equal(picture[..., ::-1], dataset[index].rgb)
        assert record["captions"] == [dataset.caption(index), dataset.caption(index, 1)]
        assert record["split"] == "test"
        assert record["facts"] == dataset[index].facts
    assert len(records) == 3


def test_a_contact_sheet_shows_every_scene_once(tmp_path: Path) -> None:
    dataset = SceneDataset("train", 5, size=40)
    sheet = contact_sheet(dataset, num_columns=3)
    assert sheet.shape == (2 * 46 + 6, 3 * 46 + 6, 3)
    np.testing.assert_array_equal(sheet[52:92, 52:92], dataset.render(4))
    assert (
        main(["sheet", "--num", "5", "--size", "40", "--columns", "3", "--out", str(tmp_path / "a" / "sheet.png")]) == 0
    )
    stored = cv2.imread(str(tmp_path / "a" / "sheet.png"))
    assert stored is not None
    np.testing.assert_array_equal(stored[..., ::-1], sheet)


@pytest.mark.parametrize(
    "arguments", [["write", "--num", "0", "--out", "x"], ["sheet", "--split", "other", "--out", "x"], []]
)
def test_wrong_arguments_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert "usage" in capsys.readouterr().err


def _sample_records() -> Iterator[tuple[int, dict[str, object]]]:
    return enumerate(_records(SAMPLES / "manifest.jsonl"))


def test_the_sample_pictures_are_those_that_the_code_renders() -> None:
    dataset = sample_dataset()
    for index, record in _sample_records():
        if index % 6 == 0:
            stored = cv2.imread(str(SAMPLES / str(record["file"])))
            fresh = cv2.imdecode(np.frombuffer(encode_sample(dataset.render(index)), np.uint8), cv2.IMREAD_COLOR)
            assert stored is not None
            assert fresh is not None
            # Another release of OpenCV may place an anti-aliased pixel a little differently.
            assert np.abs(stored.astype(int) - fresh).mean() < 0.5


def test_the_sample_manifest_has_captions_and_metadata_of_every_picture() -> None:
    dataset = sample_dataset()
    records = dict(_sample_records())
    assert len(records) == len(dataset) == 60
    for index, record in records.items():
        facts = dataset[index].facts
        assert record["caption"] == dataset.caption(index)
        assert record["metadata"] == sample_metadata(facts)
        assert (SAMPLES / str(record["file"])).is_file()
    assert len({record["id"] for record in records.values()}) == 60


def test_the_samples_stay_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) <= 1_500_000
