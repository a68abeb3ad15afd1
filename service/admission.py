"""A budget of work in flight: so many pictures, so many pixels, and a clear no beyond that."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from service.problems import TooManyRequests


@dataclass(slots=True)
class _Waiter:
    pixels: int
    admitted: asyncio.Future[None]


class Admission:
    """Lets pictures in while the budget lasts; used from one event loop.

    A request asks `refuse_when_full` before its pictures are read, and is told to come back (429). Once they are read
    it announces them, which asks again. After that its pictures wait for their turn in order, for a request that has
    begun should finish, and what it holds is given back as it goes. Pictures count from the announcement on: many
    requests that arrive in one moment would else all find room before any picture has taken its place.
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
        self._waiters: deque[_Waiter] = deque()

    @property
    def items(self) -> int:
        """Pictures in flight."""
        return self._items

    @property
    def pixels(self) -> int:
        """Pixels in flight."""
        return self._pixels

    def refuse_when_full(self) -> None:
        """Turn a new request away while the budget is spent.

        Raises:
            TooManyRequests: With the time after which a place should be free.
        """
        num_items = max(self._items, self._announced)
        if num_items == 0 or (num_items < self._max_items and self._pixels < self._max_pixels):
            return
        self._on_rejected("queue_items" if num_items >= self._max_items else "queue_pixels")
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
    async def admit(self, pixels: int) -> AsyncIterator[None]:
        """Wait for, then hold, a place for one picture of ``pixels`` pixels."""
        await self._acquire(pixels)
        try:
            yield
        finally:
            self._release(pixels)

    async def _acquire(self, pixels: int) -> None:
        if self._fits(pixels) and not self._waiters:
            self._take(pixels)
            return
        waiter = _Waiter(pixels, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.done() and not waiter.admitted.cancelled():
                self._release(pixels)  # admitted in the same tick in which the caller went away
            raise

    def _fits(self, pixels: int) -> bool:
        if self._items == 0:
            return True  # a picture larger than the whole budget still runs, alone
        return self._items < self._max_items and self._pixels + pixels <= self._max_pixels

    def _take(self, pixels: int) -> None:
        self._items += 1
        self._pixels += pixels

    def _release(self, pixels: int) -> None:
        self._items -= 1
        self._pixels -= pixels
        while self._waiters and (self._waiters[0].admitted.cancelled() or self._fits(self._waiters[0].pixels)):
            waiter = self._waiters.popleft()
            if not waiter.admitted.cancelled():
                self._take(waiter.pixels)
                waiter.admitted.set_result(None)
