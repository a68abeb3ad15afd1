"""What int8 would cost and gain: towers quantised after training (NNCF) against float32 and bf16.

    pip install nncf
    python -m benchmarks.quantised --model scenes-tiny --data scenes:test
    python -m benchmarks.quantised --model local-dir:PATH --data captions.jsonl,split=test \\
        --calibrate captions.jsonl,split=train

`int8` has weights and activations in 8 bits, with ranges from `--calibrate` pictures and their captions; `int8_weights`
the weights alone; what is not quantised runs in bf16 where the processor has it. The normalisation at the end stays as
it is: quantised, its rows are not of unit length. Told are the smallest and the mean cosine to float32, on pictures
that calibrated nothing, recall with queries and pictures of the same form, and times at batches of 1 and 32.

NNCF is no dependency of the project: docs/decisions/0029 says why.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reference_model import write_reference_model
from benchmarks.results import write_result
from structxlip.backends import openvino_cpu
from structxlip.backends.eager import torch_towers
from structxlip.backends.towers import EdgesAsPictures, Precision, Tower, Towers
from structxlip.encoder import PreparedImage, PreparedText, TwoViewEncoder
from structxlip.models import load_encoder
from training.config import parse_source
from training.data import open_source

_UNQUANTISED = ["ReduceL2", "NormalizeL2", "Divide"]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: a ViT-B/32 with random weights, whose recall means nothing")
    parser.add_argument("--data", default="scenes:test")
    parser.add_argument("--calibrate", default="scenes:train")
    parser.add_argument("--size", type=int, default=1000, help="pictures that are searched")
    parser.add_argument("--num-calibration", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default="quantised")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        encoder = load_encoder(arguments.model or write_reference_model(Path(folder) / "model"))
        figures = measure(
            encoder,
            arguments.data,
            arguments.calibrate,
            size=arguments.size,
            num_calibration=arguments.num_calibration,
            rounds=arguments.rounds,
        )
    noted = vars(arguments) | {"model": arguments.model or "random ViT-B/32, 4-layer text tower"}
    write_result(arguments.name, figures, arguments=noted)


def measure(
    encoder: TwoViewEncoder, data: str, calibrate: str, *, size: int, num_calibration: int, rounds: int
) -> dict[str, Any]:
    """Return cosines, recall and times of each form."""
    tested, known = _read(encoder, data, size), _read(encoder, calibrate, num_calibration)
    forms = {"torch_f32": torch_towers(encoder), **_forms(encoder, known)}
    embedded = {name: _embedded(encoder, towers, tested) for name, towers in forms.items()}
    weight, expected = encoder.default_structure_weight, embedded["torch_f32"]
    figures = {
        name: {
            "cosine": {kind: _cosines(found[kind], expected[kind]) for kind in found},
            "recall": {"w=0": _recalls(found, 0.0), f"w={weight}": _recalls(found, weight)},
        }
        for name, found in embedded.items()
    }
    pictures = np.stack([image.rgb for image in tested.images[:32]])
    times = _times({name: towers.images for name, towers in forms.items()}, pictures, rounds)
    return {
        "num_pictures": len(tested.images),
        "structure_weight": encoder.default_structure_weight,
        "forms": {name: {**figures[name], "picture_milliseconds": times[name]} for name in forms},
    }


@dataclass(frozen=True)
class _Prepared:
    images: list[PreparedImage]
    texts: list[PreparedText]


def _read(encoder: TwoViewEncoder, text: str, size: int) -> _Prepared:
    source = open_source(parse_source(text), image_size=encoder.image_size)
    rows = np.random.default_rng(0).permutation(len(source))[:size].tolist()
    return _Prepared(
        [encoder.prepare_image(source.read(row).rgb) for row in rows],
        [encoder.prepare_text(source.captions(row)[0]) for row in rows],
    )


def _forms(encoder: TwoViewEncoder, known: _Prepared) -> dict[str, Towers]:
    import nncf

    models = openvino_cpu.convert(encoder)
    inputs: dict[str, list[Any]] = {
        "images": [image.rgb[None] for image in known.images],
        "edges": [image.edges[None] for image in known.images],
        "tokens": [text.tokens[None] for text in known.texts],
    }
    scope = nncf.IgnoredScope(types=_UNQUANTISED, validate=False)
    kind = nncf.ModelType.TRANSFORMER if "transformer" in str(dir(encoder.model.visual)) else None
    quantised = {
        name: nncf.quantize(
            model.clone(),
            nncf.Dataset(inputs[name]),
            subset_size=len(inputs[name]),
            ignored_scope=scope,
            model_type=nncf.ModelType.TRANSFORMER if name == "tokens" else kind,
        )
        for name, model in models.items()
    }
    compressed = {
        name: nncf.compress_weights(model.clone(), mode=nncf.CompressWeightsMode.INT8_ASYM)
        for name, model in models.items()
    }
    rest: Precision = "bf16" if openvino_cpu.supports_bf16() else "f32"
    forms = {"openvino_f32": _towers(models, "f32")}
    if rest == "bf16":
        forms["openvino_bf16"] = _towers(models, "bf16")
    return {**forms, "int8": _towers(quantised, rest), "int8_weights": _towers(compressed, rest)}


def _towers(models: Mapping[str, Any], precision: Precision) -> Towers:
    towers: dict[str, Tower] = {
        name: openvino_cpu.OpenVinoTower(model, precision=precision) for name, model in models.items()
    }
    towers.setdefault("edges", EdgesAsPictures(towers["images"]))
    return Towers(**towers, spare_tokens=openvino_cpu.SPARE_TOKENS)


def _embedded(encoder: TwoViewEncoder, towers: Towers, given: _Prepared) -> dict[str, NDArray[np.float32]]:
    encoder.run_on(towers)
    starts = range(0, len(given.images), 32)
    images = [encoder.encode_images(given.images[start : start + 32]) for start in starts]
    texts = [encoder.encode_texts(given.texts[start : start + 32]) for start in starts]
    return {
        "pictures": np.concatenate([rows.appearance for rows in images]),
        "edge_maps": np.concatenate([rows.structure for rows in images]),
        "texts": np.concatenate([rows.appearance for rows in texts]),
        "structural_texts": np.concatenate([rows.structure for rows in texts]),
    }


def _cosines(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", found, expected, dtype=np.float64) / lengths
    return {"smallest": round(float(cosines.min()), 5), "mean": round(float(cosines.mean()), 5)}


def _recalls(found: Mapping[str, NDArray[np.float32]], weight: float) -> dict[str, float]:
    """Return in percent how many captions find their picture among the first 1 and 10, with both views."""
    scores = (1 - weight) * found["texts"] @ found["pictures"].T
    scores += weight * found["structural_texts"] @ found["edge_maps"].T
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    return {f"R@{k}": round(100 * float((ranks < k).mean()), 2) for k in (1, 10)}


def _times(towers: Mapping[str, Tower], pictures: NDArray[np.uint8], rounds: int) -> dict[str, dict[str, float]]:
    taken: dict[str, dict[str, list[float]]] = {name: {"batch 1": [], "batch 32": []} for name in towers}
    for _ in range(rounds + 1):
        for name, tower in towers.items():
            for size in (1, 32):
                started = time.perf_counter()
                tower(pictures[:size])
                taken[name][f"batch {size}"].append(time.perf_counter() - started)
    # The first round warms up.
    return {
        name: {batch: round(statistics.median(seconds[1:]) * 1000, 2) for batch, seconds in each.items()}
        for name, each in taken.items()
    }


if __name__ == "__main__":
    main()
