"""What a filter lets through, kept between searches together with what an engine made of it.

While somebody refines words or a weight, the filter beside them stays. Finding what it lets through, and where an
engine holds it, takes longer than finding the nearest neighbours among it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, TypeVar

from index.catalogue import CatalogueReader, Numbers
from index.cursors import list_question
from index.filters import Filter

Made = TypeVar("Made")

# Of all filters that are kept: 16 MB of numbers, and as much again of what an engine makes of them.
MAX_NUMBERS = 2_000_000
# Filters that let nothing through are kept too, and have no numbers to count.
MAX_FILTERS = 64


class Allowed:
    """Numbers of pictures, ascending, and the last thing that was made of them."""

    __slots__ = ("_made", "numbers")

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self._made: tuple[object, Any] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def made(self, basis: object, make: Callable[[Numbers], Made]) -> Made:
        """Return what `make` makes of the numbers; it is kept as long as nothing is made on another basis.

        Args:
            basis: What it depends on beside the numbers: an object that is replaced when that changes.
            make: Called where nothing is kept.
        """
        kept = self._made  # searches run side by side: read once, replaced as a whole
        if kept is not None and kept[0] is basis:
            found: Made = kept[1]
            return found
        found = make(self.numbers)
        self._made = (basis, found)
        return found


class FilterMemory:
    """What the filters used last let through, until the catalogue changes.

    Args:
        max_numbers: Of all of them together; the one used longest ago is forgotten first.
    """

    def __init__(self, max_numbers: int = MAX_NUMBERS) -> None:
        self._max_numbers = max_numbers
        self._kept: OrderedDict[str, Allowed] = OrderedDict()
        self._sequence = -1
        self._lock = Lock()

    def allowed(self, condition: Filter, reader: CatalogueReader) -> Allowed:
        """Return what a condition lets through in the state that a reader sees."""
        # Not the condition itself: for Python True equals 1. And of one size, however long the filter is.
        question, sequence = list_question(condition), reader.sequence()
        with self._lock:
            if sequence == self._sequence and question in self._kept:
                self._kept.move_to_end(question)
                return self._kept[question]
        found = Allowed(reader.matching(condition))
        with self._lock:
            self._keep(question, sequence, found)
        return found

    def _keep(self, question: str, sequence: int, found: Allowed) -> None:
        if sequence < self._sequence or len(found) > self._max_numbers:  # an older state, still being read; too large
            return
        if sequence > self._sequence:
            self._kept.clear()
            self._sequence = sequence
        self._kept[question] = found
        while len(self._kept) > MAX_FILTERS or sum(map(len, self._kept.values())) > self._max_numbers:
            self._kept.popitem(last=False)
