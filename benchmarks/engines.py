"""Our approximate engines against FAISS tuned by hand, over the same vectors and queries.

    python -m benchmarks.engines --num 100000

Stored vectors are real ones, perturbed: rendered scenes embedded by the packaged model (or the pictures of a folder by
another one), turned into `--width` dimensions a view; each stored vector lies between two of them with noise added.
Queries are perturbed in the same way, are stored nowhere, and ask with structure weights 0, 0.5 and 1.

Ours is what a collection on disk runs: an engine made and tuned by it (which never sees these queries), more candidates
than wanted, exact scores of them, and their order; only the records are not read. FAISS is bare: each index type with
every parameter, graphs also with three times as much care in building, the fastest that reaches the recall on these
very queries, with each of the three weights. `ours_…_by_hand` is ours tuned in that way too: on these very queries,
just to the recall. All answer one query at a time with the same threads, in alternation, each with a pass that does not
count before the one that does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.page_parts import BY_HAND
from benchmarks.results import alternate, write_result
from benchmarks.stored_vectors import engines_over, unit
from index.catalogue import Matrix, Numbers
from index.effort import STRUCTURE_WEIGHTS, Effort
from index.engine_tuning import NUM_NEIGHBOURS, Ladder, efforts_of, ladders_of, recall, tenth_scores, tune_with
from index.live_index import View
from index.local import LocalCollection
from index.search import SearchRequest, rank_among

# A graph's efConstruction after the colon; FAISS has 40 by itself.
THEIRS = (
    "IVF{lists},Flat",
    "IVF{lists},SQ8",
    "IVF{lists},PQ{half}x4fs,RFlat",
    "IVF{lists}_HNSW32,PQ{half}x4fs,RFlat",
    "IVF{many}_HNSW32,PQ{half}x4fs,RFlat",
    "IVF{lists}(PQ{quarter}x4fs,RFlat),PQ{half}x4fs,RFlat",
    "IVF{many}(PQ{quarter}x4fs,RFlat),PQ{half}x4fs,RFlat",
    "HNSW32,Flat",
    "HNSW32,Flat:120",
)
OURS = ("ivf_sq8", "ivf_pq", "ivf_pq4", "hnsw")
_BATCH = 8192
# Where a curve may end.
_ENOUGH = 0.995
Search = Callable[[NDArray[np.float32]], Numbers]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256, help="dimensions of a view")
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--pictures", type=Path, help="a folder of pictures to embed; default: rendered scenes")
    parser.add_argument("--num-real", type=int, default=2000, help="vectors that the others are made of")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--ours", nargs="+", default=OURS, choices=OURS)
    parser.add_argument("--faiss", nargs="+", default=THEIRS)
    parser.add_argument("--name", default="engines")
    arguments = parser.parse_args()
    real = real_vectors(arguments.model, arguments.pictures, arguments.num_real)
    figures = measure(
        real,
        num=arguments.num,
        width=arguments.width,
        num_queries=arguments.queries,
        rounds=arguments.rounds,
        target=arguments.recall,
        ours=arguments.ours,
        theirs=arguments.faiss,
    )
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(
    real: Matrix,
    *,
    num: int,
    width: int,
    num_queries: int,
    rounds: int,
    target: float,
    ours: Sequence[str],
    theirs: Sequence[str],
) -> dict[str, Any]:
    """Return queries a second, recall and building time of each contestant, and what an exact scan does."""
    stored = perturbed(real, num, width, seed=1)
    asked = perturbed(real, num_queries, width, seed=2)
    queries = np.concatenate([weighted(asked, weight) for weight in STRUCTURE_WEIGHTS])
    trial = _Trial(Rows(stored), queries, tenth_scores(queries, Rows(stored)), target)
    exact = faiss.IndexFlatIP(stored.shape[1])
    exact.add(stored)
    contestants = {"exact": _Contestant(_bare(exact), seconds=0.0, parameters={}, curve=[])}
    with engines_over(stored, [{}] * num, ours, target) as collections, ExitStack() as stack:
        for kind, (collection, seconds) in collections.items():
            view = stack.enter_context(collection._live.view())  # once: nothing changes meanwhile
            contestants |= _ours(f"ours_{kind}", collection, view, seconds, trial)
        for spec in theirs:
            name = spec.format(lists=num_lists(num), many=2 * num_lists(num), half=width, quarter=width // 2)
            contestants[f"faiss_{name}"] = _tuned_by_hand(name, trial)
        rates = alternate(
            rounds,
            **{
                name: lambda contestant=each: rate_in_use(contestant.search, queries)
                for name, each in contestants.items()
            },
        )
        recalls = {name: _recalls(each.search, trial) for name, each in contestants.items()}
    figures = {
        name: {
            "queries_a_second": round(float(np.median(rates[name])), 1),
            "rounds": [round(rate, 1) for rate in rates[name]],
            "recall_at_10": {
                "all": round(float(np.mean(recalls[name])), 4),
                **{
                    f"weight {weight}": round(value, 4)
                    for weight, value in zip(STRUCTURE_WEIGHTS, recalls[name], strict=True)
                },
            },
            "build_seconds": round(each.seconds, 1),
            "parameters": each.parameters,
            "curve": each.curve,
        }
        for name, each in contestants.items()
    }
    return {"threads": faiss.omp_get_max_threads(), "width": stored.shape[1], "num": num, "contestants": figures}


def real_vectors(model: str, pictures: Path | None, num: int) -> Matrix:
    """Embed pictures with both views; shape ``(num, 2 D)``."""
    from PIL import Image

    from structxlip.backends.selection import Execution
    from structxlip.models import load_encoder
    from training.scenes.dataset import SceneDataset

    encoder = load_encoder(model, device="cpu", execution=Execution("auto"))
    if pictures is None:
        scenes = SceneDataset("test", num)
        arrays: Iterator[NDArray[np.uint8]] = (scenes[index].rgb for index in range(num))
    else:
        paths = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in {".jpg", ".png"})[:num]
        arrays = (np.asarray(Image.open(path).convert("RGB")) for path in paths)
    rows: list[Matrix] = []
    batch = []
    for array in arrays:
        batch.append(encoder.prepare_image(array))
        if len(batch) == 32:
            rows.append(_pairs(encoder.encode_images(batch)))
            batch = []
    if batch:
        rows.append(_pairs(encoder.encode_images(batch)))
    return np.concatenate(rows)


def perturbed(real: Matrix, num: int, width: int, seed: int) -> Matrix:
    """Return rows between two real ones, turned into ``width`` dimensions a view, with noise; ``(num, 2 width)``."""
    chance = np.random.default_rng(seed)
    halves = np.split(real, 2, axis=1)
    depth = halves[0].shape[1]
    # The same turn for stored vectors and queries: from a seed of its own.
    turns = [np.linalg.qr(np.random.default_rng(view).standard_normal((max(width, depth),) * 2))[0] for view in (0, 1)]
    rows = np.empty((num, 2 * width), dtype=np.float32)
    for start in range(0, num, _BATCH):
        size = min(_BATCH, num - start)
        first, second = (chance.integers(0, len(real), size) for _ in range(2))
        share = chance.uniform(0.5, 1, (size, 1))
        for view, (half, turn) in enumerate(zip(halves, turns, strict=True)):
            mixed = unit(share * half[first] + (1 - share) * half[second]) @ turn[:depth, :width]
            noise = unit(chance.standard_normal((size, width)))
            rows[start : start + size, view * width : (view + 1) * width] = unit(mixed + 0.3 * noise)
    return rows


@dataclass(frozen=True, slots=True)
class _Trial:
    source: Rows
    queries: Matrix
    tenths: NDArray[np.float32]
    target: float

    def point(self, search: Search, value: object) -> dict[str, Any]:
        """Measure one setting: a point of the curve of recall and speed."""
        by_weight = _recalls(search, self)
        return {
            "setting": value,
            "recall_at_10": round(float(np.mean(by_weight)), 4),
            "lowest_recall_at_10": round(min(by_weight), 4),
            "queries_a_second": round(_queries_a_second(search, self.queries), 1),
        }


@dataclass(frozen=True, slots=True)
class _Contestant:
    search: Search
    seconds: float
    parameters: Mapping[str, float | list[int]]
    curve: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Vectors in memory as a source for `index`."""

    rows: Matrix

    def numbers(self) -> Numbers:
        return np.arange(len(self.rows), dtype=np.int64)

    def pairs(self, numbers: list[int]) -> tuple[Numbers, Matrix]:
        wanted = np.array(numbers, dtype=np.int64)
        return wanted, self.rows[wanted]

    def all_pairs(self) -> Iterator[tuple[Numbers, Matrix]]:
        for start in range(0, len(self.rows), _BATCH):
            part = self.rows[start : start + _BATCH]
            yield np.arange(start, start + len(part), dtype=np.int64), part


def _ours(name: str, collection: LocalCollection, view: View, seconds: float, trial: _Trial) -> dict[str, _Contestant]:
    """Return ours as it tuned itself, with its curve, and tuned by hand."""
    engine, ladders = view.engine, ladders_of(view.engine)
    itself = efforts_of(engine, ladders)
    curve = []
    for value in ladders[0].values:
        search = _searching(collection, view, {**itself, ladders[0]: Effort.even(value)})
        curve.append(trial.point(search, value))
        if curve[-1]["lowest_recall_at_10"] > _ENOUGH and value >= itself[ladders[0]].largest:
            break
    tune_with(engine, trial.queries, trial.tenths, view.reader, target=trial.target, over_fetch=None)
    by_hand = efforts_of(engine, ladders)
    return {
        name: _Contestant(_searching(collection, view, itself), seconds, _told(itself), curve),
        name + BY_HAND: _Contestant(_searching(collection, view, by_hand), seconds, _told(by_hand), []),
    }


def _searching(collection: LocalCollection, view: View, settings: Mapping[Ladder, Effort]) -> Search:
    engine = view.engine

    def search(query: NDArray[np.float32]) -> Numbers:
        for ladder, effort in settings.items():
            ladder.set_on(engine, effort)
        request = SearchRequest(query, NUM_NEIGHBOURS, None, None, None)
        ranked = rank_among(None, request, engine, view.reader, collection._policy)
        return ranked.numbers - 1  # FAISS begins at 0

    return search


def _told(settings: Mapping[Ladder, Effort]) -> dict[str, list[int]]:
    return {ladder.name: list(effort.values) for ladder, effort in settings.items()}


def _bare(index: Any) -> Search:
    def search(query: NDArray[np.float32]) -> Numbers:
        found: Numbers = index.search(query[None], NUM_NEIGHBOURS)[1][0]
        return found

    return search


def _tuned_by_hand(spec: str, trial: _Trial) -> _Contestant:
    stored = trial.source.rows
    started = time.perf_counter()
    index = filled_index(spec, stored)
    seconds = time.perf_counter() - started
    space = faiss.ParameterSpace()
    curve = []
    for setting in faiss_settings(spec):
        space.set_index_parameters(index, setting)
        curve.append(trial.point(_bare(index), setting))
        if curve[-1]["lowest_recall_at_10"] > _ENOUGH and "," not in setting:
            break
    enough = [point for point in curve if point["lowest_recall_at_10"] >= trial.target]
    best = max(enough, key=lambda point: float(point["queries_a_second"])) if enough else curve[-1]
    setting = str(best["setting"])
    space.set_index_parameters(index, setting)
    parameters = {name: float(value) for name, _, value in (part.partition("=") for part in setting.split(","))}
    return _Contestant(_bare(index), seconds, parameters, curve)


def filled_index(spec: str, stored: Matrix) -> Any:
    """Return a FAISS index of these, of a kind as in `THEIRS` with numbers in it."""
    kind, _, care = spec.partition(":")
    index = faiss.index_factory(stored.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    if care:
        index.hnsw.efConstruction = int(care)
    sample = np.random.default_rng(0).choice(len(stored), size=min(len(stored), 200_000), replace=False)
    index.train(stored[np.sort(sample)])
    index.add(stored)
    return index


def faiss_settings(spec: str) -> list[str]:
    """List the parameters to try: a fine ladder, cheapest first; more of them where a second stage refines.

    A graph of centres misses the nearest ones of some queries altogether with the 16 places that FAISS looks at by
    itself; codes of centres are ranked by the centres themselves.
    """
    if spec.startswith("HNSW"):
        values = (10, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512)
        return [f"efSearch={value}" for value in values]
    probes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    if "RFlat" in spec:
        settings = [f"nprobe={probe},k_factor_rf={factor}" for probe in probes for factor in (2, 4, 8, 16, 32, 64)]
        if "_HNSW" in spec:
            return [f"{each},quantizer_efSearch={places}" for each in settings for places in (16, 48, 128)]
        if "(" in spec:
            return [f"{each},quantizer_k_factor_rf={factor}" for each in settings for factor in (2, 4, 8)]
        return settings
    return [f"nprobe={probe}" for probe in probes]


def num_lists(num: int) -> int:
    """Return the power of two next to ``4 sqrt(num)``, as FAISS's own guide has it."""
    return int(2 ** round(np.log2(max(1.0, min(4 * num**0.5, num / 39)))))


def rate_in_use(search: Search, queries: Matrix) -> float:
    """Return the rate of a second pass: memory that was left alone for minutes is slow to read the first time."""
    _queries_a_second(search, queries)
    return _queries_a_second(search, queries)


def _queries_a_second(search: Search, queries: Matrix) -> float:
    started = time.perf_counter()
    for query in queries:
        search(query)
    return len(queries) / (time.perf_counter() - started)


def _recalls(search: Search, trial: _Trial) -> list[float]:
    """Return the recall of each structure weight."""
    found = [search(query) for query in trial.queries]
    parts = np.split(np.arange(len(found)), len(STRUCTURE_WEIGHTS))
    return [
        recall(trial.queries[part], trial.tenths[part], [found[row][found[row] >= 0] for row in part], trial.source)
        for part in parts
    ]


def weighted(rows: Matrix, weight: float) -> Matrix:
    half = rows.shape[-1] // 2
    return rows * np.repeat([1 - weight, weight], half).astype(np.float32)


def _pairs(rows: Any) -> Matrix:
    return np.concatenate([rows.appearance, rows.structure], axis=1)


if __name__ == "__main__":
    main()
