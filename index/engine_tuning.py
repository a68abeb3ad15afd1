"""How much of the true neighbours an engine finds, and the cheapest parameters that find enough.

Queries lie near stored vectors, and are weighted the way searches weight them: ``[(1 - w) v ; w e]`` for w in
{0, 0.5, 1}; each weight has parameters of its own, and shall find enough with them. A stored vector itself would be too
easy: the engine has put it into the middle of what is to be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.effort import STRUCTURE_WEIGHTS, TENTH, Effort
from index.engine import Engine, EngineKind
from index.engine_building import VectorSource

if TYPE_CHECKING:  # they need FAISS
    from index.engine_fast_scan import FastScanEngine
    from index.engine_gpu import GpuIvfEngine

NUM_NEIGHBOURS = 10
_TOLERANCE = 1e-5
_SLACK = 16
# Towards another stored vector, and as far to where none lies: words and sketches do not lie among pictures.
_MOVED_BY = 0.25
# A graph finds what lies near stored vectors more easily than anything else: it is asked from further away.
_MOVED_BY_FOR_A_GRAPH = 0.5
# Recalls that are no different, by the number of queries they are measured with.
_ALIKE = 0.005
_AT_ONCE = 4096
# Queries of a trial, which holds off changes: 50 ms with a filter that keeps a tenth of 200,000 vectors.
_IN_A_TRIAL = 32


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


def queries_for(engine: Engine, source: VectorSource, num_stored: int, seed: int) -> Matrix:
    """Return `mixed_queries` that are about as hard for this engine as what is searched for."""
    moved_by = _MOVED_BY_FOR_A_GRAPH if engine.kind is EngineKind.HNSW else _MOVED_BY
    return mixed_queries(source, num_stored, seed, moved_by=moved_by)


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
    num_true = NUM_NEIGHBOURS
    if max(map(len, candidates), default=0) < num_true:  # else there are as many: listing them all takes long
        num_true = min(num_true, len(source.numbers()))
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


def find_candidates(
    engine: Engine, queries: Matrix, over_fetch: int | None, allowed: Allowed | None = None
) -> list[Numbers]:
    """Search the way a page of ten does: for more than wanted.

    With a filter, find what lists of 4-bit codes do; where they give up, and score all that the filter keeps, nothing.
    """
    k = (over_fetch or engine.over_fetch) * NUM_NEIGHBOURS + _SLACK
    if allowed is None:
        return [engine.search(np.ascontiguousarray(query), k).numbers for query in queries]
    sifted = cast("FastScanEngine", engine).sifted
    found = [sifted(np.ascontiguousarray(query), k, allowed) for query in queries]
    return [np.empty(0, np.int64) if each is None else each.numbers for each in found]


@dataclass(frozen=True, slots=True)
class Trial:
    """An engine to try efforts on, and what it holds.

    Attributes:
        engine: Takes the efforts; not to be used after `release`.
        source: The same vectors, exactly.
        release: Lets changes to the engine go on, if any are held off.
    """

    engine: Engine
    source: VectorSource
    release: Callable[[], None]


# Begins a trial; one after the other, and what is stored may have changed in between.
Look = Callable[[], AbstractContextManager[Trial]]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What tuning found.

    Attributes:
        efforts: The cheapest that reach the target; ``None`` where none do, and searches do without.
        recall: What they reach with the structure weight that fares worst.
        before: What there was.
    """

    efforts: Mapping[Ladder, Effort | None]
    recall: float
    before: Mapping[Ladder, Effort | None]


def tune(
    engine: Engine, source: VectorSource, *, target: float, num_stored: int, over_fetch: int | None, seed: int = 0
) -> float:
    """Set the cheapest parameters of an engine that nobody searches yet; see `find_efforts`.

    Returns:
        The recall that was reached, with the structure weight that fares worst.
    """
    trial = Trial(engine, source, lambda: None)
    tuned = find_efforts(
        lambda: nullcontext(trial), target=target, num_stored=num_stored, over_fetch=over_fetch, seed=seed
    )
    set_efforts(engine, tuned.efforts)
    return tuned.recall


def find_efforts(look: Look, *, target: float, num_stored: int, over_fetch: int | None, seed: int = 0) -> Tuned:
    """Return the cheapest parameters whose recall reaches the target, for each structure weight, also with a filter.

    Where none do, because what the engine keeps of a vector is too coarse, the cheapest ones that come about as near
    as any; for filters none.

    Args:
        look: Begins a trial.
        target: The recall to reach.
        num_stored: Vectors near which queries lie.
        over_fetch: Candidates for each one wanted; the engine's own without it.
        seed: Of the queries.
    """
    with look() as trial:
        engine = trial.engine
        if not len(engine):
            return Tuned({}, 1.0, {})
        ladders, ladders_among_tenth = ladders_of(engine), ladders_among_tenth_of(engine)
        before = efforts_of(engine, ladders)
        before_among_tenth = {ladder: ladder.at(engine) for ladder in ladders_among_tenth}
        asked = _Asked.of(trial, num_stored, seed)
        # Fewer: each takes several times as long.
        among_tenth = _Asked.among_tenth(trial, max(1, num_stored // 2), seed) if ladders_among_tenth else None
        trial.release()
        asked.answer(trial.source)
        if among_tenth is not None:
            among_tenth.answer(trial.source)
    efforts, lowest = least_efforts(asked.measure(look, over_fetch), before, target=asked.beyond_chance(target))
    found: Mapping[Ladder, Effort | None] = dict.fromkeys(ladders_among_tenth)
    if among_tenth is not None:
        measure = among_tenth.measure(look, over_fetch, beside=efforts)
        start = {ladder: effort or ladder.most for ladder, effort in before_among_tenth.items()}
        enough = among_tenth.beyond_chance(target)
        tried, reached = least_efforts(measure, start, target=enough, is_optional=True)
        found = tried if reached >= enough else found
    return Tuned({**efforts, **found}, lowest, {**before, **before_among_tenth})


@dataclass(slots=True)
class _Asked:
    """Queries to tune by.

    Attributes:
        queries: Shape ``(3 N, 2 D)``.
        drawn: What a filter lets through, if there is one.
        tenths: From `tenth_scores`.
    """

    queries: Matrix
    drawn: Numbers | None = None
    tenths: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @staticmethod
    def of(trial: Trial, num_stored: int, seed: int) -> _Asked:
        """Ask for anything."""
        return _Asked(queries_for(trial.engine, trial.source, num_stored, seed))

    @staticmethod
    def among_tenth(trial: Trial, num_stored: int, seed: int) -> _Asked | None:
        """Ask with a filter that keeps a tenth, drawn at random; not where an engine scores so many one and all."""
        numbers = trial.source.numbers()
        drawn = np.sort(np.random.default_rng(seed).choice(numbers, size=len(numbers) // 10, replace=False))
        if trial.engine.is_exact_among(len(drawn)):
            return None
        return _Asked(queries_for(trial.engine, trial.source, num_stored, seed + 1), drawn)

    def answer(self, source: VectorSource) -> None:
        """Find what there is to find."""
        self.tenths = tenth_scores(self.queries, self._part(source))

    def beyond_chance(self, target: float) -> float:
        """Return what these must show to reach a target."""
        return beyond_chance(target, len(self.queries) // len(STRUCTURE_WEIGHTS))

    def measure(self, look: Look, over_fetch: int | None, *, beside: Efforts | None = None) -> Measure:
        """Return what measures the recall of efforts, beside others, in trials."""
        allowed = None if self.drawn is None else Allowed(self.drawn)

        def measure(tried: Efforts, place: int) -> float:
            whole, reached = part_of(self.queries, place), 0.0
            for start in range(whole.start, whole.stop, _IN_A_TRIAL):
                part = slice(start, min(start + _IN_A_TRIAL, whole.stop))
                queries, tenths = self.queries[part], self.tenths[part]
                with look() as trial:
                    set_efforts(trial.engine, {**(beside or {}), **tried})
                    candidates = find_candidates(trial.engine, queries, over_fetch, allowed)
                    trial.release()
                    reached += len(queries) * recall(queries, tenths, candidates, self._part(trial.source))
            return float(reached / (whole.stop - whole.start))

        return measure

    def _part(self, source: VectorSource) -> VectorSource:
        return source if self.drawn is None else _PartOf(source, self.drawn)


def beyond_chance(target: float, num_queries: int) -> float:
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
    """Set the parameters of an engine that decide a search without a filter by these queries.

    Args:
        engine: Whose; nobody searches it meanwhile.
        queries: Shape ``(Q, 2 D)``; as many of each structure weight, one weight after the other.
        tenths: From `tenth_scores`.
        source: Has the vectors that they are scored with.
        target: The recall to reach.
        over_fetch: Candidates for each one wanted; the engine's own without it.

    Returns:
        The recall that was reached, with the structure weight that fares worst.
    """
    trial = Trial(engine, source, lambda: None)
    measure = _Asked(queries, tenths=tenths).measure(lambda: nullcontext(trial), over_fetch)
    efforts, lowest = least_efforts(measure, efforts_of(engine, ladders_of(engine)), target=target)
    set_efforts(engine, efforts)
    return lowest


def least_efforts(
    measure: Measure, efforts: Efforts, *, target: float, is_optional: bool = False
) -> tuple[Efforts, float]:
    """Return the efforts that reach a target at the least cost, one structure weight after the other.

    Args:
        measure: Returns the recall that some efforts reach with the structure weight of that place.
        efforts: To begin with.
        target: The recall to reach.
        is_optional: Give up where the most of everything does not reach it.

    Returns:
        With them the recall of the structure weight that fares worst; 0 where it gave up.
    """
    lowest, places = 1.0, range(len(STRUCTURE_WEIGHTS))
    most = {ladder: ladder.most for ladder in efforts}
    if is_optional and any(measure(most, place) < target for place in places):
        return efforts, 0.0
    for place in places:

        def measure_values(*values: int, place: int = place, so_far: Efforts = efforts) -> float:
            return measure(_replaced(so_far, place, values), place)

        match tuple(efforts):
            case ():
                reached = measure(efforts, place)
            case (ladder,):
                value, reached = cheapest_enough(ladder.values, measure_values, target)
                efforts = _replaced(efforts, place, (value,))
            case (first, second):
                pair = _cheapest_pair(first, second, measure_values, target) or _about_as_good(
                    first, second, measure_values, target
                )
                efforts = _replaced(efforts, place, pair)
                reached = measure(efforts, place)
            case others:
                raise NotImplementedError(f"{len(others)} parameters are not tuned together")
        lowest = min(lowest, reached)
    return efforts, lowest


def _replaced(efforts: Efforts, place: int, values: Sequence[int]) -> Efforts:
    each = zip(efforts.items(), values, strict=True)
    return {ladder: effort.replaced(place, value) for (ladder, effort), value in each}


def _cheapest_pair(
    first: Ladder, second: Ladder, measure: Callable[[int, int], float], target: float
) -> tuple[int, int] | None:
    """Return the values of two parameters that reach the target at the least cost, if any do.

    The more of the first, the less of the second is enough.
    """
    most = second.values[-1]
    start = _first_enough(first.values, lambda value: measure(value, most), target)
    if start is None:
        return None
    found, least, place = (first.values[start], most), math.inf, len(second.values) - 1
    for value in first.values[start:]:
        if first.cost * value + second.cost * second.values[0] >= least:
            break
        while place >= 0 and measure(value, second.values[place]) >= target:
            found = value, second.values[place]
            least = first.cost * value + second.cost * second.values[place]
            place -= 1
    return found


def _about_as_good(
    first: Ladder, second: Ladder, measure: Callable[[int, int], float], target: float
) -> tuple[int, int]:
    """Return the least of two parameters, one after the other, that comes about as near to a target as any."""
    chosen, reached = cheapest_enough(first.values, lambda value: measure(value, second.values[-1]), target)
    return chosen, cheapest_enough(second.values, lambda value: measure(chosen, value), reached)[0]


def _first_enough(values: Sequence[int], measure: Callable[[int], float], target: float) -> int | None:
    """Return the place of the first value whose recall reaches the target, if any; recall grows with the value."""
    below, place = -1, 0
    while measure(values[place]) < target:
        if place == len(values) - 1:
            return None
        below, place = place, min(2 * place + 1, len(values) - 1)
    while place - below > 1:
        between = (below + place) // 2
        below, place = (below, between) if measure(values[between]) >= target else (between, place)
    return place


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
    """The values of a parameter that trades time for recall, cheapest first.

    Attributes:
        name: Of the engine's attribute.
        values: To try.
        cost: What one more of it takes, beside another parameter's.
    """

    name: str
    values: tuple[int, ...]
    cost: float = 1

    def below(self, cost: float) -> Ladder:
        """Return it without the values that cost more, but for the first."""
        return replace(
            self, values=self.values[:1] + tuple(each for each in self.values[1:] if each * self.cost < cost)
        )

    def set_on(self, engine: Engine, effort: Effort | None) -> None:
        """Set the parameter; an engine may answer searches meanwhile."""
        setattr(engine, self.name, effort)

    def at(self, engine: Engine) -> Effort | None:
        """Return what an approximate engine has; ``None`` of what was never set."""
        effort: Effort | None = getattr(engine, self.name)
        return effort

    @property
    def most(self) -> Effort:
        """The most there is, for every structure weight."""
        return Effort.even(self.values[-1])


# By what they are for, in the order of `ladders_of`.
Efforts = Mapping[Ladder, Effort]
Measure = Callable[[Efforts, int], float]


def efforts_of(engine: Engine, ladders: Sequence[Ladder]) -> Efforts:
    """Return what an engine has of these."""
    return {ladder: ladder.at(engine) or ladder.most for ladder in ladders}


def set_efforts(engine: Engine, efforts: Mapping[Ladder, Effort | None]) -> None:
    """Give an engine these; it may answer searches meanwhile."""
    for ladder, effort in efforts.items():
        ladder.set_on(engine, effort)


def twin_of(engine: Engine) -> Engine:
    """Return an engine of the same contents with efforts of its own, good until these change.

    Of lists on a GPU, those on the host that they are copied from.
    """
    return copy(cast("GpuIvfEngine", engine).host if engine.kind is EngineKind.GPU_IVF_SQ8 else engine)


def ladders_of(engine: Engine) -> tuple[Ladder, ...]:
    """Return what there is to tune about an engine: first how far it looks, then how closely; nothing if exact."""
    match engine.kind:
        case EngineKind.IVF_PQ4:
            return _of_quick_codes(engine, 1)
        case EngineKind.HNSW:
            return (Ladder("ef_search", _steps(16, 2048)),)
        case EngineKind.IVF_SQ8 | EngineKind.IVF_PQ | EngineKind.GPU_IVF_SQ8:
            return (Ladder("nprobe", _steps(1, int(engine.parameters["nlist"]))),)
        case _:
            return ()


def ladders_among_tenth_of(engine: Engine) -> tuple[Ladder, ...]:
    """Return what there is to tune about an engine's searches with a filter that keeps a tenth."""
    if engine.kind is EngineKind.IVF_PQ4:
        return _of_quick_codes(engine, TENTH, "_among_tenth")
    return ()


def _of_quick_codes(engine: Engine, share: float, suffix: str = "") -> tuple[Ladder, Ladder]:
    engine = cast("FastScanEngine", engine)
    lists = Ladder(f"nprobe{suffix}", _steps(1, int(engine.parameters["nlist"])), engine.cost_of_list())
    cost = (NUM_NEIGHBOURS + _SLACK) * engine.cost_of_candidate(share)
    candidates = Ladder(f"refine{suffix}", _steps(1, 32), cost)
    if share == 1:
        return lists, candidates
    # What takes longer than scoring all that the filter keeps is never done.
    most = engine.cost_of_all(int(share * len(engine))) / 2
    return lists.below(most), candidates.below(most)


@dataclass(frozen=True, slots=True)
class _PartOf:
    """Some vectors of a source."""

    whole: VectorSource
    some: Numbers

    def numbers(self) -> Numbers:
        return self.some

    def pairs(self, numbers: list[int]) -> tuple[Numbers, Matrix]:
        return self.whole.pairs(numbers)

    def all_pairs(self) -> Iterator[tuple[Numbers, Matrix]]:
        for start in range(0, len(self.some), _AT_ONCE):
            yield self.whole.pairs(self.some[start : start + _AT_ONCE].tolist())


def _steps(first: int, last: int) -> tuple[int, ...]:
    """Go from the first value to the last in steps of about 1.2: what lies beyond the target costs every search."""
    num_steps = math.ceil(4 * math.log2(last / first)) if last > first else 0
    return tuple(sorted({min(last, round(first * 2 ** (step / 4))) for step in range(num_steps + 1)}))
