"""Conditions on metadata: their JSON form, their tree, and what they mean.

A condition is a JSON object of one of these forms::

    {"field": "shop", "eq": "x"}                      a leaf; operators: eq ne lt lte gt gte in exists
    {"field": "price", "gte": 1, "lt": 10}            several operators on one leaf: all of them must hold
    {"field": "size", "in": [1, 2]}                   equal to one of the values
    {"field": "shop.city", "exists": true}            a dot steps into a nested object
    {"field": ["a.b", "c"], "eq": 1}                  a list names keys that themselves contain a dot
    {"all": [...]}, {"any": [...]}, {"not": {...}}    combinations; lists hold at least one condition

Meaning, the same in memory (`matches`) and in SQL (`index.filter_sql`):

* A field is *there* when every key on its path is; ``null`` counts as there. Steps go into objects, not
  arrays.
* The *values* of a field are the field itself when it is a scalar (string, number, boolean, ``null``), and
  the scalars directly in it when it is an array: ``{"field": "tags", "eq": "red"}`` finds ``{"tags":
  ["red", "round"]}``. An object has no values.
* ``eq``, ``in``, ``lt``, ``lte``, ``gt``, ``gte`` hold when **some** value meets them; each operator looks
  for its own.
* ``ne`` is exactly ``not eq``; so it also holds where the field is missing. ``{"exists": false}`` is ``not
  exists``.
* Values of different types are never equal and never ordered: ``"1"``, ``1``, ``true`` and ``null`` are
  four different values. ``1`` and ``1.0`` are the same number. Ordering takes a number or a string, and
  compares strings by code point.
* Numbers outside the signed 64-bit range are compared as 64-bit floats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from pydantic import JsonValue

from index.errors import FilterError

Scalar: TypeAlias = str | int | float | bool | None


class Kind(StrEnum):
    """The type of a metadata value; values of different kinds never compare."""

    NULL = "null"
    BOOLEAN = "boolean"
    NUMBER = "number"
    TEXT = "text"
    OBJECT = "object"
    ARRAY = "array"


class Operator(StrEnum):
    """A comparison of one stored value with one given value."""

    EQ = "eq"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"


@dataclass(frozen=True, slots=True)
class Compare:
    """Some value of the field stands in this relation to ``value``."""

    path: tuple[str, ...]
    operator: Operator
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """Some value of the field equals one of ``values``."""

    path: tuple[str, ...]
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """The field is there, whatever it holds."""

    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class All:
    """Every condition holds."""

    conditions: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one condition holds."""

    conditions: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    condition: Filter


Filter: TypeAlias = Compare | OneOf | Exists | All | AnyOf | Not


@dataclass(frozen=True, slots=True)
class FilterLimits:
    """How large a condition may be.

    Attributes:
        max_depth: ``all``, ``any`` and ``not`` inside each other, the leaf included.
        max_nodes: Leaf operators and combinations together.
        max_values: Values of one ``in``.
        max_string_bytes: UTF-8 bytes of one value or of one field name.
    """

    max_depth: int = 8
    max_nodes: int = 64
    max_values: int = 256
    max_string_bytes: int = 1024


def parse_filter(value: JsonValue, limits: FilterLimits | None = None) -> Filter:
    """Read a condition from its JSON form.

    Raises:
        FilterError: If it is not a condition or is too large; the message names the place, for example ``$.all[1].lt``.
    """
    return _Parser(limits or FilterLimits()).parse(value, "$", depth=1)


def matches(condition: Filter, metadata: Mapping[str, JsonValue]) -> bool:
    """Tell whether the metadata meets the condition: the definition that the SQL form must agree with."""
    match condition:
        case Compare(path, operator, value):
            return any(_holds(stored, operator, value) for stored in values_at(metadata, path))
        case OneOf(path, values):
            wanted = [comparable(value) for value in values]
            return any(comparable(stored) in wanted for stored in values_at(metadata, path))
        case Exists(path):
            return _find(metadata, path) is not _MISSING
        case All(conditions):
            return all(matches(each, metadata) for each in conditions)
        case AnyOf(conditions):
            return any(matches(each, metadata) for each in conditions)
        case Not(inner):
            return not matches(inner, metadata)


def kind_of(value: JsonValue) -> Kind:
    """Name the type of a JSON value; a boolean is not a number."""
    match value:
        case None:
            return Kind.NULL
        case bool():
            return Kind.BOOLEAN
        case int() | float():
            return Kind.NUMBER
        case str():
            return Kind.TEXT
        case dict():
            return Kind.OBJECT
        case _:
            return Kind.ARRAY


def normal_number(value: int | float) -> int | float:
    """Return the number as it is stored and compared: beyond 64 bits an integer becomes a float."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value


def comparable(value: Scalar) -> tuple[Kind, Scalar]:
    """Return a pair that is equal for two scalars exactly when the language calls them equal."""
    kind = kind_of(value)
    if kind is Kind.NUMBER:
        assert isinstance(value, int | float)
        return kind, normal_number(value)
    return kind, value


def values_at(metadata: Mapping[str, JsonValue], path: Sequence[str]) -> Iterator[Scalar]:
    """Yield the scalars that a comparison with this field looks at."""
    found = _find(metadata, path)
    if isinstance(found, list):
        yield from (item for item in found if not isinstance(item, dict | list))
    elif not isinstance(found, _Missing | Mapping):
        yield found


class _Missing:
    """Stands for a field that is not there, since ``None`` is JSON's null."""


_MISSING = _Missing()


def _find(metadata: Mapping[str, JsonValue], path: Sequence[str]) -> JsonValue | Mapping[str, JsonValue] | _Missing:
    here: JsonValue | Mapping[str, JsonValue] = metadata
    for key in path:
        if not isinstance(here, Mapping) or key not in here:
            return _MISSING
        here = here[key]
    return here


def _holds(stored: Scalar, operator: Operator, value: Scalar) -> bool:
    left_kind, left = comparable(stored)
    right_kind, right = comparable(value)
    if left_kind is not right_kind:
        return False
    if operator is Operator.EQ:
        return left == right
    if isinstance(left, str) and isinstance(right, str):
        return _ordered((left > right) - (left < right), operator)
    assert isinstance(left, int | float)
    assert isinstance(right, int | float)
    return _ordered((left > right) - (left < right), operator)


def _ordered(sign: int, operator: Operator) -> bool:
    match operator:
        case Operator.LT:
            return sign < 0
        case Operator.LTE:
            return sign <= 0
        case Operator.GT:
            return sign > 0
        case _:
            return sign >= 0


_LEAF_OPERATORS = ("eq", "ne", "lt", "lte", "gt", "gte", "in", "exists")


class _Parser:
    """Reads one condition, counting its nodes."""

    def __init__(self, limits: FilterLimits) -> None:
        self._limits = limits
        self._num_nodes = 0

    def parse(self, value: JsonValue, where: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            raise FilterError(
                f"{where}: a condition is an object such as {{'field': 'shop', 'eq': 'x'}}; got {_shown(value)}"
            )
        if depth > self._limits.max_depth:
            raise FilterError(
                f"{where}: conditions are nested more than {self._limits.max_depth} levels deep; flatten them"
            )
        if "field" in value:
            return self._leaf(value, where)
        if len(value) != 1:
            raise FilterError(
                f"{where}: expected 'field' with operators, or exactly one of 'all', 'any', 'not'; got {_keys(value)}"
            )
        ((name, inner),) = value.items()
        self._count(where)
        match name:
            case "all":
                return All(self._several(inner, f"{where}.all", depth))
            case "any":
                return AnyOf(self._several(inner, f"{where}.any", depth))
            case "not":
                return Not(self.parse(inner, f"{where}.not", depth + 1))
            case _:
                raise FilterError(f"{where}: expected 'field', 'all', 'any' or 'not'; got {_keys(value)}")

    def _several(self, value: JsonValue, where: str, depth: int) -> tuple[Filter, ...]:
        if not isinstance(value, list) or not value:
            raise FilterError(f"{where}: expected a list of at least one condition; got {_shown(value)}")
        return tuple(self.parse(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value))

    def _leaf(self, value: dict[str, JsonValue], where: str) -> Filter:
        path = self._path(value["field"], f"{where}.field")
        operators = {name: operand for name, operand in value.items() if name != "field"}
        if not operators:
            raise FilterError(
                f"{where}: expected at least one of {', '.join(_LEAF_OPERATORS)} beside 'field'; got none"
            )
        conditions = tuple(self._operator(path, name, operand, where) for name, operand in operators.items())
        return conditions[0] if len(conditions) == 1 else All(conditions)

    def _path(self, value: JsonValue, where: str) -> tuple[str, ...]:
        if isinstance(value, str):
            keys: Sequence[JsonValue] = value.split(".")
            if "" in keys:
                raise FilterError(f"{where}: {_shown(value)} has an empty key; name keys with dots or none as a list")
        elif isinstance(value, list) and value:
            keys = value
        else:
            raise FilterError(f"{where}: expected a name, or a list of at least one key; got {_shown(value)}")
        return tuple(self._text(key, where) for key in keys)

    def _operator(self, path: tuple[str, ...], name: str, operand: JsonValue, where: str) -> Filter:
        self._count(where)
        where = f"{where}.{name}"
        match name:
            case "eq":
                return Compare(path, Operator.EQ, self._scalar(operand, where))
            case "ne":
                return Not(Compare(path, Operator.EQ, self._scalar(operand, where)))
            case "lt" | "lte" | "gt" | "gte":
                return Compare(path, Operator(name), self._orderable(operand, where))
            case "in":
                return OneOf(path, self._values(operand, where))
            case "exists":
                if not isinstance(operand, bool):
                    raise FilterError(f"{where}: expected true or false; got {_shown(operand)}")
                return Exists(path) if operand else Not(Exists(path))
            case _:
                raise FilterError(f"{where}: unknown operator; expected one of {', '.join(_LEAF_OPERATORS)}")

    def _values(self, value: JsonValue, where: str) -> tuple[Scalar, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= self._limits.max_values:
            raise FilterError(f"{where}: expected a list of 1 to {self._limits.max_values} values; got {_shown(value)}")
        return tuple(self._scalar(item, f"{where}[{i}]") for i, item in enumerate(value))

    def _orderable(self, value: JsonValue, where: str) -> Scalar:
        if kind_of(value) not in (Kind.NUMBER, Kind.TEXT):
            raise FilterError(
                f"{where}: expected a number or a string, since only these have an order; got {_shown(value)}"
            )
        return self._scalar(value, where)

    def _scalar(self, value: JsonValue, where: str) -> Scalar:
        if isinstance(value, dict | list):
            raise FilterError(f"{where}: expected a string, number, boolean or null; got {_shown(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise FilterError(f"{where}: expected a finite number; got {value}")
        return self._text(value, where) if isinstance(value, str) else value

    def _text(self, value: JsonValue, where: str) -> str:
        if not isinstance(value, str):
            raise FilterError(f"{where}: expected a string; got {_shown(value)}")
        try:
            num_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise FilterError(f"{where}: the string is not valid Unicode (a lone surrogate)") from None
        if num_bytes > self._limits.max_string_bytes:
            raise FilterError(f"{where}: expected at most {self._limits.max_string_bytes} bytes; got {num_bytes}")
        if "\x00" in value:
            raise FilterError(f"{where}: strings cannot hold the character U+0000")
        return value

    def _count(self, where: str) -> None:
        self._num_nodes += 1
        if self._num_nodes > self._limits.max_nodes:
            raise FilterError(
                f"{where}: more than {self._limits.max_nodes} conditions; use fewer, or 'in' for many values"
            )


def _shown(value: JsonValue) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with {_keys(value)}"
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 64 else "a large integer"
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(value: dict[str, JsonValue]) -> str:
    return _clipped(", ".join(repr(key) for key in list(value)[:6])) or "nothing"


def _clipped(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."
