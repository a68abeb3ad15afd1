"""Copies of what filters let through: they lose nothing, and follow every change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from index import maintenance as maintenance_module
from index.allowed import USES_FOR_A_COPY, CopyCost
from index.catalogue import Matrix, Numbers
from index.collection import NewImage
from index.exact import ExactCollection
from index.filters import Filter, parse_filter
from index.half_copy import HalfCopy
from index.local import LocalCollection
from index.maintenance import Maintenance
from tests.index.builders import (
    DIMENSION,
    FINGERPRINT,
    QUIET,
    open_local,
    picture,
    query_vector,
    search_while_one_changes,
    shown,
    wait_until,
)

LAMPS = parse_filter({"field": "kind", "eq": "lamp"})


@pytest.fixture(autouse=True)
def few_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance_module, "_LEAST_COPIED", 0)


def lamps_and_chairs(num: int = 60) -> list[NewImage]:
    # Every third has the content, and so the vectors, of one before it.
    return [
        picture(f"{n:02}", n - n % 3 // 2, metadata={"kind": "chair" if n % 5 == 0 else "lamp"}) for n in range(num)
    ]


def copy_of(collection: LocalCollection, condition: Filter = LAMPS) -> HalfCopy | None:
    with collection._live.view() as view:
        return collection._filters.allowed(condition, view.reader).copy


def use_until_copied(collection: LocalCollection, condition: Filter = LAMPS) -> None:
    for seed in range(USES_FOR_A_COPY):
        collection.search(query_vector(seed), limit=3, filter=condition)
    wait_until(lambda: copy_of(collection, condition) is not None)


def test_scores_are_off_by_no_more_than_it_tells() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((500, 64)).astype(np.float32)
    numbers = chance.permutation(10_000)[:500]
    copy = HalfCopy(64, [(numbers[:200], vectors[:200]), (numbers[200:], vectors[200:])])
    assert len(copy) == 500
    assert 0 < copy.error < 0.01
    place_of = {number: place for place, number in enumerate(numbers.tolist())}
    for query in chance.standard_normal((20, 64)).astype(np.float32):
        found = copy.search(query, 600)
        assert sorted(found.numbers.tolist()) == sorted(numbers.tolist())
        assert (np.diff(found.scores) <= 0).all()
        exact = vectors[[place_of[number] for number in found.numbers.tolist()]] @ query
        off = np.abs(found.scores - exact)
        assert off.max() > 1e-4  # halves do round, so there is something to tell
        assert (off <= (copy.error + 1e-4) * np.linalg.norm(query)).all()
        np.testing.assert_array_equal(copy.search(query, 7).numbers, found.numbers[:7])


@pytest.mark.parametrize("engine", ["flat", "hnsw", "ivf_sq8", "ivf_pq", "ivf_pq4"])
def test_a_filter_in_use_gets_a_copy_and_the_same_answers(folder: Path, engine: str) -> None:
    settings = replace(QUIET, engine=engine)  # type: ignore[arg-type]
    images = lamps_and_chairs()
    exact = ExactCollection(dimension=DIMENSION, fingerprint=FINGERPRINT)
    with open_local(folder, settings) as collection:
        collection.add(images)
        exact.add(images)
        use_until_copied(collection)

        def check() -> None:
            for seed in range(8):
                query = query_vector(seed, structure_weight=seed / 7)
                for limit, min_score in ((1, None), (5, None), (5, 0.1), (100, None), (100, -0.05)):
                    cursor = None
                    for _ in range(3):  # pages
                        options = {"limit": limit, "cursor": cursor, "filter": LAMPS, "min_score": min_score}
                        found = collection.search(query, **options)  # type: ignore[arg-type]
                        assert shown(found) == shown(exact.search(query, **options))  # type: ignore[arg-type]
                        if (cursor := found.cursor) is None:
                            break

        copy = copy_of(collection)
        assert copy is not None
        assert len(copy) == 48
        check()
        for changed in (collection, exact):
            changed.add([picture("new", 70, metadata={"kind": "lamp"}), picture("01", 71, metadata={"kind": "lamp"})])
            changed.delete("02")
            changed.update("03", metadata={"kind": "chair"})
        assert copy_of(collection) is None
        check()
        use_until_copied(collection)
        check()


def test_what_halves_cannot_tell_apart_is_still_in_order(folder: Path) -> None:
    def beginning_with(first: float) -> NDArray[np.float32]:
        return np.array([first, (1 - first**2) ** 0.5, *[0] * (DIMENSION - 2)], dtype=np.float32)

    # All of them begin with 0.5 in half precision; the best one comes last.
    firsts = [0.50015 + 1e-6 * n for n in range(40)] + [0.50024]
    assert set(np.array(firsts).astype(np.float16).tolist()) == {0.5}
    images = [
        replace(picture(f"{n:02}", n, metadata={"kind": "lamp"}), appearance=beginning_with(first))
        for n, first in enumerate(firsts)
    ]
    query = np.zeros(2 * DIMENSION, dtype=np.float32)
    query[0] = 1
    with open_local(folder, replace(QUIET, engine="flat")) as collection:
        collection.add(images)
        use_until_copied(collection)
        found = shown(collection.search(query, limit=1, filter=LAMPS))
        assert found == [("40", np.float32(0.50024))]


@pytest.mark.parametrize(("engine", "is_copied"), [("flat", True), ("ivf_sq8", False)])
def test_much_is_copied_only_for_an_engine_that_would_scan_it(
    folder: Path, engine: str, is_copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.maintenance._ALWAYS_SCANNED", 12)
    chairs = parse_filter({"field": "kind", "eq": "chair"})
    with open_local(folder, replace(QUIET, engine=engine)) as collection:  # type: ignore[arg-type]
        collection.add(lamps_and_chairs())
        for seed in range(USES_FOR_A_COPY):
            collection.search(query_vector(seed), limit=3, filter=LAMPS)
        use_until_copied(collection, chairs)  # these are twelve, and asked for later
        collection._maintenance._copy_when_due()
        assert (copy_of(collection) is not None) == is_copied


@pytest.mark.parametrize(("engine", "is_copied"), [("flat", False), ("ivf_sq8", True)])
def test_few_are_copied_only_for_an_engine_that_does_not_score_them_all(
    folder: Path, engine: str, is_copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_module, "_LEAST_COPIED", 100)
    with open_local(folder, replace(QUIET, engine=engine)) as collection:  # type: ignore[arg-type]
        collection.add(lamps_and_chairs())
        wait_until(lambda: collection._maintenance.activity is None)
        for seed in range(USES_FOR_A_COPY):
            collection.search(query_vector(seed), limit=3, filter=LAMPS)
        collection._maintenance._copy_when_due()
        assert (copy_of(collection) is not None) == is_copied


@pytest.mark.parametrize("engine", ["flat", "hnsw", "ivf_sq8"])
def test_a_copy_of_pictures_that_went_meanwhile_is_not_used(
    folder: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.maintenance._COPIED_AT_ONCE", 16)
    vectors, parts = Maintenance._vectors, []
    with open_local(folder, replace(QUIET, engine=engine)) as collection:  # type: ignore[arg-type]
        collection.add(lamps_and_chairs())

        def interrupted(maintenance: Maintenance, numbers: Numbers) -> Iterator[tuple[Numbers, Matrix]]:
            for part in vectors(maintenance, numbers):
                parts.append(len(part[0]))
                yield part
                collection.delete("59")

        monkeypatch.setattr(Maintenance, "_vectors", interrupted)
        with collection._live.view() as view:
            before = collection._filters.allowed(LAMPS, view.reader)
        before.num_uses = USES_FOR_A_COPY
        wait_until(lambda: bool(parts))
        wait_until(
            lambda: (
                collection._maintenance.activity is None
                and collection._filters.due(lambda _: CopyCost(1, 1), 0) is None
            )
        )
        assert parts == [16, 16]  # of 48, the last 16 with the one that went
        assert before.copy is None


def test_copies_come_and_go_while_searches_and_writes_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance_module, "USES_FOR_A_COPY", 2)
    num_scans = 0
    search_copy = HalfCopy.search

    def counted(copy: HalfCopy, query: NDArray[np.float32], k: int) -> object:
        nonlocal num_scans
        num_scans += 1
        return search_copy(copy, query, k)

    monkeypatch.setattr(HalfCopy, "search", counted)
    with open_local(folder, replace(QUIET, engine="flat")) as collection:
        num_searches = search_while_one_changes(collection, LAMPS, num_fixed=30, after_write=lambda _: None)
        assert 0 < num_scans < num_searches
