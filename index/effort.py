"""How far an approximate engine looks for a query, by how much of the query is structure.

A query is ``[(1 - w) v ; w e]``. Where one view is left out, neighbours are found in other places than where both
count, and what is far enough for one weight is too far or too near for another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import JsonValue

from index.collection import Vector

# Those that engines are tuned with: one view, both, the other.
STRUCTURE_WEIGHTS = (0.0, 0.5, 1.0)
# What a filter keeps that engines are tuned with.
TENTH = 0.1
_NOISE = 1e-2


@dataclass(frozen=True, slots=True)
class Effort:
    """A parameter that trades time for recall.

    Attributes:
        values: For each of `STRUCTURE_WEIGHTS`.
    """

    values: tuple[int, int, int]

    @staticmethod
    def even(value: int) -> Effort:
        """Return the same for every weight."""
        return Effort((value, value, value))

    @property
    def largest(self) -> int:
        """The most that any weight takes."""
        return max(self.values)

    def at(self, query: Vector) -> int:
        """Return the value for a query, shape ``(2 D,)``."""
        appearance, both, structure = self.values
        return both if appearance == both == structure else self.for_weight(structure_weight(query))

    def for_weight(self, weight: float) -> int:
        """Return the value for a structure weight; between two that are known it goes in a line."""
        appearance, both, structure = self.values
        if weight <= 0.5:
            return _up(appearance + 2 * weight * (both - appearance))
        return _up(both + (2 * weight - 1) * (structure - both))

    def replaced(self, place: int, value: int) -> Effort:
        """Return it with another value for one of the weights."""
        first, second, third = (value if each == place else old for each, old in enumerate(self.values))
        return Effort((first, second, third))


def among(share: float, all_of_them: float, a_tenth: float, power_below: float = 0) -> int:
    """Return what a search takes where a filter keeps a share: by the power law through all vectors and a tenth.

    Args:
        share: Of the vectors.
        all_of_them: What a search without a filter takes.
        a_tenth: What one takes where a filter keeps a tenth.
        power_below: Below a tenth, where nothing was tuned, it grows with this power of what is left out.
    """
    if share < TENTH:
        return max(1, _up(a_tenth * math.pow(TENTH / share, power_below)))
    return max(1, _up(all_of_them * math.pow(a_tenth / all_of_them, -math.log10(share))))


def _up(value: float) -> int:
    """Round up, but for what a weight read from a query in float32 is off by."""
    return math.ceil(value - _NOISE)


def as_list(effort: Effort | None) -> list[JsonValue] | None:
    """Return the values as they are stored."""
    return None if effort is None else list(effort.values)


def structure_weight(query: Vector) -> float:
    """Return how much of a query, shape ``(2 D,)``, is structure: the w of ``[(1 - w) v ; w e]`` with unit vectors."""
    half = len(query) // 2
    first, second = query[:half], query[half:]
    appearance, structure = math.sqrt(first.dot(first)), math.sqrt(second.dot(second))
    whole = appearance + structure
    return structure / whole if whole else 0.5
