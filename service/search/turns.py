"""Where a search runs: at once on the event loop, or on a thread.

A search among indexed vectors takes a fraction of a millisecond in a row, and twice that where a thread has to be woken
for it, on another core with caches of its own, and the two then wait for each other's turn with the interpreter. A
search that takes long, or waits, must not run on the event loop: nothing else is answered meanwhile. Which of them it
is depends on the engine, the machine, the disk and the moment, so the time that it takes decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import anyio.to_thread

from index.errors import WouldWaitError

# What may keep the event loop from others: on average, and beyond that in all before threads take over.
QUICK_SECONDS, BEARABLE_SECONDS = 0.0025, 0.02
# For how long they do; each time longer while searches stay slow.
FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.1, 60.0

FoundT_co = TypeVar("FoundT_co", covariant=True)


class Search(Protocol[FoundT_co]):
    """A search that can be told not to wait for changes."""

    def __call__(self, *, wait: bool) -> FoundT_co:
        """Search.

        Raises:
            WouldWaitError: If it would have to wait, and may not.
        """
        ...


class SearchTurns:
    """Gives searches their turn on the event loop as long as they prove quick there, and on threads otherwise."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin on the event loop.

        Args:
            clock: Tells seconds.
        """
        self._clock = clock
        self._overdrawn_seconds = 0.0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._paused_until = float("-inf")

    async def take(self, search: Search[FoundT_co]) -> FoundT_co:
        """Run a search where it is answered soonest; its errors are the caller's."""
        started = self._clock()
        if started >= self._paused_until:
            try:
                return search(wait=False)
            except WouldWaitError:
                pass
            finally:
                self._note(self._clock(), started)
        return await anyio.to_thread.run_sync(lambda: search(wait=True))

    def _note(self, ended: float, started: float) -> None:
        """Let quick searches make up for slow ones: the first after others ran elsewhere find cold caches."""
        self._overdrawn_seconds = max(0.0, self._overdrawn_seconds + ended - started - QUICK_SECONDS)
        if self._overdrawn_seconds > BEARABLE_SECONDS:
            self._overdrawn_seconds = 0.0
            self._paused_until = ended + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, MOST_PAUSE_SECONDS)
        elif not self._overdrawn_seconds:
            self._pause_seconds = FIRST_PAUSE_SECONDS
