from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from index.catalogue import CatalogueReader
from index.errors import CollectionError, FilterError
from index.filter_sql import field_rows, to_sql
from index.filters import (
    All,
    AnyOf,
    Compare,
    Exists,
    Filter,
    FilterLimits,
    Not,
    OneOf,
    Operator,
    matches,
    parse_filter,
)


class Table:
    """One picture in SQLite, laid out as the catalogue lays it out."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        self.connection.execute("CREATE TABLE images(id INTEGER PRIMARY KEY)")
        self.connection.execute("CREATE TABLE fields(image, path, kind, value)")
        self.connection.execute("INSERT INTO images VALUES (1)")

    def holds(self, condition: Filter, metadata: dict[str, JsonValue]) -> bool:
        self.connection.execute("DELETE FROM fields")
        rows = [(1, *row) for row in field_rows(metadata)]
        self.connection.executemany("INSERT INTO fields VALUES (?, ?, ?, ?)", rows)
        sql, parameters = to_sql(condition)
        found = self.connection.execute(f"SELECT count(*) FROM images WHERE {sql}", parameters).fetchone()[0]
        listed = CatalogueReader(self.connection, "x", 1, 1).matching(condition).tolist()
        assert listed == [1] * found, "counting and listing must agree"
        return bool(found == 1)


def holds(condition: JsonValue, metadata: dict[str, JsonValue]) -> bool:
    """Evaluate both ways; they must agree."""
    parsed = parse_filter(condition)
    in_memory = matches(parsed, metadata)
    with closing((table := Table()).connection):
        assert table.holds(parsed, metadata) is in_memory
    return in_memory


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    table.connection.close()


def leaf(field: JsonValue = "f", **operators: JsonValue) -> dict[str, JsonValue]:
    return {"field": field, **{name.removesuffix("_"): operand for name, operand in operators.items()}}


def test_equality_is_by_type_and_value() -> None:
    values: list[JsonValue] = ["1", 1, True, None, "", 0, False]
    for stored in values:
        for given_ in values:
            assert holds(leaf(eq=given_), {"f": stored}) is (type(stored) is type(given_) and stored == given_)


def test_whole_and_broken_numbers_are_one_type() -> None:
    assert holds(leaf(eq=1), {"f": 1.0})
    assert holds(leaf(lt=1.5), {"f": 1})
    assert not holds(leaf(gt=2**53), {"f": float(2**53)})
    assert holds(leaf(gt=float(2**53)), {"f": 2**53 + 1})


def test_numbers_beyond_64_bits_compare_as_floats() -> None:
    assert holds(leaf(eq=2**70 + 1), {"f": 2**70})
    assert not holds(leaf(eq=2**63 - 1), {"f": 2**63 - 2})
    assert holds(leaf(gt=0), {"f": 10**400})


def test_ne_is_exactly_not_eq_so_it_holds_for_a_missing_field() -> None:
    assert holds(leaf(ne=1), {})
    assert holds(leaf(ne=1), {"f": "1"})
    assert not holds(leaf(ne=1), {"f": 1})
    assert not holds(leaf(ne=1), {"f": [1, 2]})


def test_a_comparison_never_holds_for_a_missing_field() -> None:
    for condition in (leaf(eq=None), leaf(lt=1), leaf(gte="a"), leaf(in_=[None, 1])):
        assert not holds(condition, {"g": 1})


def test_null_is_there_and_equals_null() -> None:
    assert holds(leaf(exists=True), {"f": None})
    assert holds(leaf(eq=None), {"f": None})
    assert not holds(leaf(exists=False), {"f": None})
    assert holds(leaf(exists=False), {})


def test_an_array_matches_when_one_of_its_scalars_does() -> None:
    tags: dict[str, JsonValue] = {"f": ["red", 3, ["deep"], {"key": "deeper"}]}
    assert holds(leaf(eq="red"), tags)
    assert holds(leaf(in_=["blue", 3]), tags)
    assert holds(leaf(gt=2), tags)
    assert not holds(leaf(eq="deep"), tags)
    assert not holds(leaf("f.key", eq="deeper"), tags)
    assert holds(leaf(exists=True), {"f": []})


def test_each_operator_of_a_leaf_looks_for_its_own_value_in_an_array() -> None:
    assert holds(leaf(gte=5, lte=1), {"f": [0, 9]})
    assert not holds(leaf(gte=5, lte=1), {"f": 3})


def test_a_dot_steps_into_an_object_and_a_list_names_keys_with_dots() -> None:
    nested: dict[str, JsonValue] = {"a": {"b": 1}, "a.b": 2, 'q"uote': {"'": 3}}
    assert holds(leaf("a.b", eq=1), nested)
    assert not holds(leaf("a.b", eq=2), nested)
    assert holds(leaf(["a.b"], eq=2), nested)
    assert holds(leaf(['q"uote', "'"], eq=3), nested)
    assert holds(leaf("a", exists=True), nested)
    assert not holds(leaf("a", eq="b"), nested)


def test_several_operators_on_one_leaf_are_all_meant() -> None:
    assert parse_filter(leaf(gte=1, lt=10)) == All((Compare(("f",), Operator.GTE, 1), Compare(("f",), Operator.LT, 10)))
    assert holds(leaf(gte=1, lt=10), {"f": 5})
    assert not holds(leaf(gte=1, lt=10), {"f": 10})


def test_combinations_nest() -> None:
    condition: JsonValue = {"all": [{"any": [leaf(eq=1), leaf("g", eq=2)]}, {"not": leaf("h", exists=True)}]}
    assert holds(condition, {"g": 2})
    assert not holds(condition, {"g": 2, "h": 0})
    assert not holds(condition, {"g": 3})


def test_text_is_ordered_by_code_point() -> None:
    assert holds(leaf(lt="a"), {"f": "Z"})
    assert holds(leaf(gt="\uffff"), {"f": "\U0001f600"})


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        (None, "$"),
        ([], "$"),
        ({}, "$"),
        ({"field": "f"}, "$"),
        ({"field": "", "eq": 1}, "$.field"),
        ({"field": "a..b", "eq": 1}, "$.field"),
        ({"field": 3, "eq": 1}, "$.field"),
        ({"field": [], "eq": 1}, "$.field"),
        ({"field": ["a", 3], "eq": 1}, "$.field"),
        ({"field": "f", "like": "x"}, "$.like"),
        ({"field": "f", "eq": [1]}, "$.eq"),
        ({"field": "f", "lt": True}, "$.lt"),
        ({"field": "f", "lt": None}, "$.lt"),
        ({"field": "f", "in": []}, "$.in"),
        ({"field": "f", "in": 1}, "$.in"),
        ({"field": "f", "in": [{}]}, "$.in[0]"),
        ({"field": "f", "exists": 1}, "$.exists"),
        ({"field": "f", "eq": "\ud800"}, "$.eq"),
        ({"field": "f", "eq": "a\x00"}, "$.eq"),
        ({"field": "f", "eq": "x" * 1025}, "$.eq"),
        ({"field": "f", "eq": float("nan")}, "$.eq"),
        ({"all": []}, "$.all"),
        ({"all": [{"field": "f", "eq": 1}, {"field": "f", "gt": {}}]}, "$.all[1].gt"),
        ({"any": {"field": "f", "eq": 1}}, "$.any"),
        ({"not": [{"field": "f", "eq": 1}]}, "$.not"),
        ({"nor": []}, "$"),
        ({"all": [{"field": "f", "eq": 1}], "any": [{"field": "f", "eq": 1}]}, "$"),
        ({"field": "f", "in": list(range(257))}, "$.in"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(condition: JsonValue, place: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(condition)
    assert str(caught.value).startswith(f"{place}: ")
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CollectionError)


def test_depth_and_number_of_conditions_are_limited() -> None:
    deep: JsonValue = leaf(eq=1)
    for _ in range(7):
        deep = {"not": deep}
    parse_filter(deep)
    with pytest.raises(FilterError, match="nested more than 8"):
        parse_filter({"not": deep})
    parse_filter({"all": [leaf(eq=1)] * 63})
    with pytest.raises(FilterError, match="more than 64"):
        parse_filter({"all": [leaf(eq=1)] * 64})
    with pytest.raises(FilterError, match="more than 2 "):
        parse_filter({"all": [leaf(eq=1)] * 2}, FilterLimits(max_nodes=2))


def test_a_condition_nested_a_hundred_thousand_deep_is_refused_without_a_crash() -> None:
    deep: JsonValue = leaf(eq=1)
    for _ in range(100_000):
        deep = {"not": deep}
    with pytest.raises(FilterError):
        parse_filter(deep)


def test_values_never_become_part_of_the_sql() -> None:
    evil = "x') OR 1=1 --"
    sql, parameters = to_sql(parse_filter({"field": [evil], "in": [evil, 1, None]}))
    assert evil not in sql
    assert evil in parameters


keys = st.sampled_from(["a", "b", "a.b", 'q"', "'", "\\", "é", "", "$", "[0]", "\n"])
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, 10**400]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.1 + 0.2, 0.3, -0.0, float(2**53), float(2**63), 5e-324, 1.7976931348623157e308]),
)
texts = st.one_of(
    st.sampled_from(["", "a", "A", "1", "true", "null", "é", "e\u0301", "\U0001f600", "\uffff", "'", '"', "%"]),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), max_size=4),
)
scalars: st.SearchStrategy[Any] = st.one_of(st.none(), st.booleans(), numbers, texts)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
documents = st.dictionaries(keys, values, max_size=4)
paths = st.lists(keys, min_size=1, max_size=3).map(tuple)
orderable = st.one_of(numbers, texts)
leaves: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Compare, paths, st.just(Operator.EQ), scalars),
    st.builds(Compare, paths, st.sampled_from([Operator.LT, Operator.LTE, Operator.GT, Operator.GTE]), orderable),
    st.builds(OneOf, paths, st.lists(scalars, min_size=1, max_size=4).map(tuple)),
    st.builds(Exists, paths),
)
trees: st.SearchStrategy[Filter] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@given(condition=trees, metadata=documents)
@settings(max_examples=500, deadline=None)
def test_the_sql_form_agrees_with_the_meaning_on_random_conditions(
    table: Table, condition: Filter, metadata: dict[str, JsonValue]
) -> None:
    metadata = json.loads(json.dumps(metadata))
    assert table.holds(condition, metadata) is matches(condition, metadata)


@st.composite
def related(draw: st.DrawFn) -> tuple[Filter, dict[str, JsonValue]]:
    """A leaf about a value that is really there, so that both answers are common."""
    metadata: dict[str, Any] = draw(st.dictionaries(keys, values, min_size=1, max_size=3))
    path, here = [], metadata
    while isinstance(here, dict) and here:
        key = draw(st.sampled_from(sorted(here)))
        path.append(key)
        here = here[key]
    stored = here[0] if isinstance(here, list) and here else here
    if stored is None or isinstance(stored, bool | list | dict):
        value = None if isinstance(stored, list | dict) else stored
        return OneOf(tuple(path), (draw(scalars), value)), metadata
    return Compare(tuple(path), draw(st.sampled_from(list(Operator))), stored), metadata


@given(case=related())
@settings(max_examples=400, deadline=None)
def test_the_sql_form_agrees_with_the_meaning_on_values_that_are_there(
    table: Table,
    case: tuple[Filter, dict[str, JsonValue]],
) -> None:
    condition, metadata = case
    metadata = json.loads(json.dumps(metadata))
    assert table.holds(condition, metadata) is matches(condition, metadata)
