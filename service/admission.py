"""A budget of work in flight: so many pictures, so many pixels, and a clear no beyond that."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from service.batching import Lane
from service.problems import TooManyRequests

# One part in so many of the budget is for searches alone, so that an import never closes the door to them.
SEARCHES_PART = 8


@dataclass(slots=True)
class _Waiter:
    pixels: int
    admitted: asyncio.Future[None]


class Admission:
    """Lets pictures in while the budget lasts; used from one event loop.

    A request asks `refuse_when_full` before its pictures are read, and is told to come back (429). Once they are read
    it announces them, which asks again. After that its pictures wait for their turn in order, for a request that has
    begun should finish, and what it holds is given back as it goes. Pictures count from the announcement on: many
    requests that arrive in one moment would else all find room before any picture has taken its place. Pictures to
    search by go before pictures to add, and an eighth of the budget is kept for them.
    """

    def __init__(
        self,
        *,
        max_items: int,
        max_pixels: int,
        retry_after_seconds: Callable[[], float],
        on_rejected: Callable[[str], None],
    ) -> None:
        self._max_items = max_items
        self._max_pixels = max_pixels
        self._retry_after_seconds = retry_after_seconds
        self._on_rejected = on_rejected
        self._items = 0
        self._announced = 0
        self._pixels = 0
        # In the order in which they are admitted.
        self._waiters: dict[Lane, deque[_Waiter]] = {Lane.INTERACTIVE: deque(), Lane.BULK: deque()}

    @property
    def items(self) -> int:
        """Pictures in flight."""
        return self._items

    @property
    def pixels(self) -> int:
        """Pixels in flight."""
        return self._pixels

    def refuse_when_full(self, lane: Lane = Lane.BULK) -> None:
        """Turn a new request away while the budget is spent.

        Raises:
            TooManyRequests: With the time after which a place should be free.
        """
        max_items, max_pixels = self._budget(lane)
        num_items = self._items if lane is Lane.INTERACTIVE else max(self._items, self._announced)
        if num_items == 0 or (num_items < max_items and self._pixels < max_pixels):
            return
        self._on_rejected("queue_items" if num_items >= max_items else "queue_pixels")
        raise TooManyRequests(
            f"The service is working on {num_items} pictures ({self._pixels / 1e6:.0f} megapixels) and takes no "
            "more for now; retry after the time in the Retry-After header.",
            retry_after_seconds=self._retry_after_seconds(),
        )

    @contextmanager
    def announce(self, num_items: int) -> Iterator[None]:
        """Count the pictures of one request until it is answered.

        Raises:
            TooManyRequests: While the budget is spent.
        """
        self.refuse_when_full()
        self._announced += num_items
        try:
            yield
        finally:
            self._announced -= num_items

    @asynccontextmanager
    async def admit(self, pixels: int, lane: Lane = Lane.BULK) -> AsyncIterator[None]:
        """Wait for, then hold, a place for one picture of ``pixels`` pixels."""
        await self._acquire(pixels, lane)
        try:
            yield
        finally:
            self._release(pixels)

    async def _acquire(self, pixels: int, lane: Lane) -> None:
        if self._fits(pixels, lane) and not self._waiters[lane]:
            self._take(pixels)
            return
        waiter = _Waiter(pixels, asyncio.get_running_loop().create_future())
        self._waiters[lane].append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.done() and not waiter.admitted.cancelled():
                self._release(pixels)  # admitted in the same tick in which the caller went away
            raise

    def _budget(self, lane: Lane) -> tuple[int, int]:
        """Return how many items and pixels may be in flight for one more of this lane to come in."""
        if lane is Lane.INTERACTIVE:
            return self._max_items, self._max_pixels
        return self._max_items - self._max_items // SEARCHES_PART, self._max_pixels - self._max_pixels // SEARCHES_PART

    def _fits(self, pixels: int, lane: Lane) -> bool:
        if self._items == 0:
            return True  # a picture larger than the whole budget still runs, alone
        max_items, max_pixels = self._budget(lane)
        return self._items < max_items and self._pixels + pixels <= max_pixels

    def _take(self, pixels: int) -> None:
        self._items += 1
        self._pixels += pixels

    def _release(self, pixels: int) -> None:
        self._items -= 1
        self._pixels -= pixels
        for lane, waiters in self._waiters.items():
            while waiters and (waiters[0].admitted.cancelled() or self._fits(waiters[0].pixels, lane)):
                waiter = waiters.popleft()
                if not waiter.admitted.cancelled():
                    self._take(waiter.pixels)
                    waiter.admitted.set_result(None)
