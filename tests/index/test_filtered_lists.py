"""Lists of what a filter lets through alone: the same answers as from the engine's own, sooner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index import engine_fast_scan, filtered_lists
from index import maintenance as maintenance_module
from index.allowed import Allowed
from index.catalogue import Numbers
from index.effort import Effort
from index.engine import EngineKind
from index.engine_building import EngineBuilder
from index.engine_fast_scan import FastScanEngine
from index.engine_ivf import Selector
from index.filtered_lists import FilteredLists
from index.filters import parse_filter
from index.local import LocalCollection
from tests.index.builders import (
    QUIET,
    Rows,
    open_local,
    picture,
    query_vector,
    search_while_one_changes,
    shown,
    unit,
    wait_until,
)

WIDTH, NUM = 32, 12_000
LAMPS = parse_filter({"field": "kind", "eq": "lamp"})


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    chance = np.random.default_rng(0)
    centres = unit(chance.standard_normal((50, WIDTH)))
    return unit(centres[chance.integers(0, 50, NUM)] + 0.3 * unit(chance.standard_normal((NUM, WIDTH))))


@pytest.fixture(scope="module")
def engine(vectors: NDArray[np.float32]) -> FastScanEngine:
    made = EngineBuilder(WIDTH, QUIET).build(EngineKind.IVF_PQ4, Rows(np.arange(NUM), vectors), lambda _: None)
    assert isinstance(made, FastScanEngine)
    made.nprobe, made.refine = Effort.even(16), Effort.even(16)
    return made


def complete(engine: FastScanEngine, allowed: Numbers) -> FilteredLists:
    lists = engine.lists_of(allowed)
    while lists.has_more_to_take:
        lists.take_some()
        lists.keep_some()
    assert lists.is_complete
    return lists


@pytest.mark.parametrize("share", [0.0005, 0.05, 0.5, 1])
def test_they_find_what_a_selector_finds(engine: FastScanEngine, vectors: NDArray[np.float32], share: float) -> None:
    allowed = np.flatnonzero(np.random.default_rng(1).random(NUM) < share)
    lists, selector = complete(engine, allowed), Selector(allowed)
    assert len(lists) == len(allowed)
    all_lists = engine._list_parameters(int(engine._index.nlist))
    everything = lists.search(vectors[0], len(allowed), all_lists)
    np.testing.assert_array_equal(np.sort(everything), allowed)
    selecting = engine._list_parameters(int(engine._index.nlist), sel=selector.faiss)
    num_alike = 0
    for query in vectors[:20]:
        expected = engine._index.search(query[None], 30, params=selecting)[1][0]
        num_alike += len(np.intersect1d(lists.search(query, 30, all_lists), expected[expected >= 0]))
    assert num_alike >= 20 * min(30, len(allowed)) - 5  # codes tie


def test_they_know_when_what_a_filter_keeps_lies_elsewhere(
    engine: FastScanEngine, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_fast_scan, "_SCANNED", 100)
    query = vectors[0]
    order = np.argsort(-(vectors @ query))
    far, by_chance = np.sort(order[NUM // 2 :]), np.sort(np.random.default_rng(2).permutation(NUM)[: NUM // 2])
    for numbers, is_near in ((far, False), (by_chance, True)):
        allowed = Allowed(numbers)
        lists = allowed.lists = complete(engine, numbers)
        assert (engine._listed(query, 10, lists) is not None) == is_near
        found = engine.search(query, 10, allowed).numbers
        exact = numbers[np.argsort(-(vectors[numbers] @ query))[:10]]
        assert np.isin(found, numbers).all()
        assert len(np.intersect1d(found, exact)) >= 9 + (not is_near)


def test_lists_of_another_engine_are_not_asked(engine: FastScanEngine, vectors: NDArray[np.float32]) -> None:
    allowed = Allowed(np.arange(0, NUM, 2))
    allowed.lists = complete(engine, allowed.numbers)
    other = EngineBuilder(WIDTH, QUIET).restore(engine.state())
    asked: list[Any] = []
    allowed.lists.search = lambda *given: asked.append(given)  # type: ignore[method-assign]
    assert len(other.search(vectors[1], 10, allowed).numbers) == 10
    assert not asked


def test_they_are_told_to_take_what_they_take(engine: FastScanEngine) -> None:
    allowed = np.arange(0, NUM, 2)
    lists = complete(engine, allowed)
    inverted = faiss.downcast_InvertedLists(lists._index.invlists)
    held = sum(
        -(-inverted.list_size(number) // 32) * inverted.block_size + 8 * inverted.list_size(number)
        for number in range(inverted.nlist)
    )
    assert held <= lists.num_bytes <= 2 * held


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few vectors are treated as many."""
    monkeypatch.setattr(engine_fast_scan, "_SCANNED", 0)
    monkeypatch.setattr(engine_fast_scan, "_SCORED_OF_MANY", 1e9)
    monkeypatch.setattr(filtered_lists, "_VECTORS_FOR_A_USE", 30)
    monkeypatch.setattr(maintenance_module, "_ALWAYS_SCANNED", 0)


def lists_of(collection: LocalCollection) -> FilteredLists | None:
    with collection._live.view() as view:
        return collection._filters.allowed(LAMPS, view.reader).lists


def use_until_listed(collection: LocalCollection) -> None:
    for seed in range(8):
        collection.search(query_vector(seed), limit=3, filter=LAMPS)
    wait_until(lambda: lists_of(collection) is not None)


@pytest.mark.usefixtures("quick")
def test_a_filter_in_use_gets_lists_and_the_same_answers(folder: Path) -> None:
    images = [picture(f"{n:03}", n, metadata={"kind": "chair" if n % 5 == 0 else "lamp"}) for n in range(200)]
    with open_local(folder, replace(QUIET, engine="ivf_pq4", recall_target=1.0, exact_filter_limit=0)) as collection:
        collection.add(images)
        before = [shown(collection.search(query_vector(seed), limit=150, filter=LAMPS)) for seed in range(3)]
        use_until_listed(collection)
        lists = lists_of(collection)
        assert lists is not None
        assert len(lists) == 160
        assert [shown(collection.search(query_vector(seed), limit=150, filter=LAMPS)) for seed in range(3)] == before
        collection.delete("001")
        assert lists_of(collection) is None
        assert "001" not in dict(shown(collection.search(query_vector(1), limit=200, filter=LAMPS)))
        use_until_listed(collection)


@pytest.mark.usefixtures("quick")
def test_lists_of_pictures_that_went_meanwhile_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered_lists, "_LISTS_AT_ONCE", 1)
    keep_some, num_kept = FilteredLists.keep_some, 0
    with open_local(folder, replace(QUIET, engine="ivf_pq4", exact_filter_limit=0)) as collection:
        collection.add([picture(f"{n:03}", n, metadata={"kind": "lamp"}) for n in range(200)])
        wait_until(lambda: collection._maintenance.activity is None and collection.status().engine == "ivf_pq4")

        def interrupted(lists: FilteredLists) -> None:
            nonlocal num_kept
            num_kept += 1
            keep_some(lists)
            if num_kept == 1:
                for n in range(100, 200):
                    collection.delete(f"{n:03}")

        monkeypatch.setattr(FilteredLists, "keep_some", interrupted)
        with collection._live.view() as view:
            before = collection._filters.allowed(LAMPS, view.reader)
        before.num_uses = 1000
        wait_until(lambda: num_kept > 1)
        wait_until(lambda: lists_of(collection) is None and collection._live.num_images == 100)
        assert before.lists is None
        assert len(collection.search(query_vector(0), limit=200, filter=LAMPS).items) == 100


@pytest.mark.usefixtures("quick")
def test_lists_come_and_go_while_searches_and_writes_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered_lists, "_VECTORS_FOR_A_USE", 1000)
    search_lists, num_asked = FilteredLists.search, 0

    def counted(lists: FilteredLists, *given: Any) -> Numbers | None:
        nonlocal num_asked
        num_asked += 1
        return search_lists(lists, *given)

    monkeypatch.setattr(FilteredLists, "search", counted)
    with open_local(folder, replace(QUIET, engine="ivf_pq4", exact_filter_limit=0)) as collection:

        def wait_for_lists(version: int) -> None:
            if version % 13 == 0:  # however busy the machine is
                before = num_asked
                wait_until(lambda: num_asked > before)

        num_searches = search_while_one_changes(collection, LAMPS, num_fixed=120, after_write=wait_for_lists)
        assert 0 < num_asked < 2 * num_searches
