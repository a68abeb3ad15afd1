"""What filters let through, kept between searches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from index.allowed import MAX_COPIED_SHARE, MAX_FILTERS, Allowed, CopyCost, FilterMemory
from index.catalogue import CatalogueReader
from index.filters import parse_filter
from index.local import LocalCollection
from index.settings import LocalSettings
from tests.index.builders import QUIET, open_local, picture, query_vector, shown

LAMPS = parse_filter({"field": "kind", "eq": "lamp"})


def lamps_and_chairs(folder: Path, settings: LocalSettings = QUIET) -> LocalCollection:
    collection = open_local(folder, settings)
    collection.add([picture(f"{n:02}", n, metadata={"kind": "lamp" if n % 2 else "chair"}) for n in range(40)])
    return collection


def test_what_was_made_is_kept_until_its_basis_changes() -> None:
    allowed, calls = Allowed(np.array([1, 2, 5])), []

    def make(numbers: object) -> int:
        calls.append(numbers)
        return len(calls)

    basis = object()
    assert [allowed.made(basis, make), allowed.made(basis, make)] == [1, 1]
    assert [allowed.made(object(), make), allowed.made(basis, make)] == [2, 3]
    assert all(numbers is allowed.numbers for numbers in calls)


def test_a_filter_is_answered_once_for_each_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    matching = CatalogueReader.matching
    monkeypatch.setattr(
        CatalogueReader, "matching", lambda reader, condition: asked.append(condition) or matching(reader, condition)
    )
    with lamps_and_chairs(folder) as collection:
        for changed in (
            lambda: None,
            lambda: collection.add([picture("new", 50, metadata={"kind": "lamp"})]),
            lambda: collection.update("00", metadata={"kind": "lamp"}),
            lambda: collection.delete("01"),
        ):
            changed()
            asked.clear()
            for seed in range(3):
                found = collection.search(query_vector(seed), limit=40, filter=LAMPS)
                assert collection.count(LAMPS) == len(found.items)
            assert asked == [LAMPS]


@pytest.mark.parametrize("engine", ["flat", "hnsw", "ivf_sq8", "ivf_pq", "ivf_pq4"])
def test_what_is_kept_follows_every_change(folder: Path, engine: str) -> None:
    settings = LocalSettings(engine=engine, exact_filter_limit=0, self_check_seconds=0, snapshot_seconds=1e9)  # type: ignore[arg-type]
    query = query_vector(3)
    with lamps_and_chairs(folder, settings) as collection:

        def lamps() -> set[str]:
            return {name for name, _ in shown(collection.search(query, limit=100, filter=LAMPS))}

        expected = {f"{n:02}" for n in range(1, 40, 2)}
        assert lamps() == expected
        collection.add([picture("new", 50, metadata={"kind": "lamp"}), picture("no", 51, metadata={"kind": "chair"})])
        assert lamps() == (expected := expected | {"new"})
        collection.update("00", metadata={"kind": "lamp"})
        collection.update("39", metadata={"kind": "chair"})
        assert lamps() == (expected := (expected | {"00"}) - {"39"})
        collection.delete("01")
        collection.add([picture("03", 60, metadata={"kind": "lamp"})])
        assert lamps() == expected - {"01"}


def test_true_is_not_one(folder: Path) -> None:
    with open_local(folder) as collection:
        collection.add([picture("a", 1, metadata={"x": True}), picture("b", 2, metadata={"x": 1})])
        for value, name in ((True, "a"), (1, "b"), (True, "a")):
            condition = parse_filter({"field": "x", "eq": value})
            assert [hit.record.id for hit in collection.search(query_vector(0), limit=9, filter=condition).items] == [
                name
            ]


class Reader:
    """What `FilterMemory` asks of a catalogue."""

    state, asked = 7, 0

    def __init__(self, num_matching: int = 10) -> None:
        self.num_matching = num_matching

    def sequence(self) -> int:
        return self.state

    def matching(self, _condition: object) -> np.ndarray:
        self.asked += 1
        return np.arange(self.num_matching)


def test_the_filter_used_longest_ago_is_forgotten_first() -> None:
    reader = Reader()
    memory = FilterMemory(8, max_numbers=25)
    first, second, third = (parse_filter({"field": "x", "eq": value}) for value in (1, 2, 3))
    for condition in (first, second, first, third, first):  # the third takes the place of the second
        memory.allowed(condition, reader)  # type: ignore[arg-type]
    assert reader.asked == 3
    memory.allowed(second, reader)  # type: ignore[arg-type]
    assert reader.asked == 4
    reader.state = 6  # a search that began before the last change: answered, and nothing is lost by it
    memory.allowed(second, reader)  # type: ignore[arg-type]
    reader.state = 7
    memory.allowed(second, reader)  # type: ignore[arg-type]
    assert reader.asked == 5


def test_filters_that_let_nothing_through_do_not_pile_up() -> None:
    reader, memory = Reader(num_matching=0), FilterMemory(8)
    conditions = [parse_filter({"field": "x", "eq": value}) for value in range(MAX_FILTERS + 1)]
    for condition in conditions:
        memory.allowed(condition, reader)  # type: ignore[arg-type]
    memory.allowed(conditions[-1], reader)  # type: ignore[arg-type]
    assert reader.asked == len(conditions)
    memory.allowed(conditions[0], reader)  # type: ignore[arg-type]
    assert reader.asked == len(conditions) + 1


def test_a_filter_too_large_to_keep_costs_the_others_nothing() -> None:
    small, large, memory = Reader(10), Reader(30), FilterMemory(8, max_numbers=25)
    first, second = (parse_filter({"field": "x", "eq": value}) for value in (1, 2))
    memory.allowed(first, small)  # type: ignore[arg-type]
    assert len(memory.allowed(second, large)) == 30  # type: ignore[arg-type]
    memory.allowed(first, small)  # type: ignore[arg-type]
    assert small.asked == 1


@dataclass
class Copy:
    """Stands for a copy; `FilterMemory` only hands it on."""

    num_bytes: int = 100


USES = 32
COST = CopyCost(num_bytes=100, num_uses=USES)


def used(memory: FilterMemory, reader: Reader, value: int, times: int = USES) -> Allowed:
    allowed = memory.allowed(parse_filter({"field": "x", "eq": value}), reader)  # type: ignore[arg-type]
    allowed.num_uses += times
    return allowed


def test_a_copy_is_due_where_it_is_earned_and_worth_it() -> None:
    reader, memory = Reader(10), FilterMemory(8, max_copied_bytes=100)
    used(memory, reader, 1, times=USES - 1)
    assert memory.due(lambda _: COST, 0) is None
    first = used(memory, reader, 1, times=1)
    assert memory.due(lambda num: COST if num == 10 else None, 0) is first
    assert memory.due(lambda num: COST if num < 10 else None, 0) is None
    assert memory.due(lambda _: CopyCost(101, USES), 0) is None  # more than all copies may take
    enough = 101 / (MAX_COPIED_SHARE * 4 * 8)
    assert memory.due(lambda _: CopyCost(101, USES), int(enough) + 1) is first  # in a larger collection they may
    memory.give(first, 0, copy=Copy())  # type: ignore[arg-type]
    assert memory.due(lambda _: COST, 0) is None
    reader.num_matching = 0
    used(memory, reader, 3)
    assert memory.due(lambda _: COST, 0) is None


@pytest.mark.parametrize("kind", ["copy", "lists"])
def test_the_filter_used_longest_ago_loses_its_copy_first(kind: str) -> None:
    reader, memory = Reader(10), FilterMemory(8, max_copied_bytes=250)
    first, second, third = (used(memory, reader, value) for value in (1, 2, 3))
    for each in (first, second):
        memory.give(each, 0, **{kind: Copy()})  # type: ignore[arg-type]
    used(memory, reader, 1)
    memory.give(third, 0, **{kind: Copy()})  # type: ignore[arg-type]
    assert [getattr(each, kind) is not None for each in (first, second, third)] == [True, False, True]
    assert memory.due(lambda _: COST, 0) is None  # what lost its copy has to earn it again
    assert used(memory, reader, 2) is memory.due(lambda _: COST, 0)


def test_a_copy_goes_with_the_state_that_it_was_made_in() -> None:
    reader, memory = Reader(10), FilterMemory(8)
    old = used(memory, reader, 1)
    memory.forget_before(reader.state)
    assert memory.due(lambda _: COST, 0) is old
    memory.forget_before(reader.state + 1)
    assert memory.due(lambda _: COST, 0) is None
    reader.state += 1
    new = used(memory, reader, 1)
    memory.give(old, 0, copy=Copy())  # type: ignore[arg-type]
    assert new is not old
    assert new.copy is None
    assert old.copy is None
