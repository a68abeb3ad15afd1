"""What metadata a collection holds: the fields that filters can name, their kinds and their commonest values."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from index.filter_sql import FieldRow, SqlValue, field_rows
from index.filters import Kind

# The pictures added last speak for all of a large collection, so that the work is bounded.
MAX_PICTURES = 20_000
MAX_FIELDS = 100
MAX_VALUES = 20
_SCALARS = (Kind.TEXT, Kind.NUMBER, Kind.BOOLEAN)


@dataclass(frozen=True, slots=True)
class ValueCount:
    """A value and the number of pictures that have it."""

    value: str | int | float | bool
    num_images: int


@dataclass(frozen=True, slots=True)
class FieldSummary:
    """One field of the metadata.

    Attributes:
        name: As a filter's `field` takes it: keys with dots between them, or a list where a key contains a dot.
        kinds: Of its values: `text`, `number`, `boolean`.
        num_images: Pictures that have it.
        values: The commonest values, most frequent first, then by value.
        minimum: Of its numbers; ``None`` where there are none.
        maximum: Of its numbers; ``None`` where there are none.
    """

    name: str | tuple[str, ...]
    kinds: tuple[Kind, ...]
    num_images: int
    values: tuple[ValueCount, ...]
    minimum: float | None
    maximum: float | None


def summarise_metadata(records: Iterable[Mapping[str, JsonValue]]) -> tuple[FieldSummary, ...]:
    """Summarise metadata that is at hand."""
    num_values: Counter[FieldRow] = Counter()
    num_images: Counter[str] = Counter()
    for metadata in records:
        rows = field_rows(metadata)
        num_values.update(rows)
        num_images.update({path for path, _, _ in rows})
    return summarise_counts(((*row, num) for row, num in num_values.items()), num_images)


def summarise_counts(
    values: Iterable[tuple[str, str, SqlValue, int]], num_images: Mapping[str, int]
) -> tuple[FieldSummary, ...]:
    """Summarise counted rows.

    Args:
        values: Path, kind, value, and the number of pictures that have it, each once.
        num_images: The pictures that have each path.

    Returns:
        Fields with a scalar somewhere, those of most pictures first, then by name.
    """
    by_path: defaultdict[str, list[tuple[Kind, SqlValue, int]]] = defaultdict(list)
    for path, kind, value, num in values:
        if Kind(kind) in _SCALARS:
            by_path[path].append((Kind(kind), value, num))
    summaries = [_summary(path, rows, num_images[path]) for path, rows in by_path.items()]
    return tuple(sorted(summaries, key=lambda each: (-each.num_images, str(each.name)))[:MAX_FIELDS])


def _summary(path: str, rows: list[tuple[Kind, SqlValue, int]], num_images: int) -> FieldSummary:
    found = {kind for kind, _, _ in rows}
    commonest = sorted(rows, key=lambda row: (-row[2], row[0], str(row[1])))[:MAX_VALUES]
    numbers = [float(value) for kind, value, _ in rows if kind is Kind.NUMBER and value is not None]
    return FieldSummary(
        name=_name(path),
        kinds=tuple(kind for kind in _SCALARS if kind in found),
        num_images=num_images,
        values=tuple(ValueCount(_shown(kind, value), num) for kind, value, num in commonest),
        minimum=min(numbers, default=None),
        maximum=max(numbers, default=None),
    )


def _name(path: str) -> str | tuple[str, ...]:
    keys: list[str] = json.loads(path)
    return tuple(keys) if any("." in key or not key for key in keys) else ".".join(keys)


def _shown(kind: Kind, value: SqlValue) -> str | int | float | bool:
    assert value is not None, "a scalar that is not null"
    return bool(value) if kind is Kind.BOOLEAN else value
