"""What the structural view of a picture costs on one core: its edge map, and the `cnn` branch that embeds it.

    python -m benchmarks.edge_branch                        # the packaged sample pictures at 224 pixels
    python -m benchmarks.edge_branch --pictures FOLDER

From a picture that has been resized (which both views need) to a unit vector, float32, one thread, on one core; torch
and OpenVINO in turn, round by round. OpenVINO gets no number where its smallest cosine to torch is below 0.999.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.encoders import MIN_COSINE, towers_of
from benchmarks.reference_model import write_reference_model
from benchmarks.results import alternate, spread, write_result
from benchmarks.samples import SAMPLES
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import EdgeDetector, PercentileCanny, ScharrEdges
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_plain_model

Norm = Literal["group", "batch"]
Tower = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
DETECTORS: Mapping[str, EdgeDetector] = {"canny": PercentileCanny(), "soft edges": ScharrEdges()}
NORMS: tuple[Norm, ...] = ("group", "batch")


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an open_clip model; default: a ViT-B/32 with random weights, for its size")
    parser.add_argument("--pictures", type=Path, default=SAMPLES)
    parser.add_argument("--num-pictures", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="edge_branch")
    arguments = parser.parse_args()
    files = sorted(arguments.pictures.rglob("*.jpg"))[: arguments.num_pictures]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_reference_model(Path(folder) / "model")
        figures = measure(model, pictures, arguments.batch_sizes, arguments.rounds)
    noted = vars(arguments) | {"model": arguments.model or "ViT-B-32 with random weights"}
    write_result(arguments.name, figures, arguments=noted)


def measure(
    model: str, pictures: Sequence[NDArray[np.uint8]], batch_sizes: Sequence[int], rounds: int
) -> dict[str, Any]:
    """Return milliseconds a picture of edge maps, of the branch by either normalisation, and of both together.

    Args:
        model: Gives the size of pictures and of vectors.
        pictures: uint8 `(H, W, 3)` of any size.
        batch_sizes: Pictures in a call.
        rounds: Of everything in turn; over them come medians and ranges.
    """
    num_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        return _measure({norm: _encoder(model, norm) for norm in NORMS}, pictures, batch_sizes, rounds)
    finally:
        torch.set_num_threads(num_threads[0])
        cv2.setNumThreads(num_threads[1])


def _encoder(model: str, norm: Norm) -> TwoViewEncoder:
    torch.manual_seed(0)
    return load_plain_model(model, edge_branch=EdgeBranchConfig("cnn", norm=norm), device="cpu")


def _measure(
    encoders: Mapping[Norm, TwoViewEncoder],
    pictures: Sequence[NDArray[np.uint8]],
    batch_sizes: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    resized = [next(iter(encoders.values())).preprocessing.resize(picture) for picture in pictures]
    edges = np.stack([DETECTORS["canny"].detect(picture) for picture in resized])
    towers, cosines = _towers(encoders, edges)
    works: dict[str, Callable[[], object]] = {
        f"edge map, {name}": partial(_each, detector.detect, resized) for name, detector in DETECTORS.items()
    }
    for name, tower in towers.items():
        for size in batch_sizes:
            parts = [edges[start : start + size] for start in range(0, len(edges), size)]
            works[f"{name}, batch {size}"] = partial(_each, tower, parts)
    for work in works.values():
        work()
    seconds = alternate(rounds, **{name: partial(_seconds, work) for name, work in works.items()})
    milliseconds = {name: [1000 * each / len(resized) for each in times] for name, times in seconds.items()}
    with_maps = {
        f"{name}, with {detector}": [
            branch + found
            for branch, found in zip(milliseconds[name], milliseconds[f"edge map, {detector}"], strict=True)
        ]
        for name in works
        if not name.startswith("edge map")
        for detector in DETECTORS
    }
    return {
        "num_pictures": len(resized),
        "image_size": len(resized[0]),
        "threads": 1,
        "smallest_cosine": cosines,
        "milliseconds_a_picture": {name: spread(times, digits=2) for name, times in (milliseconds | with_maps).items()},
    }


def _towers(
    encoders: Mapping[Norm, TwoViewEncoder], edges: NDArray[np.uint8]
) -> tuple[dict[str, Tower], dict[str, float]]:
    """Return the branches by name that may be measured, and how near OpenVINO's are to torch's."""
    kept: dict[str, Tower] = {}
    cosines = {}
    for norm, encoder in encoders.items():
        ways = towers_of(encoder)
        by_torch = ways["torch_f32"].edges(edges)
        kept[f"torch, {norm} norm"] = ways["torch_f32"].edges
        cosine = float(np.vecdot(ways["openvino_f32"].edges(edges), by_torch).min())
        cosines[f"{norm} norm"] = round(cosine, 6)
        if cosine >= MIN_COSINE:
            kept[f"OpenVINO, {norm} norm"] = ways["openvino_f32"].edges
    return kept, cosines


def _each(work: Callable[[NDArray[np.uint8]], object], items: Iterable[NDArray[np.uint8]]) -> None:
    for item in items:
        work(item)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
