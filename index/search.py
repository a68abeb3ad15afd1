"""One search over a consistent view: candidates from the engine, exact scores, order, pages.

The order is ``(-score, id)`` with scores from `index.scoring`, so it does not depend on the engine. A page
holds as many hits as were asked for whenever that many match: where an engine finds too few, everything is
scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from index.allowed import Allowed, FilterMemory
from index.catalogue import CatalogueReader, Matrix, Numbers
from index.collection import SearchHit, Vector
from index.cursors import SearchPosition
from index.engine import Candidates, Engine
from index.filters import Filter
from index.scoring import Scored, best, exact_scores, join

# Beyond the hits wanted; pictures of the same content tie, and a tie at the edge costs a second search.
_SLACK = 16
# How far a float32 inner product of an engine may lie from ours, per unit of query length.
_ROUNDING = 1e-4
_SCAN_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is looked for.

    Attributes:
        query: Shape ``(2 D,)``.
        num_wanted: Hits.
        after: The hit that they come after.
        condition: What their metadata meets.
        min_score: What their score is at least.
    """

    query: Vector
    num_wanted: int
    after: SearchPosition | None
    condition: Filter | None
    min_score: float | None


@dataclass(frozen=True, slots=True)
class SearchPolicy:
    """When to trust the engine; see `index.settings.LocalSettings`."""

    over_fetch: int | None
    exact_filter_limit: int


def find_hits(
    request: SearchRequest, engine: Engine, reader: CatalogueReader, policy: SearchPolicy, memory: FilterMemory
) -> list[SearchHit]:
    """Return the best hits after a position, in order; fewer only where fewer match.

    Args:
        request: What is looked for.
        engine: Holds exactly what ``reader`` sees.
        reader: One state of the catalogue.
        policy: When to trust the engine.
        memory: Knows what the filters used last let through.
    """
    allowed = None
    if request.condition is not None:
        allowed = memory.allowed(request.condition, reader)
        allowed.num_uses += 1
    return _with_records(rank_among(allowed, request, engine, reader, policy), reader)


def rank_among(
    allowed: Allowed | None, request: SearchRequest, engine: Engine, reader: CatalogueReader, policy: SearchPolicy
) -> Scored:
    """Do what `find_hits` does, less finding what matches and reading the records."""
    num_matching = len(engine) if allowed is None else len(allowed)
    if num_matching == 0:
        return _nothing(request.query)
    copy = None if allowed is None else allowed.copy  # read once: it may be taken away meanwhile
    if copy is not None:
        tolerance = (_ROUNDING + copy.error) * _length(request.query)
        return _from_exact(request, partial(copy.search, request.query), tolerance, engine, reader, num_matching)
    search = partial(engine.search, request.query, allowed=allowed)
    if engine.is_exact_among(None if allowed is None else num_matching):
        return _from_exact(request, search, _ROUNDING * _length(request.query), engine, reader, num_matching)
    if allowed is not None and num_matching <= policy.exact_filter_limit:
        return _from_scan(request, reader, allowed)
    return _from_approximate(request, search, engine, reader, allowed, num_matching, policy)


def scan(query: Vector, reader: CatalogueReader, allowed: Allowed | None, num_wanted: int) -> Scored:
    """Score every allowed picture from the catalogue and return the best and their ties, in no order."""
    kept = _nothing(query)
    for numbers, pairs in _stored_pairs(reader, allowed):
        kept = best(join([kept, Scored(numbers, pairs, exact_scores(query, pairs))]), num_wanted)
    return kept


def _from_exact(
    request: SearchRequest,
    search: Callable[[int], Candidates],
    tolerance: float,
    engine: Engine,
    reader: CatalogueReader,
    num_matching: int,
) -> Scored:
    """Take candidates until nothing else can be among the best.

    Args:
        request: What is looked for.
        search: Returns so many candidates, and misses none.
        tolerance: How far their scores may lie from ours.
        engine: Holds the vectors.
        reader: One state of the catalogue.
        num_matching: Of how many pictures.
    """
    k = request.num_wanted + _num_seen(request) + _SLACK
    while True:
        candidates = search(min(k, num_matching))
        if k >= num_matching:
            return _rank(request, _score(request.query, candidates, engine, reader), reader)
        hopeful = _hopeful(request, candidates, tolerance)
        ranked = _rank(request, _score(request.query, hopeful, engine, reader), reader)
        # Nothing outside the candidates can score above this.
        ceiling = float(candidates.scores[-1]) + tolerance
        is_full = len(ranked) == request.num_wanted and float(ranked.scores[-1]) > ceiling
        if is_full or (request.min_score is not None and request.min_score > ceiling):
            return ranked
        k *= 4


def _from_approximate(
    request: SearchRequest,
    search: Callable[[int], Candidates],
    engine: Engine,
    reader: CatalogueReader,
    allowed: Allowed | None,
    num_matching: int,
    policy: SearchPolicy,
) -> Scored:
    k = (policy.over_fetch or engine.over_fetch) * (request.num_wanted + _num_seen(request)) + _SLACK
    candidates = search(min(k, num_matching))
    tolerance = _ROUNDING * _length(request.query) if engine.has_exact_scores else math.inf
    scored = _score(request.query, _hopeful(request, candidates, tolerance), engine, reader)
    ranked = _rank(request, scored, reader)
    if len(ranked) == request.num_wanted:
        return ranked
    has_seen_below = request.min_score is not None and not _at_least(scored, request.min_score).all()
    return ranked if has_seen_below else _from_scan(request, reader, allowed)


def _from_scan(request: SearchRequest, reader: CatalogueReader, allowed: Allowed | None) -> Scored:
    """Score everything, page by page of the order, until enough hits come after the position."""
    num_wanted = request.num_wanted + _num_seen(request)
    while True:
        scored = scan(request.query, reader, allowed, num_wanted)
        ranked = _rank(request, scored, reader)
        if len(ranked) == request.num_wanted or len(scored) < num_wanted:
            return ranked
        if request.min_score is not None and not _at_least(scored, request.min_score).all():
            return ranked
        num_wanted *= 4


def _nothing(query: Vector) -> Scored:
    return Scored(np.empty(0, np.int64), np.empty((0, len(query)), np.float32), np.empty(0, np.float32))


def _hopeful(request: SearchRequest, candidates: Candidates, tolerance: float) -> Candidates:
    """Leave out what scores too little to be among the best of these candidates: most of the slack, as a rule."""
    scores = candidates.scores
    if request.after is not None or len(scores) <= request.num_wanted:
        return candidates
    least = float(scores[request.num_wanted - 1]) - 2 * tolerance
    if scores[request.num_wanted] < least:
        return candidates.first(request.num_wanted)
    return candidates.first(int(np.count_nonzero(scores >= least)))


def _score(query: Vector, candidates: Candidates, engine: Engine, reader: CatalogueReader) -> Scored:
    numbers = candidates.numbers
    if candidates.block is not None and candidates.places is not None:
        pairs: Matrix | None = candidates.block.take(candidates.places, axis=0)
    else:
        pairs = engine.vectors(numbers)
    if pairs is None:
        numbers, pairs = reader.pairs(numbers.tolist())
    return Scored(numbers, pairs, exact_scores(query, pairs))


def _rank(request: SearchRequest, scored: Scored, reader: CatalogueReader) -> Scored:
    """Drop what comes before the position or scores too little, put the rest in order, and cut."""
    if request.min_score is not None:
        scored = scored.take(_at_least(scored, request.min_score))
    if request.after is not None:
        scored = _drop_seen(scored, request.after, reader)
    if not np.count_nonzero(scored.scores[1:] >= scored.scores[:-1]):  # in order as they came, as a rule
        return scored.first(request.num_wanted)
    order = (-scored.scores).argsort(kind="stable")
    descending = scored.scores.take(order[: request.num_wanted + 1])
    if np.count_nonzero(descending[1:] == descending[:-1]):  # else no name decides
        scored = best(scored, request.num_wanted)
        numbers, scores = scored.numbers.tolist(), scored.scores.tolist()
        names = reader.names(numbers)
        order = np.array(sorted(range(len(scored)), key=lambda place: (-scores[place], names[numbers[place]])))
    return scored.at(order[: request.num_wanted])


def _drop_seen(scored: Scored, after: SearchPosition, reader: CatalogueReader) -> Scored:
    scored = scored.take(scored.scores <= np.float32(after.score))
    is_tied = scored.scores == np.float32(after.score)
    names = reader.names(scored.numbers[is_tied].tolist())
    is_seen = [names.get(number, "") <= after.id for number in scored.numbers[is_tied].tolist()]
    is_kept = np.ones(len(scored), dtype=bool)
    is_kept[np.flatnonzero(is_tied)[is_seen]] = False
    return scored.take(is_kept)


def _length(query: Vector) -> float:
    return max(1.0, math.sqrt(query.dot(query)))


def _at_least(scored: Scored, min_score: float) -> NDArray[np.bool_]:
    # In float64: a float32 comparison would first round min_score.
    return scored.scores.astype(np.float64) >= min_score


def _num_seen(request: SearchRequest) -> int:
    return request.after.num_seen if request.after else 0


def _with_records(ranked: Scored, reader: CatalogueReader) -> list[SearchHit]:
    records = {each.number: each.record for each in reader.records(ranked.numbers.tolist())}
    dimension = ranked.vectors.shape[1] // 2
    return [
        SearchHit(records[number], score, pair[:dimension], pair[dimension:])
        for number, score, pair in zip(ranked.numbers.tolist(), ranked.scores.tolist(), ranked.vectors, strict=True)
    ]


def _stored_pairs(reader: CatalogueReader, allowed: Allowed | None) -> Iterator[tuple[Numbers, Matrix]]:
    if allowed is None:
        yield from reader.all_pairs()
        return
    for start in range(0, len(allowed), _SCAN_CHUNK):
        yield reader.pairs(allowed.numbers[start : start + _SCAN_CHUNK].tolist())
