"""The query algebra in plain Python: sums, defaults, negatives, pages and the cache."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.exact import ExactCollection
from index.filters import parse_filter
from service.search.cache import QueryCache
from service.search.finding import Question, find
from service.search.negatives import Exclusion, make_exclusions, with_penalty
from service.search.queries import Term, TwoViewQuery, combine
from structxlip.calibration import QueryKind
from tests.index.builders import DIMENSION, FINGERPRINT, picture, unit_vector
from tests.support.calibrations import plain_calibration

WEIGHTS = st.one_of(st.none(), st.floats(0, 1))


def term(kind: QueryKind, seed: int, weight: float = 1.0) -> Term:
    colours = None if kind is QueryKind.SKETCH else unit_vector(2 * seed)
    return Term(kind, colours, unit_vector(2 * seed + 1), weight)


TERMS = st.lists(
    st.builds(term, st.sampled_from(QueryKind), st.integers(0, 99), st.floats(0.1, 10)), min_size=1, max_size=8
)


@pytest.fixture(scope="module")
def collection() -> ExactCollection:
    made = ExactCollection(dimension=DIMENSION, fingerprint=FINGERPRINT)
    made.add([picture(f"p{seed}", seed, metadata={"is_even": seed % 2 == 0}) for seed in range(30)])
    return made


@given(terms=TERMS, negatives=st.lists(st.builds(term, st.sampled_from(QueryKind), st.integers(0, 99))), weight=WEIGHTS)
def test_the_score_is_the_weighted_sum_of_the_two_numbers(
    collection: ExactCollection, terms: list[Term], negatives: list[Term], weight: float | None
) -> None:
    wanted = combine(terms, structure_weight=weight, default_weight=0.3)
    query = with_penalty(wanted, negatives)
    w = query.structure_weight
    assert weight is None or w == weight
    for hit in find(collection, None, Question(query, limit=30)).hits:
        assert hit.score == pytest.approx((1 - w) * hit.appearance + w * hit.structure, abs=1e-5)


@given(terms=TERMS)
def test_the_parts_of_a_list_count_by_their_weight(terms: list[Term]) -> None:
    query = combine(terms, structure_weight=None, default_weight=0.25)
    total = sum(each.weight for each in terms)
    natural = sum(each.weight * (1.0 if each.kind is QueryKind.SKETCH else 0.25) for each in terms) / total
    assert query.structure_weight == pytest.approx(natural)
    expected = sum(each.weight * each.structure for each in terms) / total
    np.testing.assert_allclose(query.structure, expected, atol=1e-5)
    coloured = [each for each in terms if each.appearance is not None]
    if coloured:
        shares = sum(each.weight for each in coloured)
        expected = sum(each.weight * each.appearance for each in coloured) / shares
        np.testing.assert_allclose(query.appearance, expected, atol=1e-5)
    else:
        assert (query.structure_weight, query.appearance.any()) == (1.0, False)


def test_one_term_keeps_its_vectors_to_the_last_bit() -> None:
    one = term(QueryKind.TEXT, 4, 7.0)
    query = combine([one], structure_weight=0.5, default_weight=0.0)
    np.testing.assert_array_equal(query.appearance, one.appearance)
    np.testing.assert_array_equal(query.structure, one.structure)


def test_a_calibrated_negative_leaves_out_what_stands_above_its_background(collection: ExactCollection) -> None:
    calibration = plain_calibration(dimension=DIMENSION)
    wanted, away = (
        combine([term(QueryKind.PICTURE, seed)], structure_weight=0.5, default_weight=0.0) for seed in (1, 2)
    )
    (exclusion,) = make_exclusions(
        [term(QueryKind.PICTURE, 2)], wanted, structure_weight=0.5, default_weight=0.0, calibration=calibration
    )
    scores = calibration.background.scores(away.appearance[None], away.structure[None], 0.5)
    assert exclusion.threshold is not None
    assert scores.mean() < exclusion.threshold < scores.mean() + 3 * scores.std()
    found = find(collection, None, Question(wanted, (exclusion,), limit=30))
    assert "p2" not in [hit.record.id for hit in found.hits]
    kept = [hit for hit in find(collection, None, Question(wanted, limit=30)).hits if hit.record.id != "p2"]
    assert found.num_excluded == 30 - len(found.hits)
    assert len(found.hits) <= len(kept)


@given(limit=st.integers(1, 9), threshold=st.floats(-0.5, 0.5))
def test_pages_hold_what_the_whole_holds(collection: ExactCollection, limit: int, threshold: float) -> None:
    wanted = combine([term(QueryKind.TEXT, 5)], structure_weight=0.5, default_weight=0.0)
    away = combine([term(QueryKind.TEXT, 6)], structure_weight=0.5, default_weight=0.0)
    exclusions = (Exclusion(away, wanted, threshold),)
    whole = [hit.record.id for hit in find(collection, None, Question(wanted, exclusions, limit=30)).hits]
    paged: list[str] = []
    cursor: str | None = None
    while True:
        page = find(collection, None, Question(wanted, exclusions, limit=limit, cursor=cursor))
        paged += [hit.record.id for hit in page.hits]
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.hits) == limit or page.warnings
    assert paged == whole


@pytest.mark.parametrize("only", [False, True])
def test_no_match_is_told_of_the_collection_and_not_of_the_page(collection: ExactCollection, only: bool) -> None:
    calibration = plain_calibration(dimension=DIMENSION, residual=0.01, per_spread=1.0)
    there = TwoViewQuery(*_views(3), 0.5, QueryKind.PICTURE)
    answer = find(collection, calibration, Question(there, limit=2, only_confident=only))
    assert answer.no_match is False
    assert answer.hits[0].record.id == "p3"
    assert answer.cursor is not None
    later = find(collection, calibration, Question(there, limit=2, cursor=answer.cursor, only_confident=only))
    assert later.no_match is False
    too_high = find(collection, calibration, Question(there, limit=2, min_score=2.0, only_confident=only))
    assert (too_high.no_match, too_high.hits) == (False, [])
    none = parse_filter({"field": "missing", "exists": True})
    assert find(collection, calibration, Question(there, filter=none, only_confident=only)).no_match is True


def _views(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return unit_vector(2 * seed), unit_vector(2 * seed + 1)


def test_the_cache_keeps_what_was_used_last() -> None:
    told: list[str] = []
    cache: QueryCache[str] = QueryCache(2, told.append)

    async def ask(key: str) -> str:
        async def make() -> str:
            if key == "bad":
                raise ValueError(key)
            return key.upper()

        return await cache.get(key, make)

    async def run() -> None:
        assert [await ask(key) for key in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
        for _ in range(2):
            with pytest.raises(ValueError):
                await ask("bad")

    asyncio.run(run())
    assert told == ["miss", "miss", "hit", "miss", "hit", "miss", "miss", "miss"]
    assert len(cache) == 2
