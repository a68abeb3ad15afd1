"""What every collection does, run over each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.collection import AddOutcome, AddStatus, Collection, NewImage
from index.errors import (
    CollectionClosedError,
    InvalidCursorError,
    InvalidImageError,
    InvalidQueryError,
)
from index.exact import ExactCollection
from index.filters import Kind, parse_filter
from index.settings import LocalSettings
from tests.index.builders import (
    DIMENSION,
    FINGERPRINT,
    QUIET,
    content_of,
    open_local,
    picture,
    query_vector,
    quick_folder,
    shown,
    unit_vector,
)

Opened = AbstractContextManager[Collection]


@contextmanager
def exact() -> Iterator[Collection]:
    collection = ExactCollection(dimension=DIMENSION, fingerprint=FINGERPRINT)
    yield collection
    collection.close()


@contextmanager
def local(settings: LocalSettings) -> Iterator[Collection]:
    with quick_folder() as folder, open_local(folder / "collection", settings) as collection:
        yield collection


SMALL = replace(QUIET, exact_filter_limit=3, over_fetch=8)
MAKERS: dict[str, Callable[[], Opened]] = {
    "exact": exact,
    "flat": lambda: local(QUIET),
    "numpy": lambda: local(replace(QUIET, engine="numpy")),
    "ivf_sq8": lambda: local(replace(SMALL, engine="ivf_sq8")),
    "hnsw": lambda: local(replace(SMALL, engine="hnsw")),
}


@pytest.fixture(params=sorted(MAKERS))
def collection(request: pytest.FixtureRequest) -> Iterator[Collection]:
    with MAKERS[request.param]() as opened:
        yield opened


def filled(collection: Collection, num: int = 40) -> list[NewImage]:
    images = [picture(f"p{i:03d}", i, metadata={"n": i, "shop": "xyz"[i % 3]}) for i in range(num)]
    collection.add(images)
    return images


def expected_order(images: list[NewImage], seed: int, weight: float = 0.5) -> list[str]:
    query = query_vector(seed, weight).astype(np.float64)
    scored = [
        (-float(np.float32(np.concatenate([each.appearance, each.structure]).astype(np.float64) @ query)), each.id)
        for each in images
    ]
    return [name for _, name in sorted(scored)]


def test_an_empty_collection_finds_nothing(collection: Collection) -> None:
    assert collection.search(query_vector(0), limit=3).items == []
    assert collection.list_images(limit=3).items == []
    assert collection.count() == 0
    assert collection.status().is_ready
    assert collection.get("a") is None
    assert collection.vectors("a") is None
    assert collection.original("a") is None
    assert not collection.delete("a")
    assert collection.update("a", caption="x") is None


def test_what_is_added_can_be_read_back(collection: Collection) -> None:
    image = picture("a", 3, metadata={"shop": "x", "deep": {"k": [1, None, 0.5]}}, caption="a red chair")
    before = time.time()
    assert collection.add([image]) == [AddOutcome("a", AddStatus.CREATED)]
    record = collection.get("a")
    assert record is not None
    assert (record.id, record.caption, record.metadata) == ("a", "a red chair", image.metadata)
    assert (record.width, record.height, record.media_type) == (4, 3, "image/png")
    assert (record.num_bytes, record.content_hash) == (len(image.content), image.content_hash)
    assert record.fingerprint == FINGERPRINT
    assert before <= record.created_at <= record.updated_at <= time.time()
    assert collection.original("a") == image.content
    vectors = collection.vectors("a")
    assert vectors is not None
    np.testing.assert_array_equal(vectors[0], image.appearance)
    np.testing.assert_array_equal(vectors[1], image.structure)
    by_content = collection.find_content(image.content_hash)
    assert by_content is not None
    assert by_content.record == record
    np.testing.assert_array_equal(by_content.structure, image.structure)
    assert collection.find_content("0" * 64) is None


def test_search_finds_the_best_in_order_and_its_vectors_explain_the_score(collection: Collection) -> None:
    images = filled(collection)
    for seed, weight in enumerate([0.0, 0.3, 0.5, 1.0]):
        query = query_vector(seed, weight)
        page = collection.search(query, limit=10)
        assert [hit.record.id for hit in page.items] == expected_order(images, seed, weight)[:10]
        for hit in page.items:
            parts = query[:DIMENSION] @ hit.appearance, query[DIMENSION:] @ hit.structure
            assert hit.score == pytest.approx(sum(parts), abs=1e-6)
            assert hit.record == collection.get(hit.record.id)


def test_a_write_is_found_by_the_next_search(collection: Collection) -> None:
    filled(collection)
    target = picture("target", 777)
    query = np.concatenate([target.appearance, target.structure])
    collection.add([target])
    assert collection.search(query, limit=1).items[0].record.id == "target"
    collection.delete("target")
    assert collection.search(query, limit=1).items[0].record.id != "target"


def test_adding_the_same_again_changes_nothing(collection: Collection) -> None:
    image = picture("a", 1, metadata={"k": 1}, caption="c")
    collection.add([image])
    record, sequence = collection.get("a"), collection.status().sequence
    assert collection.add([image]) == [AddOutcome("a", AddStatus.UNCHANGED)]
    assert collection.get("a") == record
    assert collection.status().sequence == sequence


def test_the_same_content_keeps_its_vectors(collection: Collection) -> None:
    image = picture("a", 1)
    collection.add([image])
    again = replace(image, appearance=unit_vector(99), metadata={"new": True})
    assert collection.add([again]) == [AddOutcome("a", AddStatus.REPLACED)]
    vectors = collection.vectors("a")
    assert vectors is not None
    np.testing.assert_array_equal(vectors[0], image.appearance)


def test_replacing_content_replaces_everything_but_the_time_of_creation(collection: Collection) -> None:
    collection.add([picture("a", 1, metadata={"k": 1}, caption="old")])
    old = collection.get("a")
    assert collection.add([picture("a", 2, metadata={"k": 2})]) == [AddOutcome("a", AddStatus.REPLACED)]
    new = collection.get("a")
    assert old is not None
    assert new is not None
    assert (new.metadata, new.caption) == ({"k": 2}, None)
    assert new.created_at == old.created_at
    assert new.sequence > old.sequence
    assert collection.original("a") == content_of(2)
    assert collection.count() == collection.status().num_images == 1
    assert collection.find_content(old.content_hash) is None
    assert collection.count(parse_filter({"field": "k", "eq": 1})) == 0
    query = np.concatenate([unit_vector(4), unit_vector(5)])
    hits = collection.search(query, limit=5).items
    assert [hit.score for hit in hits] == [pytest.approx(2.0, abs=1e-5)]


def test_one_content_may_have_several_ids(collection: Collection) -> None:
    collection.add([picture("a", 1), picture("b", 1), picture("c", 2)])
    collection.delete("a")
    assert collection.original("b") == content_of(1)
    found = collection.find_content(picture("x", 1).content_hash)
    assert found is not None
    assert found.record.id == "b"
    collection.delete("b")
    assert collection.find_content(picture("x", 1).content_hash) is None
    assert collection.original("c") == content_of(2)


def test_the_same_id_twice_in_one_call_ends_with_the_last(collection: Collection) -> None:
    outcomes = collection.add([picture("a", 1), picture("a", 2), picture("a", 2)])
    assert [each.status for each in outcomes] == [AddStatus.CREATED, AddStatus.REPLACED, AddStatus.UNCHANGED]
    assert collection.original("a") == content_of(2)
    assert len(collection.search(query_vector(0), limit=5).items) == 1


def test_update_changes_what_is_given_and_nothing_else(collection: Collection) -> None:
    collection.add([picture("a", 1, metadata={"k": 1}, caption="c"), picture("b", 2)])
    first = collection.update("a", metadata={"k": 2})
    assert first is not None
    assert (first.metadata, first.caption) == ({"k": 2}, "c")
    second = collection.update("a", caption="d")
    assert second is not None
    assert (second.metadata, second.caption) == ({"k": 2}, "d")
    assert second == collection.get("a")
    assert second.sequence > first.sequence
    assert collection.update("a", caption="d") == second
    assert collection.update("nobody", metadata={}) is None
    assert collection.count(parse_filter({"field": "k", "eq": 2})) == 1
    assert collection.count(parse_filter({"field": "k", "eq": 1})) == 0
    assert [each.id for each in collection.list_images(limit=5).items] == ["a", "b"]


def test_filters_leave_as_many_hits_as_match(collection: Collection) -> None:
    images = filled(collection)
    for condition, is_wanted in [
        ({"field": "shop", "eq": "x"}, lambda i: i % 3 == 0),
        ({"field": "n", "lt": 2}, lambda i: i < 2),
        ({"field": "n", "gte": 5}, lambda i: i >= 5),
        ({"not": {"field": "n", "exists": True}}, lambda i: False),
    ]:
        parsed = parse_filter(condition)
        wanted = [name for name in expected_order(images, 5) if is_wanted(int(name[1:]))]
        assert collection.count(parsed) == len(wanted)
        page = collection.search(query_vector(5), limit=40, filter=parsed)
        assert [hit.record.id for hit in page.items] == wanted
        assert page.cursor is None


def test_pages_of_a_search_add_up_to_the_whole(collection: Collection) -> None:
    images = filled(collection)
    found: list[str] = []
    cursor = None
    while True:
        page = collection.search(query_vector(1), limit=7, cursor=cursor)
        found += [hit.record.id for hit in page.items]
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.items) == 7
    assert found == expected_order(images, 1)


def test_pages_run_through_ties_by_id(collection: Collection) -> None:
    """Many ids of one content tie exactly; better and worse ones stand around them."""
    ties = [picture(f"tie{i:02d}", 1) for i in range(60)]
    collection.add([*ties, *(picture(f"other{i}", 2 + i) for i in range(20))])
    names: list[str] = []
    cursor = None
    for _ in range(100):
        page = collection.search(query_vector(1), limit=9, cursor=cursor)
        names += [hit.record.id for hit in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert len(names) == len(set(names)) == 80
    assert [name for name in names if name.startswith("tie")] == [each.id for each in ties]


def test_a_page_is_stable_while_pictures_come_and_go(collection: Collection) -> None:
    images = filled(collection)
    order = expected_order(images, 2)
    first = collection.search(query_vector(2), limit=5)
    collection.delete(order[0])
    collection.delete(order[7])
    second = collection.search(query_vector(2), limit=5, cursor=first.cursor)
    assert [hit.record.id for hit in second.items] == [*order[5:7], *order[8:11]]


def test_min_score_cuts_the_list(collection: Collection) -> None:
    filled(collection)
    everything = shown(collection.search(query_vector(3), limit=40))
    threshold = everything[6][1]
    page = collection.search(query_vector(3), limit=40, min_score=threshold)
    assert shown(page) == everything[:7]
    assert page.cursor is None
    assert collection.search(query_vector(3), limit=5, min_score=5.0).items == []
    first = collection.search(query_vector(3), limit=4, min_score=threshold)
    rest = collection.search(query_vector(3), limit=4, min_score=threshold, cursor=first.cursor)
    assert shown(first) + shown(rest) == everything[:7]
    assert rest.cursor is None


def test_listing_goes_from_the_newest_change_backwards(collection: Collection) -> None:
    images = filled(collection, 9)
    collection.update("p002", caption="touched")
    first = collection.list_images(limit=4)
    assert [each.id for each in first.items] == ["p002", "p008", "p007", "p006"]
    collection.delete("p005")
    collection.add([picture("new", 100)])
    second = collection.list_images(limit=4, cursor=first.cursor)
    assert [each.id for each in second.items] == ["p004", "p003", "p001", "p000"]
    assert second.cursor is None
    filtered = collection.list_images(limit=40, filter=parse_filter({"field": "shop", "eq": "x"}))
    assert [each.id for each in filtered.items] == ["p006", "p003", "p000"]
    assert len(images) == 9


def test_a_cursor_of_another_question_is_refused(collection: Collection) -> None:
    filled(collection)
    condition = parse_filter({"field": "shop", "eq": "x"})
    search = collection.search(query_vector(1), limit=3).cursor
    listing = collection.list_images(limit=3).cursor
    assert search is not None
    assert listing is not None
    for broken in (listing, "", "x", search[:-3], "A" + search[1:], search + "AAAA", "é", "x" * 5000):
        with pytest.raises(InvalidCursorError):
            collection.search(query_vector(1), limit=3, cursor=broken)
    with pytest.raises(InvalidCursorError, match="another query"):
        collection.search(query_vector(2), limit=3, cursor=search)
    with pytest.raises(InvalidCursorError, match="another query"):
        collection.search(query_vector(1), limit=3, cursor=search, filter=condition)
    with pytest.raises(InvalidCursorError, match="another query"):
        collection.search(query_vector(1), limit=3, cursor=search, min_score=0.1)
    with pytest.raises(InvalidCursorError):
        collection.list_images(limit=3, cursor=search)
    with pytest.raises(InvalidCursorError, match="another query"):
        collection.list_images(limit=3, cursor=listing, filter=condition)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id of 1 to"),
        ({"id": "x" * 513}, "id of 1 to"),
        ({"id": "a\x00"}, "U\\+0000"),
        ({"id": "\ud800"}, "surrogate"),
        ({"content_hash": "0" * 64}, "SHA-256"),
        ({"appearance": unit_vector(0)[:-1]}, r"shape \(8,\)"),
        ({"structure": 3 * unit_vector(0)}, "unit vector"),
        ({"structure": np.full(DIMENSION, np.nan, np.float32)}, "unit vector"),
        ({"metadata": {"k": float("inf")}}, "finite"),
        ({"metadata": {"k": "a\x00"}}, "U\\+0000"),
        ({"metadata": {"\ud800": 1}}, "surrogate"),
        ({"metadata": {1: 1}}, "string keys"),
        ({"metadata": {"k": object()}}, "expected JSON"),
        ({"caption": "\x00"}, "U\\+0000"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_of_the_call_is(
    collection: Collection, change: dict[str, object], message: str
) -> None:
    bad = replace(picture("bad", 1), **change)  # type: ignore[arg-type]
    with pytest.raises(InvalidImageError, match=message):
        collection.add([picture("good", 2), bad])
    assert collection.count() == 0


def test_metadata_nested_too_deeply_is_refused(collection: Collection) -> None:
    deep: object = 1
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(InvalidImageError, match="nested more than"):
        collection.add([picture("a", 1, metadata={"k": deep})])  # type: ignore[dict-item]


def test_a_query_that_cannot_be_searched_with_is_refused(collection: Collection) -> None:
    filled(collection, 3)
    for query in (query_vector(0)[:-1], np.full(2 * DIMENSION, np.nan, np.float32)):
        with pytest.raises(InvalidQueryError):
            collection.search(query, limit=3)
    for limit in (0, -1):
        with pytest.raises(InvalidQueryError, match="at least 1"):
            collection.search(query_vector(0), limit=limit)
        with pytest.raises(InvalidQueryError, match="at least 1"):
            collection.list_images(limit=limit)


def test_a_query_need_not_be_of_unit_length_or_a_contiguous_row(collection: Collection) -> None:
    images = filled(collection)
    query = np.stack([1000 * query_vector(4)] * 3, axis=1)[:, 1]
    hits = collection.search(query, limit=5).items
    assert [hit.record.id for hit in hits] == expected_order(images, 4)[:5]
    zero = collection.search(np.zeros(2 * DIMENSION, np.float32), limit=5).items
    assert [(hit.record.id, hit.score) for hit in zero] == [(f"p{i:03d}", 0.0) for i in range(5)]


def test_a_closed_collection_says_so(collection: Collection) -> None:
    filled(collection, 3)
    collection.close()
    calls: list[Callable[[], object]] = [
        lambda: collection.add([picture("z", 9)]),
        lambda: collection.delete("p000"),
        lambda: collection.get("p000"),
        lambda: collection.search(query_vector(0), limit=1),
        lambda: collection.list_images(limit=1),
        lambda: collection.count(),
    ]
    for call in calls:
        with pytest.raises(CollectionClosedError):
            call()
    assert not collection.status().is_ready
    collection.close()


def test_any_text_is_an_id(collection: Collection, tmp_path: Path) -> None:
    names = ["a/b", "../..", "'; DROP TABLE images --", "é", "e\u0301", "\U0001f600", " ", "\n", "%", "A", "a"]
    collection.add([picture(name, i) for i, name in enumerate(names)])
    for i, name in enumerate(names):
        assert collection.original(name) == content_of(i)
    hits = collection.search(np.zeros(2 * DIMENSION, np.float32), limit=20).items
    assert [hit.record.id for hit in hits] == sorted(names)


def test_fields_tell_what_filters_can_name(collection: Collection) -> None:
    collection.add(
        [
            picture("a", 1, metadata={"shop": "x", "price": 3, "tags": ["red", "round", "red"], "size": {"cm": 1.5}}),
            picture("b", 2, metadata={"shop": "x", "price": "cheap", "is_new": True, "odd.key": 1, "none": None}),
            picture("c", 3, metadata={"shop": "y", "price": 1, "tags": []}),
        ]
    )
    fields = {field.name: field for field in collection.fields()}
    assert [field.name for field in collection.fields()][:2] == ["price", "shop"]
    assert set(fields) == {"shop", "price", "tags", "size.cm", "is_new", ("odd.key",)}
    assert [(each.value, each.num_images) for each in fields["shop"].values] == [("x", 2), ("y", 1)]
    assert fields["price"].kinds == (Kind.TEXT, Kind.NUMBER)
    assert (fields["price"].minimum, fields["price"].maximum) == (1.0, 3.0)
    assert [(each.value, each.num_images) for each in fields["tags"].values] == [("red", 1), ("round", 1)]
    assert fields["tags"].num_images == 2
    assert [each.value for each in fields["is_new"].values] == [True]
    for name, field in fields.items():
        condition = {"field": name if isinstance(name, str) else list(name), "exists": True}
        assert collection.count(parse_filter(condition)) == field.num_images
