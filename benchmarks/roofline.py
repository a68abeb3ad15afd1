"""How near the machine's limits the image tower and the flat search come.

    python -m benchmarks.roofline

The limits are measured, not read from a data sheet: the rate of matrix products (torch and OpenVINO, float32 and bf16,
large squares and the shapes of a ViT-B/32 at batch 32) and how fast both cores read memory. The limit of a precision
is the best rate of any of these products by either library. Then the tower's forward and the scan of a flat index as
shares of them. A tower's work counts 2 operations a multiply-add of its matrix products; all else it does counts
nothing, so what is missing to the limit is that, and products of small or narrow shapes. All times are the best of
several rounds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.encoders import towers_of
from benchmarks.reference_model import write_reference_model
from benchmarks.results import write_result
from index.engine import VectorTable
from index.engine_flat import FlatEngine
from structxlip.backends import openvino_cpu
from structxlip.backends.agreement import drawn_pictures
from structxlip.backends.eager import torch_towers
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_plain_model

TOKENS, WIDTH, DEPTH, PATCH = 50, 768, 12, 32
SQUARES = (1024, 2048, 4096)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--squares", type=int, nargs="+", default=SQUARES)
    parser.add_argument("--num", type=int, default=100_000, help="vectors of the flat index")
    parser.add_argument("--width", type=int, default=512, help="numbers in each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default="roofline")
    arguments = parser.parse_args()
    figures = measure(
        squares=arguments.squares,
        batch=arguments.batch,
        num=arguments.num,
        width=arguments.width,
        rounds=arguments.rounds,
    )
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(
    *, squares: Sequence[int] = SQUARES, batch: int = 32, num: int = 100_000, width: int = 512, rounds: int = 9
) -> dict[str, Any]:
    """Return the limits, and the tower and the scan as shares of them."""
    products = measure_products(squares, batch, rounds)
    with tempfile.TemporaryDirectory() as folder:
        model = write_reference_model(Path(folder) / "model")
        encoder = load_plain_model(model, edge_branch=EdgeBranchConfig("cnn"), device="cpu")
        tower = measure_tower(encoder, batch, rounds, products)
    return {
        "threads": torch.get_num_threads(),
        "products": products,
        "tower": tower,
        "scan": measure_scan(num, width, rounds),
    }


def measure_products(squares: Sequence[int], batch: int, rounds: int) -> dict[str, Any]:
    """Return GFLOP/s of ``(M, K) @ (K, N)`` by library, precision and shape, and the limit of each precision."""
    rows = batch * TOKENS
    shapes = {f"square {side}": (side, side, side) for side in squares} | {
        "queries, keys, values": (rows, WIDTH, 3 * WIDTH),
        "attention's output": (rows, WIDTH, WIDTH),
        "perceptron, in": (rows, WIDTH, 4 * WIDTH),
        "perceptron, out": (rows, 4 * WIDTH, WIDTH),
    }
    rates: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for precision in ("f32", "bf16") if openvino_cpu.supports_bf16() else ("f32",):
        for name, shape in shapes.items():
            operations = 2 * shape[0] * shape[1] * shape[2]
            rates[precision][name] = {
                library: round(operations / _best_seconds(work, rounds) / 1e9, 1)
                for library, work in _products(shape, precision).items()
            }
    limits = {precision: max(max(each.values()) for each in found.values()) for precision, found in rates.items()}
    return {"gflops_a_second": dict(rates), "limits": limits}


def measure_tower(encoder: TwoViewEncoder, batch: int, rounds: int, products: dict[str, Any]) -> dict[str, Any]:
    """Return the image tower's rate as a share of the limit, and where its time goes."""
    items = np.stack([encoder.prepare_image(rgb).rgb for rgb in drawn_pictures(batch)])
    operations = batch * operations_a_picture(encoder.image_size, encoder.dimension)
    towers = {name: each.images for name, each in towers_of(encoder).items()}
    if openvino_cpu.supports_bf16():
        towers["torch_bf16"] = torch_towers(encoder, precision="bf16").images
    taken: dict[str, list[float]] = defaultdict(list)
    for tower in towers.values():
        tower(items)
    for _ in range(rounds):
        for name, tower in towers.items():
            taken[name].append(_seconds(lambda tower=tower: tower(items)))
    found = {}
    for name, seconds in taken.items():
        rate = operations / min(seconds) / 1e9
        found[name] = {
            "milliseconds": round(min(seconds) * 1000, 2),
            "gflops_a_second": round(rate, 1),
            "share_of_limit": round(rate / products["limits"][name.rpartition("_")[2]], 3),
        }
    models = openvino_cpu.convert(encoder)
    for name in [name for name in found if name.startswith("openvino")]:
        found[name]["share_of_time"] = _profile(models["images"], name.rpartition("_")[2], items)
    return {"batch": batch, "gflop_a_picture": round(operations / batch / 1e9, 3), "backends": found}


def operations_a_picture(side: int, dimension: int) -> int:
    """Return the operations of a ViT-B/32's matrix products on one picture, 2 for each multiply-add."""
    patches = (side // PATCH) ** 2
    tokens = patches + 1
    block = 12 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH  # four projections and a perceptron; scores and their use
    return 2 * (patches * 3 * PATCH**2 * WIDTH + DEPTH * block + WIDTH * dimension)


def measure_scan(num: int, width: int, rounds: int) -> dict[str, Any]:
    """Return GB/s of reading memory, and of scanning vectors for one query and for several at once."""
    chance = np.random.default_rng(0)
    rows = chance.standard_normal((num, width), dtype=np.float32)
    queries = chance.standard_normal((64, width), dtype=np.float32)
    flat = faiss.IndexFlatIP(width)
    flat.add(rows)
    table = VectorTable.of(np.arange(num, dtype=np.int64), rows)
    engine = FlatEngine(table)
    blocks = [torch.from_numpy(part) for part in np.array_split(rows, 2)]
    with ThreadPoolExecutor(2) as pool:
        reads: dict[str, Callable[[], object]] = {
            "one core": lambda: _read(torch.from_numpy(rows)),
            "both cores": lambda: list(pool.map(_read, blocks)),
            "a product by torch": lambda: torch.mv(torch.from_numpy(rows), torch.from_numpy(queries[0])),
        }
        bandwidth = {name: rows.nbytes / _best_seconds(read, rounds) / 1e9 for name, read in reads.items()}
        both_engines = _seconds_of_two(engine, queries, pool, rounds)
    scans: dict[str, tuple[int, Callable[[], object]]] = {
        "FAISS, 1 query": (1, lambda: flat.search(queries[:1], 10)),
        "ours, 1 query": (1, lambda: engine.search(queries[0], 37)),
        **{
            f"FAISS, {size} queries at once": (size, lambda size=size: flat.search(queries[:size], 10))
            for size in (2, 8, 32, 64)
        },
    }
    limit = max(bandwidth["both cores"], bandwidth["one core"])
    found = {}
    for name, (size, work) in scans.items():
        seconds = _best_seconds(work, rounds)
        found[name] = {
            "milliseconds": round(seconds * 1000, 2),
            "queries_a_second": round(size / seconds, 1),
            "share_of_bandwidth": round(rows.nbytes / seconds / 1e9 / limit, 3),
        }
    found["ours, 2 searches side by side"] = {
        "milliseconds": round(both_engines * 1000, 2),
        "queries_a_second": round(2 / both_engines, 1),
        "share_of_bandwidth": round(2 * rows.nbytes / both_engines / 1e9 / limit, 3),
    }
    return {
        "num": num,
        "width": width,
        "megabytes": round(rows.nbytes / 1e6, 1),
        "gigabytes_a_second": {name: round(rate, 2) for name, rate in bandwidth.items()},
        "limit": round(limit, 2),
        "searches": found,
    }


def _seconds_of_two(engine: FlatEngine, queries: np.ndarray[Any, Any], pool: ThreadPoolExecutor, rounds: int) -> float:
    return _best_seconds(lambda: list(pool.map(lambda query: engine.search(query, 37), queries[:2])), rounds)


def _read(block: torch.Tensor) -> torch.Tensor:
    """Read every number once: the largest of all takes no time beside the reading."""
    return block.amax()


def _products(shape: tuple[int, int, int], precision: str) -> dict[str, Callable[[], object]]:
    import openvino
    from openvino import opset8

    m, k, n = shape
    kind = torch.float32 if precision == "f32" else torch.bfloat16
    chance = torch.Generator().manual_seed(0)
    left, right = torch.randn(m, k, generator=chance).to(kind), torch.randn(n, k, generator=chance).to(kind)
    taken = opset8.parameter([m, k], np.float32)
    weights = opset8.constant(right.float().numpy())
    model = openvino.Model([opset8.matmul(taken, weights, False, True)], [taken])
    tower = openvino_cpu.OpenVinoTower(model, precision="f32" if precision == "f32" else "bf16")
    given = left.float().numpy()
    return {"torch": lambda: torch.nn.functional.linear(left, right), "openvino": lambda: tower(given)}


def _profile(model: Any, precision: str, items: Any) -> dict[str, float]:
    """Return the share of time of each kind of operation, as OpenVINO counts it, largest first."""
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "PERF_COUNT": True,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    spent: dict[str, float] = defaultdict(float)
    for attempt in range(4):
        request.infer([items], share_inputs=True)
        for each in request.profiling_info if attempt else ():
            spent[each.node_type] += each.real_time.total_seconds()
    total = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name: round(seconds / total, 3) for name, seconds in ordered if seconds > 0.005 * total}


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _best_seconds(work: Callable[[], object], rounds: int) -> float:
    work()
    return min(_seconds(work) for _ in range(rounds))


if __name__ == "__main__":
    main()
