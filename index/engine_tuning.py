"""How much of the true neighbours an engine finds, and the cheapest parameters that find enough.

Queries lie near stored vectors, and are weighted the way searches weight them: ``[(1 - w) v ; w e]`` for w in
{0, 0.5, 1}; each weight has parameters of its own, and shall find enough with them. A stored vector itself would be too
easy: the engine has put it into the middle of what is to be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Matrix, Numbers
from index.effort import STRUCTURE_WEIGHTS, Effort
from index.engine import Engine, EngineKind
from index.engine_building import VectorSource

NUM_NEIGHBOURS = 10
_TOLERANCE = 1e-5
_SLACK = 16
# Towards another stored vector, and as far to where none lies: words and sketches do not lie among pictures.
_MOVED_BY = 0.25
# A graph finds what lies near stored vectors more easily than anything else: it is asked from further away.
_MOVED_BY_FOR_A_GRAPH = 0.5
# Recalls that are no different, by the number of queries they are measured with.
_ALIKE = 0.005


def mixed_queries(source: VectorSource, num_stored: int, seed: int, *, moved_by: float = _MOVED_BY) -> Matrix:
    """Return three queries near each of some stored vectors, drawn at random; shape ``(3 num_stored, 2 D)``."""
    numbers, chance = source.numbers(), np.random.default_rng(seed)
    chosen = chance.choice(numbers, size=min(num_stored, len(numbers)), replace=False)
    pairs = source.pairs(np.sort(chosen).tolist())[1]
    half = pairs.shape[1] // 2
    views = (pairs + moved_by * chance.permutation(pairs)).reshape(len(pairs), 2, half)
    aside = _of_length_one(chance.standard_normal(views.shape))
    pairs = _of_length_one(views + moved_by * aside).reshape(pairs.shape).astype(np.float32)
    scales = [np.repeat([1 - w, w], half).astype(np.float32) for w in STRUCTURE_WEIGHTS]
    return np.concatenate([pairs * scale for scale in scales])


def _of_length_one(rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def tenth_scores(queries: Matrix, source: VectorSource) -> NDArray[np.float32]:
    """Return, for each query, the score of its tenth best stored vector (its worst one, when there are fewer)."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    for _, pairs in source.all_pairs():
        best = np.concatenate([best, queries @ pairs.T], axis=1)
        if best.shape[1] > NUM_NEIGHBOURS:
            best = -np.partition(-best, NUM_NEIGHBOURS - 1, axis=1)[:, :NUM_NEIGHBOURS]
    lowest: NDArray[np.float32] = best.min(axis=1)
    return lowest


def recall(queries: Matrix, tenths: NDArray[np.float32], candidates: Sequence[Numbers], source: VectorSource) -> float:
    """Return recall@10 after exact re-scoring: the share of the 10 best that are among an engine's candidates.

    By score rather than by identity, since pictures of the same content tie.

    Args:
        queries: Shape ``(Q, 2 D)``.
        tenths: From `tenth_scores`.
        candidates: What the engine found for each query.
        source: Has their vectors.

    Returns:
        0 to 1, averaged over the queries; 1 when there is nothing to find.
    """
    num_true = min(NUM_NEIGHBOURS, len(source.numbers()))
    if num_true == 0 or not len(queries):
        return 1.0
    num_found = 0
    for query, tenth, numbers in zip(queries, tenths, candidates, strict=True):
        scores = source.pairs(numbers.tolist())[1] @ query
        num_found += min(num_true, int((scores >= tenth - _TOLERANCE).sum()))
    return num_found / (num_true * len(queries))


def lowest_recall(
    queries: Matrix, tenths: NDArray[np.float32], candidates: Sequence[Numbers], source: VectorSource
) -> float:
    """Return the recall of the structure weight that fares worst, of queries from `mixed_queries`; see `recall`."""
    size = len(queries) // len(STRUCTURE_WEIGHTS)
    parts = [part_of(queries, place) for place in range(len(STRUCTURE_WEIGHTS) if size else 0)]
    return min((recall(queries[part], tenths[part], candidates[part], source) for part in parts), default=1.0)


def part_of(queries: Matrix, place: int) -> slice:
    """Return where the queries of one structure weight stand among those from `mixed_queries`."""
    size = len(queries) // len(STRUCTURE_WEIGHTS)
    return slice(place * size, (place + 1) * size)


def find_candidates(engine: Engine, queries: Matrix, over_fetch: int | None) -> list[Numbers]:
    """Search the way a page of ten does: for more than wanted."""
    k = (over_fetch or engine.over_fetch) * NUM_NEIGHBOURS + _SLACK
    return [engine.search(np.ascontiguousarray(query), k).numbers for query in queries]


def tune(
    engine: Engine, source: VectorSource, *, target: float, num_stored: int, over_fetch: int | None, seed: int = 0
) -> float:
    """Set the cheapest parameters whose recall reaches the target, for each structure weight.

    Where none do, because what the engine keeps of a vector is too coarse, the cheapest ones that come about as near
    as any.

    Returns:
        The recall that was reached, with the structure weight that fares worst.
    """
    if len(engine) == 0:
        return 1.0
    moved_by = _MOVED_BY_FOR_A_GRAPH if engine.kind is EngineKind.HNSW else _MOVED_BY
    queries = mixed_queries(source, num_stored, seed, moved_by=moved_by)
    tenths = tenth_scores(queries, source)
    return tune_with(engine, queries, tenths, source, target=_beyond_chance(target, num_stored), over_fetch=over_fetch)


def _beyond_chance(target: float, num_queries: int) -> float:
    """Return what these queries must show so that others come to the target too: a standard error more."""
    if target >= 1:
        return target
    return min(1.0, target + math.sqrt(target * (1 - target) / (NUM_NEIGHBOURS * num_queries)))


def tune_with(
    engine: Engine,
    queries: Matrix,
    tenths: NDArray[np.float32],
    source: VectorSource,
    *,
    target: float,
    over_fetch: int | None,
) -> float:
    """Do what `tune` does, with these queries: as many of each structure weight, one weight after the other."""
    ladders = ladders_of(engine)
    for other in ladders[1:]:
        other.set_on(engine, Effort.even(other.values[-1]))
    lowest = 1.0
    for place in range(len(STRUCTURE_WEIGHTS)):
        part = part_of(queries, place)
        reached = 0.0
        for ladder in ladders:

            def measure(value: int, ladder: Ladder = ladder, place: int = place, part: slice = part) -> float:
                ladder.set_place(engine, place, value)
                found = find_candidates(engine, queries[part], over_fetch)
                return recall(queries[part], tenths[part], found, source)

            chosen, reached = cheapest_enough(ladder.values or (0,), measure, min(target, reached or target))
            ladder.set_place(engine, place, chosen)
        lowest = min(lowest, reached)
    return lowest


def cheapest_enough(values: Sequence[int], measure: Callable[[int], float], target: float) -> tuple[int, float]:
    """Return the first value whose recall reaches the target, else the first about as near as any; and its recall."""
    reached: dict[int, float] = {}
    for value in values:
        reached[value] = measure(value)
        if reached[value] >= target:
            return value, reached[value]
    chosen = next(value for value in values if reached[value] >= max(reached.values()) - _ALIKE)
    return chosen, reached[chosen]


@dataclass(frozen=True, slots=True)
class Ladder:
    """The values of the parameter that trades time for recall, cheapest first; an exact engine has none."""

    name: str = ""
    values: tuple[int, ...] = ()

    def set_on(self, engine: Engine, effort: Effort) -> None:
        """Set the parameter; an engine may answer searches meanwhile."""
        if self.name:
            setattr(engine, self.name, effort)

    def set_place(self, engine: Engine, place: int, value: int) -> None:
        """Set it for one of the structure weights."""
        if self.name:
            setattr(engine, self.name, self.of(engine).replaced(place, value))

    def of(self, engine: Engine) -> Effort:
        """Return what an approximate engine has."""
        effort: Effort = getattr(engine, self.name)
        return effort

    def from_now(self, engine: Engine, place: int) -> tuple[int, ...]:
        """Return what a structure weight has now, and the values that look further."""
        now = self.of(engine).values[place]
        return now, *(value for value in self.values if value > now)


def ladders_of(engine: Engine) -> tuple[Ladder, ...]:
    """Return what there is to tune about an engine: first how far it looks, then how closely."""
    match engine.kind:
        case EngineKind.HNSW:
            return (Ladder("ef_search", _steps(16, 2048)),)
        case EngineKind.IVF_SQ8 | EngineKind.IVF_PQ | EngineKind.GPU_IVF_SQ8:
            return (Ladder("nprobe", _steps(1, int(engine.parameters["nlist"]))),)
        case EngineKind.IVF_PQ4:
            return Ladder("nprobe", _steps(1, int(engine.parameters["nlist"]))), Ladder("refine", _steps(1, 32))
        case _:
            return (Ladder(),)


def ladder_of(engine: Engine) -> Ladder:
    """Return how far an engine can look."""
    return ladders_of(engine)[0]


def _steps(first: int, last: int) -> tuple[int, ...]:
    """Go from the first value to the last in steps of about 1.2: what lies beyond the target costs every search."""
    num_steps = math.ceil(4 * math.log2(last / first)) if last > first else 0
    return tuple(sorted({min(last, round(first * 2 ** (step / 4))) for step in range(num_steps + 1)}))
