"""What a filter lets through, kept between searches together with what an engine made of it.

While somebody refines words or a weight, the filter beside them stays. Finding what it lets through, and where an
engine holds it, takes longer than finding the nearest neighbours among it. A filter that is asked for again and again
earns a copy of its vectors, or lists of its own where an engine has lists; the collection makes them in the background.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from index.catalogue import CatalogueReader, Numbers
from index.cursors import list_question
from index.filters import Filter

if TYPE_CHECKING:
    from index.filtered_lists import FilteredLists
    from index.half_copy import HalfCopy

Made = TypeVar("Made")

# Of all filters that are kept: 16 MB of numbers, and as much again of what an engine makes of them. A graph makes
# another byte for each of its places.
MAX_NUMBERS = 2_000_000
# Filters that let nothing through are kept too, and have no numbers to count.
MAX_FILTERS = 64
# Of what is copied for all filters: so much, or this share of what all vectors take, where that is more.
MAX_COPIED_BYTES = 128 << 20
MAX_COPIED_SHARE = 1 / 8
# Making a copy takes about as long as so many searches save by it: 2 to 6 and 0.06 microseconds a vector at width 512
# (2 AMD cores, 2026-11-29).
USES_FOR_A_COPY = 32


@dataclass(frozen=True, slots=True)
class CopyCost:
    """What copying takes.

    Attributes:
        num_bytes: Of memory.
        num_uses: Searches after which it pays.
    """

    num_bytes: int
    num_uses: int


class Allowed:
    """Numbers of pictures, ascending, and the last thing that was made of them.

    Attributes:
        numbers: What a filter lets through.
        copy: Their vectors, side by side, where the filter has earned that.
        lists: Lists of an engine that hold nothing else, where the filter has earned those.
        num_uses: Searches since it was first asked for, or since it lost its copy; about, when several run at once.
    """

    __slots__ = ("_made", "copy", "lists", "num_uses", "numbers")

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.copy: HalfCopy | None = None
        self.lists: FilteredLists | None = None
        self.num_uses = 0
        self._made: tuple[object, Any] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def num_copied_bytes(self) -> int:
        """What its copy or its lists take in memory."""
        return sum(each.num_bytes for each in (self.copy, self.lists) if each is not None)

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
        max_copied_bytes: Of all copies together, in a small collection; the filter used longest ago loses its copy
            first.
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

    def due(self, cost_of: Callable[[int], CopyCost | None], num_stored: int) -> Allowed | None:
        """Return what a filter lets through that was used often enough for a copy and has none, the one used last.

        Args:
            cost_of: What copying so many takes; ``None`` where it gains nothing.
            num_stored: Vectors in the collection.
        """
        with self._lock:
            kept = [each for each in reversed(self._kept.values()) if not each.num_copied_bytes and len(each)]
        for each in kept:
            cost = cost_of(len(each))
            if cost and each.num_uses >= cost.num_uses and cost.num_bytes <= self._most_bytes(num_stored):
                return each
        return None

    def give(
        self,
        allowed: Allowed,
        num_stored: int,
        *,
        copy: HalfCopy | None = None,
        lists: FilteredLists | None = None,
    ) -> None:
        """Put a copy, or lists, beside what they were made of, if that is still kept."""
        with self._lock:
            if allowed not in self._kept.values():
                return
            allowed.copy, allowed.lists = copy, lists
            num_bytes = sum(each.num_copied_bytes for each in self._kept.values())
            for each in list(self._kept.values()):  # used longest ago first
                if num_bytes <= self._most_bytes(num_stored):
                    return
                if each is not allowed and each.num_copied_bytes:
                    num_bytes -= each.num_copied_bytes
                    each.copy = each.lists = None  # searches that use them now keep them until they are done
                    each.num_uses = 0

    def forget_lists(self) -> None:
        """Let go of all lists: there is another engine now; what earned some gets new ones."""
        with self._lock:
            for each in self._kept.values():
                each.lists = None

    def _most_bytes(self, num_stored: int) -> int:
        return max(self._max_copied_bytes, int(MAX_COPIED_SHARE * 4 * self._width * num_stored))

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
