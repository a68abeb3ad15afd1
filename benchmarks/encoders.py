"""The encoders on the CPU: torch as it is against OpenVINO in float32 and bf16.

    python -m benchmarks.encoders                     # a ViT-B/32 with a 4-layer text tower and random weights
    python -m benchmarks.encoders --patch-size 16 --tokens 8 --name encoders_b16
    python -m benchmarks.encoders --shared-machine    # keep the ratios only: the machine has other work

Everything that is compared runs in turn, round by round, in one process, and its vectors are compared first: a backend
whose smallest cosine to torch in float32 is below 0.999 gets no number. A ratio is torch's time through a backend's,
above 1 where the backend is quicker; its median over the rounds counts, and the smallest and largest are kept. The
same is told of processor time (of all threads, waiting in a loop for one another included), which other work on the
machine disturbs less.

`padded` texts take all 77 positions, as a plain use of open_clip does; all others are cut to their own length.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.reference_model import write_reference_model
from benchmarks.results import spread, write_result
from structxlip.backends import openvino_cpu
from structxlip.backends.agreement import drawn_pictures
from structxlip.backends.eager import torch_towers
from structxlip.backends.towers import EdgesAsPictures, Precision, Towers
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_plain_model

BASELINE = "torch_f32"
MIN_COSINE = 0.999
# Of calls to one way of running a model, before the next has its turn.
LEAST_SECONDS = 0.3
END_TOKEN = 49407


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an open_clip model; default: a ViT-B/32 with random weights")
    parser.add_argument("--patch-size", type=int, default=32, help="of the default model")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 20, 77])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shared-machine", action="store_true", help="keep ratios only, no absolute times")
    parser.add_argument("--name", default="encoders")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_reference_model(Path(folder) / "model", patch_size=arguments.patch_size)
        figures = measure(model, arguments.batch_sizes, arguments.tokens, arguments.rounds)
    if arguments.shared_machine:
        figures = {"shared_machine": True, **_without(figures, "milliseconds")}
    noted = vars(arguments) | {"model": arguments.model or f"random ViT-B-{arguments.patch_size}, 4-layer text tower"}
    write_result(arguments.name, figures, arguments=noted)


def measure(model: str, batch_sizes: Sequence[int], token_counts: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return milliseconds and ratios of pictures, of both views with either edge branch, and of texts."""
    torch.manual_seed(0)
    encoder = load_plain_model(model, edge_branch=EdgeBranchConfig("cnn"), device="cpu")
    backends = towers_of(encoder)
    pictures, texts = _pictures(encoder, max(batch_sizes)), _texts(max(batch_sizes), token_counts)
    cosines = _cosines(backends, pictures, texts)
    kept = {name: towers for name, towers in backends.items() if min(cosines[name].values()) >= MIN_COSINE}
    return {
        "threads": torch.get_num_threads(),
        "smallest_cosine": cosines,
        "pictures": {
            f"batch {size}": _compare(
                rounds, {name: _one_view(towers, pictures, size) for name, towers in kept.items()}
            )
            for size in batch_sizes
        },
        "both_views_cnn": {
            f"batch {size}": _compare(
                rounds, {name: _two_views(towers, pictures, size) for name, towers in kept.items()}
            )
            for size in batch_sizes
        },
        "both_views_shared": {
            f"batch {size}": _compare(
                rounds, {name: _two_views(_sharing(towers), pictures, size) for name, towers in kept.items()}
            )
            for size in batch_sizes
        },
        "texts": {
            f"batch {size}, {tokens.shape[1]} tokens": _compare(
                rounds,
                {f"{BASELINE}_padded": _embed(kept[BASELINE].tokens, _padded(tokens[:size], encoder.context_length))}
                | {name: _embed(towers.tokens, tokens[:size]) for name, towers in kept.items()},
                baseline=f"{BASELINE}_padded",
            )
            for size in batch_sizes
            for tokens in texts
        },
    }


def towers_of(encoder: TwoViewEncoder) -> dict[str, Towers]:
    """Return every way to run the model here; none is refused, so that all are measured."""
    models = openvino_cpu.convert(encoder)

    def on_openvino(precision: Precision) -> Towers:
        towers = {name: openvino_cpu.OpenVinoTower(model, precision=precision) for name, model in models.items()}
        return Towers(**towers, spare_tokens=openvino_cpu.SPARE_TOKENS)

    found = {BASELINE: torch_towers(encoder), "openvino_f32": on_openvino("f32")}
    if openvino_cpu.supports_bf16():
        found["openvino_bf16"] = on_openvino("bf16")
    return found


def _pictures(encoder: TwoViewEncoder, num: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    prepared = [encoder.prepare_image(rgb) for rgb in drawn_pictures(num)]
    return np.stack([image.rgb for image in prepared]), np.stack([image.edges for image in prepared])


def _texts(num: int, token_counts: Sequence[int]) -> list[NDArray[np.int64]]:
    chance = np.random.default_rng(0)
    texts = [chance.integers(300, 40_000, size=(num, count)) for count in token_counts]
    for tokens in texts:
        tokens[:, 0], tokens[:, -1] = END_TOKEN - 1, END_TOKEN
    return texts


def _padded(tokens: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    return np.pad(tokens, ((0, 0), (0, length - tokens.shape[1])))


def _cosines(
    backends: Mapping[str, Towers],
    pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    texts: Sequence[NDArray[np.int64]],
) -> dict[str, dict[str, float]]:
    inputs = {"images": pictures[0][:8], "edges": pictures[1][:8], "tokens": texts[-1][:8]}
    expected = {name: tower(inputs[name]) for name, tower in backends[BASELINE]}
    return {
        backend: {
            name: round(float(np.einsum("nd,nd->n", tower(inputs[name]), expected[name]).min()), 6)
            for name, tower in towers
        }
        for backend, towers in backends.items()
    }


def _one_view(towers: Towers, pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]], size: int) -> Callable[[], object]:
    return _embed(towers.images, pictures[0][:size])


def _two_views(
    towers: Towers, pictures: tuple[NDArray[np.uint8], NDArray[np.uint8]], size: int
) -> Callable[[], object]:
    return lambda: (towers.images(pictures[0][:size]), towers.edges(pictures[1][:size]))


def _sharing(towers: Towers) -> Towers:
    return Towers(towers.images, EdgesAsPictures(towers.images), towers.tokens, towers.spare_tokens)


def _embed(tower: Callable[[NDArray[Any]], object], items: NDArray[Any]) -> Callable[[], object]:
    return lambda: tower(items)


def _compare(
    rounds: int, works: Mapping[str, Callable[[], object]], *, baseline: str = BASELINE
) -> dict[str, dict[str, Any]]:
    """Time everything in turn, a moment each, after one unmeasured run."""
    for work in works.values():
        work()
    wall: dict[str, list[float]] = {name: [] for name in works}
    processor: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            elapsed, used = _a_call(work)
            wall[name].append(elapsed)
            processor[name].append(used)
    return {
        "milliseconds": {name: round(statistics.median(taken) * 1000, 3) for name, taken in wall.items()},
        f"times_as_fast_as_{baseline}": _ratios(wall, baseline),
        f"processor_time_of_{baseline}": _ratios(processor, baseline),
    }


def _a_call(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call, and of the processor, over as many calls as take a moment.

    The first of them meets caches that the work before has filled, and threads of it that still spin.
    """
    started, used, num_calls = time.perf_counter(), time.process_time(), 0
    while not num_calls or time.perf_counter() - started < LEAST_SECONDS:
        work()
        num_calls += 1
    return (time.perf_counter() - started) / num_calls, (time.process_time() - used) / num_calls


def _ratios(seconds: Mapping[str, Sequence[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Return the baseline's seconds through each other's, round by round."""
    found = {}
    for name, taken in seconds.items():
        if name != baseline:
            ratios = [base / own for base, own in zip(seconds[baseline], taken, strict=True)]
            found[name] = spread(ratios, digits=2)
    return found


def _without(figures: Any, key: str) -> Any:
    if not isinstance(figures, dict):
        return figures
    return {name: _without(value, key) for name, value in figures.items() if name != key}


if __name__ == "__main__":
    main()
