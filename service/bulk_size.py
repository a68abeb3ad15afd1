"""How many items of bulk work run in a given time, learned from the batches themselves."""

from __future__ import annotations


class BulkSize:
    """The largest batch that takes about ``seconds``; not thread-safe by itself.

    It follows the time of whole batches, not of an item: where most of a batch's time is the same for any size, a rate
    measured on small batches would keep them small for ever.

    Args:
        seconds: What a batch may take; one item may take longer.
        largest: Never more than this.
        first: Where to begin.
    """

    def __init__(self, seconds: float, *, largest: int, first: int) -> None:
        self._seconds = seconds
        self._largest = largest
        self.size = min(first, largest)

    def note(self, size: int, seconds: float) -> None:
        """Learn from a batch that has run: shrink in proportion, grow by at most the double and at least by one."""
        share = self._seconds / max(seconds, 1e-9)
        if share < 1:
            self.size = max(1, int(size * share))
        elif size >= self.size:  # a smaller one says nothing of whether more would fit
            self.size = min(self._largest, max(size + 1, int(size * min(share, 2.0))))
