"""A local collection does what the exact one does, over any sequence of calls, and through reopening."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from index.collection import Collection
from index.exact import ExactCollection
from index.filters import Filter, parse_filter
from index.local import LocalCollection
from index.settings import LocalSettings
from tests.index.builders import DIMENSION, FINGERPRINT, QUIET, open_local, picture, query_vector, quick_folder

names = st.sampled_from(["a", "b", "c", "d", "e", "f"])
seeds = st.integers(0, 4)
metadata = st.fixed_dictionaries({}, optional={"n": st.integers(0, 3), "tag": st.sampled_from(["x", "y"])})
captions = st.one_of(st.none(), st.sampled_from(["", "one", "two"]))
conditions = st.sampled_from(
    [
        None,
        {"field": "n", "gte": 2},
        {"field": "tag", "ne": "x"},
        {"any": [{"field": "tag", "eq": "y"}, {"field": "n", "exists": False}]},
    ]
).map(lambda value: None if value is None else parse_filter(value))


class AgainstExact(RuleBasedStateMachine):
    settings_used: LocalSettings

    @initialize()
    def begin(self) -> None:
        self.resources = ExitStack()
        self.folder = self.resources.enter_context(quick_folder()) / "collection"
        self.exact = ExactCollection(dimension=DIMENSION, fingerprint=FINGERPRINT)
        self.local: LocalCollection = open_local(self.folder, self.settings_used)

    @rule(items=st.lists(st.tuples(names, seeds, metadata, captions), min_size=1, max_size=4))
    def add(self, items: list[tuple[str, int, dict[str, Any], str | None]]) -> None:
        images = [picture(name, seed, metadata=fields, caption=text) for name, seed, fields, text in items]
        assert self.local.add(images) == self.exact.add(images)

    @rule(name=names, fields=st.one_of(st.none(), metadata), caption=captions)
    def update(self, name: str, fields: dict[str, Any] | None, caption: str | None) -> None:
        mine = self.local.update(name, metadata=fields, caption=caption)
        theirs = self.exact.update(name, metadata=fields, caption=caption)
        assert (mine is None) is (theirs is None)

    @rule(name=names)
    def delete(self, name: str) -> None:
        assert self.local.delete(name) is self.exact.delete(name)

    @rule()
    def snapshot(self) -> None:
        self.local.snapshot()

    @rule()
    def reopen(self) -> None:
        self.local.close()
        self.local = open_local(self.folder, self.settings_used)

    @rule(seed=seeds, weight=st.sampled_from([0.0, 0.5, 1.0]), limit=st.integers(1, 4), condition=conditions)
    def search(self, seed: int, weight: float, limit: int, condition: Filter | None) -> None:
        query = query_vector(seed, weight)
        assert pages(self.local, query, limit, condition) == pages(self.exact, query, limit, condition)

    @invariant()
    def holds_the_same(self) -> None:
        mine = self.local.list_images(limit=20).items
        theirs = self.exact.list_images(limit=20).items
        assert [plain(record) for record in mine] == [plain(record) for record in theirs]
        for record in mine:
            assert self.local.original(record.id) == self.exact.original(record.id)
        assert self.local.status().num_images == len(theirs)
        assert self.local.status().sequence == self.exact.status().sequence

    def teardown(self) -> None:
        if hasattr(self, "local"):
            self.local.close()
            self.resources.close()


def pages(collection: Collection, query: Any, limit: int, condition: Filter | None) -> list[list[tuple[str, float]]]:
    found: list[list[tuple[str, float]]] = []
    cursor = None
    while True:
        page = collection.search(query, limit=limit, cursor=cursor, filter=condition)
        found.append([(hit.record.id, hit.score) for hit in page.items])
        cursor = page.cursor
        if cursor is None:
            return found


def plain(record: Any) -> Any:
    return replace(record, created_at=0.0, updated_at=0.0)


@pytest.mark.parametrize("engine", ["flat", "ivf_sq8", "hnsw"])
def test_a_local_collection_does_what_the_exact_one_does(engine: Any) -> None:
    class Machine(AgainstExact):
        settings_used = replace(QUIET, engine=engine, exact_filter_limit=1, over_fetch=10)

    run_state_machine_as_test(Machine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))
