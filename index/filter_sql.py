"""Metadata conditions in SQLite: how metadata is laid out in rows, and how a condition reads over them.

Metadata is kept as JSON for showing and, beside it, as one row per field in ``fields(image, path, kind,
value)``. Querying rows rather than the JSON text has two reasons: an index answers a selective condition
without reading every picture, and values are bound by Python, so that no version of SQLite's JSON parser
(keys with quotes, ``\\u0000``, the last bit of a float) can disagree with `index.filters.matches`.

Nothing of a condition is ever pasted into the SQL: paths and values are bound parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from index.filters import (
    All,
    AnyOf,
    Compare,
    Exists,
    Filter,
    Kind,
    Not,
    OneOf,
    Operator,
    Scalar,
    comparable,
    kind_of,
)

SqlValue: TypeAlias = str | int | float | None
FieldRow: TypeAlias = tuple[str, str, SqlValue]
Leaf: TypeAlias = Compare | OneOf | Exists

_SYMBOLS = {Operator.EQ: "=", Operator.LT: "<", Operator.LTE: "<=", Operator.GT: ">", Operator.GTE: ">="}


def field_rows(metadata: Mapping[str, JsonValue]) -> set[FieldRow]:
    """Lay metadata out as ``(path, kind, value)`` rows.

    A scalar is one row. An array is one row of kind ``array`` and one for each scalar directly in it, under the
    same path. An object is one row of kind ``object`` and the rows of its fields.
    """
    return set(_rows_under((), metadata))


def to_sql(condition: Filter) -> tuple[str, list[SqlValue]]:
    """Write a condition as an SQL expression over ``images.id`` with its bound parameters.

    Returns:
        For example ``("images.id IN (SELECT image FROM fields WHERE path = ? AND kind = ? AND value < ?)", [...])``.
    """
    match condition:
        case All(conditions):
            return _joined(" AND ", conditions)
        case AnyOf(conditions):
            return _joined(" OR ", conditions)
        case Not(inner):
            sql, parameters = to_sql(inner)
            return f"NOT ({sql})", parameters
        case _:
            test, parameters = leaf_test(condition)
            return f"images.id IN (SELECT image FROM fields WHERE {test})", parameters  # noqa: S608 - constants


def leaf_test(condition: Leaf) -> tuple[str, list[SqlValue]]:
    """Write a condition on one field as an SQL expression over a row of ``fields``, with its bound parameters."""
    match condition:
        case Compare(path, operator, value):
            kind, bound = _bound(value)
            if kind is Kind.NULL:
                return _under("kind = ?", path, [kind])
            return _under(f"kind = ? AND value {_SYMBOLS[operator]} ?", path, [kind, bound])
        case OneOf(path, values):
            return _one_of(path, values)
        case Exists(path):
            return _under("1", path, [])


def _rows_under(path: tuple[str, ...], value: JsonValue | Mapping[str, JsonValue]) -> Iterator[FieldRow]:
    if isinstance(value, Mapping):
        if path:
            yield _path_text(path), Kind.OBJECT.value, None
        for key, inner in value.items():
            yield from _rows_under((*path, key), inner)
    elif isinstance(value, list):
        yield _path_text(path), Kind.ARRAY.value, None
        for item in value:
            if not isinstance(item, dict | list):
                yield _scalar_row(path, item)
    else:
        yield _scalar_row(path, value)


def _scalar_row(path: tuple[str, ...], value: Scalar) -> FieldRow:
    kind, bound = _bound(value)
    return _path_text(path), kind.value, bound


def _path_text(path: Sequence[str]) -> str:
    return json.dumps(path, ensure_ascii=False, separators=(",", ":"))


def _bound(value: Scalar) -> tuple[Kind, SqlValue]:
    return kind_of(value), comparable(value)[1]


def _one_of(path: tuple[str, ...], values: Sequence[Scalar]) -> tuple[str, list[SqlValue]]:
    by_kind: dict[Kind, list[SqlValue]] = {}
    for value in values:
        kind, bound = _bound(value)
        by_kind.setdefault(kind, []).append(bound)
    tests, parameters = [], list[SqlValue]()
    for kind, bounds in by_kind.items():
        if kind is Kind.NULL:
            tests.append("kind = ?")
            parameters.append(kind.value)
        else:
            tests.append(f"(kind = ? AND value IN ({', '.join('?' * len(bounds))}))")
            parameters += [kind.value, *bounds]
    return _under(f"({' OR '.join(tests)})", path, parameters)


def _under(test: str, path: Sequence[str], parameters: Sequence[SqlValue]) -> tuple[str, list[SqlValue]]:
    return f"path = ? AND {test}", [_path_text(path), *(str(p) if isinstance(p, Kind) else p for p in parameters)]


def _joined(word: str, conditions: Sequence[Filter]) -> tuple[str, list[SqlValue]]:
    parts = [to_sql(each) for each in conditions]
    return "(" + word.join(sql for sql, _ in parts) + ")", [p for _, each in parts for p in each]
