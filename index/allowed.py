"""What a filter lets through, kept between searches together with what an engine made of it.

While somebody refines words or a weight, the filter beside them stays. Finding what it lets through, and where an
engine holds it, takes longer than finding the nearest neighbours among it. A filter that is asked for again and again
earns a copy of its vectors, which the collection makes in the background.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from index.catalogue import CatalogueReader, Numbers
from index.cursors import list_question
from index.filters import Filter

if TYPE_CHECKING:
    from index.half_copy import HalfCopy

Made = TypeVar("Made")

# Of all filters that are kept: 16 MB of numbers, and as much again of what an engine makes of them. A graph makes
# another byte for each of its places.
MAX_NUMBERS = 2_000_000
# Filters that let nothing through are kept too, and have no numbers to count.
MAX_FILTERS = 64
# Of the vectors copied for all filters.
MAX_COPIED_BYTES = 128 << 20
# Making a copy takes about as long as so many searches save by it: 2 to 6 and 0.06 microseconds a vector at width 512
# (2 AMD cores, 2026-11-29).
USES_FOR_A_COPY = 32


class Allowed:
    """Numbers of pictures, ascending, and the last thing that was made of them.

    Attributes:
        numbers: What a filter lets through.
        copy: Their vectors, side by side, where the filter has earned that.
        num_uses: Searches since it was first asked for, or since it lost its copy; about, when several run at once.
    """

    __slots__ = ("_made", "copy", "num_uses", "numbers")

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.copy: HalfCopy | None = None
        self.num_uses = 0
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
        width: Of a vector.
        max_numbers: Of all of them together; the one used longest ago is forgotten first.
        max_copied_bytes: Of all copies together; the filter used longest ago loses its copy first.
    """

    def __init__(self, width: int, *, max_numbers: int = MAX_NUMBERS, max_copied_bytes: int = MAX_COPIED_BYTES) -> None:
        self._width = width
        self._max_numbers = max_numbers
        self._max_copied_bytes = max_copied_bytes
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

    def due(self, is_worth: Callable[[int], bool]) -> Allowed | None:
        """Return what a filter lets through that was used often enough for a copy and has none, the one used last.

        Args:
            is_worth: Tells whether a copy of so many vectors is scanned faster than the engine finds the best of them.
        """
        limit = self._max_copied_bytes // copy_bytes(1, self._width)
        with self._lock:
            kept = list(reversed(self._kept.values()))
        for each in kept:
            is_due = each.copy is None and each.num_uses >= USES_FOR_A_COPY
            if is_due and 0 < len(each) <= limit and is_worth(len(each)):
                return each
        return None

    def give(self, allowed: Allowed, copy: HalfCopy) -> None:
        """Put a copy beside what it was made of, if that is still kept."""
        with self._lock:
            if allowed not in self._kept.values():
                return
            allowed.copy = copy
            copied = [each for each in self._kept.values() if each.copy is not None]  # used longest ago first
            num_bytes = sum(copy_bytes(len(each), self._width) for each in copied)
            for each in copied:
                if num_bytes <= self._max_copied_bytes:
                    return
                if each is not allowed:
                    each.copy, each.num_uses = None, 0  # searches that use it now keep it until they are done
                    num_bytes -= copy_bytes(len(each), self._width)

    def forget_before(self, sequence: int) -> None:
        """Let go of what belongs to an older state; searches would do so only when they come with a filter."""
        with self._lock:
            if self._sequence < sequence:
                self._kept.clear()

    def _keep(self, question: str, sequence: int, found: Allowed) -> None:
        if sequence < self._sequence or len(found) > self._max_numbers:  # an older state, still being read; too large
            return
        if sequence > self._sequence:
            self._kept.clear()
            self._sequence = sequence
        self._kept[question] = found
        while len(self._kept) > MAX_FILTERS or sum(map(len, self._kept.values())) > self._max_numbers:
            self._kept.popitem(last=False)


def copy_bytes(num_vectors: int, width: int) -> int:
    """Return what a copy of vectors takes in memory."""
    return num_vectors * (2 * width + 8)
