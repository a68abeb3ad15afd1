"""Dynamic batching: many callers hand in one item each, one worker thread runs them in batches.

The worker takes whatever is queued, up to the batch size, as soon as it is free: at low load nobody waits for
company, at high load batches fill by themselves. A search never shares a batch with bulk work, and a batch that runs
cannot be interrupted, so bulk batches are kept short: to half a second of work, and while people are searching to so
little that a search hardly feels it. What makes it safe to put untrusted items together:

* each item has its own future, and a batch that fails is bisected until only the items that fail by
themselves are left; * what nobody waits for any more (cancelled, or past its deadline) leaves the queue
without being run; * the queue is bounded in items and pixels, and a refusal says when to come back, from the
measured rate; * if the worker dies, everything pending fails at once and `Batcher.is_alive` is false from
then on.
"""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from service.bulk_size import BulkSize
from service.problems import DeadlineExceeded, InternalError, NotReady, Problem, TooManyRequests

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

INTERACTIVE_TURNS_PER_BULK_TURN = 3
# The most that a search waits for the batch before it: a large batch is little faster than such a one on a CPU.
BULK_BATCH_SECONDS = 0.5
# The same while somebody has searched within `SEARCHING_SECONDS`.
BULK_BATCH_SECONDS_AMID_SEARCHES = 0.1
FIRST_BULK_BATCH_AMID_SEARCHES = 4
SEARCHING_SECONDS = 10.0

MIN_RETRY_AFTER_SECONDS = 1.0
MAX_RETRY_AFTER_SECONDS = 30.0

# Weight of the latest batch in the running mean of seconds an item: the last dozen batches count.
RATE_SMOOTHING = 0.15


class Lane(enum.Enum):
    """Who waits: a person at a search box, or a job that adds pictures."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class BatchObserver(Protocol):
    """What a batcher tells of its life; called from its thread and its callers', so quick and thread-safe."""

    def on_queue(self, num_items: int, num_pixels: int) -> None:
        """The queue now has this length."""

    def on_wait(self, seconds: float) -> None:
        """An item waited so long before its batch began."""

    def on_batch(self, size: int, run_seconds: float) -> None:
        """A batch has finished, with success or not."""

    def on_rejected(self, reason: str) -> None:
        """An item was refused or dropped: `queue_items`, `queue_pixels`, `deadline` or `not_ready`."""


class SilentObserver:
    """A `BatchObserver` for nobody."""

    def on_queue(self, num_items: int, num_pixels: int) -> None:
        """Ignore it."""

    def on_wait(self, seconds: float) -> None:
        """Ignore it."""

    def on_batch(self, size: int, run_seconds: float) -> None:
        """Ignore it."""

    def on_rejected(self, reason: str) -> None:
        """Ignore it."""


@dataclass(slots=True, eq=False)
class _Ticket(Generic[ItemT, ResultT]):
    """One item on its way; ``eq=False`` so that it is found in the queue as itself, whatever it carries."""

    item: ItemT
    pixels: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[ResultT]
    queued_at: float
    expires_at: float
    is_queued: bool = False

    def is_wanted(self, now: float) -> bool:
        return not self.future.done() and now < self.expires_at


class _Queue(Generic[ItemT, ResultT]):
    """Two lanes of tickets and what they add up to; not thread-safe by itself."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[_Ticket[ItemT, ResultT]]] = {lane: deque() for lane in Lane}
        self._turns_without_bulk = 0
        self.pixels = 0

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def append(self, ticket: _Ticket[ItemT, ResultT], lane: Lane) -> None:
        self._lanes[lane].append(ticket)
        self.pixels += ticket.pixels
        ticket.is_queued = True

    def pop(self, lane: Lane) -> _Ticket[ItemT, ResultT]:
        ticket = self._lanes[lane].popleft()
        self.pixels -= ticket.pixels
        ticket.is_queued = False
        return ticket

    def has(self, lane: Lane) -> bool:
        return bool(self._lanes[lane])

    def clear(self) -> list[_Ticket[ItemT, ResultT]]:
        return [self.pop(lane) for lane, tickets in self._lanes.items() for _ in range(len(tickets))]

    def discard(self, ticket: _Ticket[ItemT, ResultT]) -> bool:
        """Take a ticket out of the middle; false when it is no longer queued."""
        if not ticket.is_queued:
            return False
        for lane in self._lanes.values():
            if ticket in lane:
                lane.remove(ticket)
        self.pixels -= ticket.pixels
        ticket.is_queued = False
        return True

    def oldest_queued_at(self) -> float:
        return min(lane[0].queued_at for lane in self._lanes.values() if lane)

    def next_lane(self) -> Lane:
        """Say whose batch is next: interactive first, but every fourth is bulk's, so that it always moves."""
        if not self._lanes[Lane.BULK]:
            self._turns_without_bulk = 0
            return Lane.INTERACTIVE
        if self._lanes[Lane.INTERACTIVE] and self._turns_without_bulk < INTERACTIVE_TURNS_PER_BULK_TURN:
            self._turns_without_bulk += 1
            return Lane.INTERACTIVE
        self._turns_without_bulk = 0
        return Lane.BULK


class Batcher(Generic[ItemT, ResultT]):
    """Runs items in batches on its own thread.

    Args:
        run_batch: Called on the worker thread only, with 1 to ``max_batch_size`` items; returns one result
            for each, in order. If it raises, it is called again with parts of the batch, so it must bear
            being repeated.
        name: For the thread, the log and the error messages.
        max_batch_size: Largest batch.
        max_wait_seconds: How long the oldest item may wait for a batch to fill; 0 starts with what is there.
        max_queue_items: Items that may wait, not counting those that run.
        max_queue_pixels: What the waiting items' ``pixels`` may add up to. An item larger than all of it is
            still taken while the queue is empty, or it could never run.
        observer: For metrics.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[ItemT]], Sequence[ResultT]],
        *,
        name: str,
        max_batch_size: int,
        max_wait_seconds: float = 0.0,
        max_queue_items: int,
        max_queue_pixels: int,
        observer: BatchObserver | None = None,
    ) -> None:
        if max_batch_size < 1 or max_queue_items < 1:
            raise ValueError(
                "max_batch_size and max_queue_items must be at least 1; "
                f"received {max_batch_size} and {max_queue_items}"
            )
        self._run_batch = run_batch
        self._name = name
        self._max_batch_size = max_batch_size
        self._max_wait_seconds = max_wait_seconds
        self._max_queue_items = max_queue_items
        self._max_queue_pixels = max_queue_pixels
        self._observer = observer or SilentObserver()
        self._queue: _Queue[ItemT, ResultT] = _Queue()
        self._running: list[_Ticket[ItemT, ResultT]] = []
        self._changed = threading.Condition()
        self._seconds_per_item = 0.0
        self._searched_at = float("-inf")
        self._bulk_size = BulkSize(BULK_BATCH_SECONDS, largest=max_batch_size, first=max_batch_size)
        self._bulk_size_amid_searches = BulkSize(
            BULK_BATCH_SECONDS_AMID_SEARCHES, largest=max_batch_size, first=FIRST_BULK_BATCH_AMID_SEARCHES
        )
        self._size_in_use: BulkSize | None = None
        self._is_open = False
        self._worker = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)

    def start(self) -> None:
        """Start the worker; once only."""
        with self._changed:
            self._is_open = True
        self._worker.start()

    @property
    def is_alive(self) -> bool:
        """The worker runs and items are taken; once false it stays so."""
        return self._is_open and self._worker.is_alive()

    def retry_after_seconds(self) -> float:
        """How long until what is queued now has run, at the measured rate; between 1 and 30."""
        with self._changed:
            seconds = (len(self._queue) + len(self._running)) * self._seconds_per_item
        return min(MAX_RETRY_AFTER_SECONDS, max(MIN_RETRY_AFTER_SECONDS, seconds))

    async def submit(
        self,
        item: ItemT,
        *,
        pixels: int = 0,
        lane: Lane = Lane.BULK,
        deadline_seconds: float | None = None,
    ) -> ResultT:
        """Queue an item and wait for its result; from any event loop.

        Args:
            item: Handed to ``run_batch`` as it is.
            pixels: What the item counts for in the queue's pixel budget.
            lane: Who waits for it.
            deadline_seconds: From now; an item that has not begun by then is dropped, one that runs is no
                longer waited for.

        Raises:
            TooManyRequests: If the queue is full.
            DeadlineExceeded: If the result is not there in time.
            NotReady: If the worker is not running, or dies before the result is there.
            Problem: Whatever ``run_batch`` raised for this item alone; `InternalError` if it was none of
                ours.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        expires_at = float("inf") if deadline_seconds is None else now + deadline_seconds
        ticket = _Ticket[ItemT, ResultT](item, pixels, loop, loop.create_future(), now, expires_at)
        self._enqueue(ticket, lane)
        try:
            async with asyncio.timeout(deadline_seconds):
                return await ticket.future
        except TimeoutError:  # the deadline's: an error of the item's own arrives as a problem
            self._observer.on_rejected("deadline")
            raise DeadlineExceeded(
                f"The queue for {self._name} had no result within {deadline_seconds} seconds."
            ) from None
        finally:
            self._abandon(ticket)

    def close(self, *, drain: bool = True, timeout: float = 30.0) -> None:
        """Take no more items, and stop the worker.

        Args:
            drain: Run what is queued first; otherwise it fails with `NotReady`.
            timeout: In seconds. What is not done by then fails with `NotReady`; the worker itself cannot be
                interrupted and ends with its batch.
        """
        with self._changed:
            self._is_open = False
            refused = [] if drain else self._take_all_queued()
            self._changed.notify_all()
        self._fail(refused, "is stopping")
        if self._worker.ident is not None:
            self._worker.join(timeout)
        with self._changed:
            unfinished = [*self._take_all_queued(), *self._running]
        self._fail(unfinished, "has stopped")

    def _enqueue(self, ticket: _Ticket[ItemT, ResultT], lane: Lane) -> None:
        with self._changed:
            reason = self._refusal(ticket)
            if reason is None:
                if lane is Lane.INTERACTIVE:
                    self._searched_at = ticket.queued_at
                self._queue.append(ticket, lane)
                self._report_queue()
                self._changed.notify_all()
        if reason is None:
            return
        self._observer.on_rejected(reason)
        if reason == "not_ready":
            raise self._not_ready("is not running")
        raise TooManyRequests(
            f"The queue for {self._name} is full; retry after the time in the Retry-After header.",
            retry_after_seconds=self.retry_after_seconds(),
        )

    def _refusal(self, ticket: _Ticket[ItemT, ResultT]) -> str | None:
        if not self.is_alive:
            return "not_ready"
        if len(self._queue) >= self._max_queue_items:
            return "queue_items"
        if len(self._queue) and self._queue.pixels + ticket.pixels > self._max_queue_pixels:
            return "queue_pixels"
        return None

    def _abandon(self, ticket: _Ticket[ItemT, ResultT]) -> None:
        """Give the place in the queue back; nothing to do for a ticket that was taken out to run."""
        with self._changed:
            if self._queue.discard(ticket):
                self._report_queue()

    def _work(self) -> None:
        """Run batches until closed and empty; the worker thread's whole life."""
        try:
            while batch := self._next_batch():
                self._run(batch)
        except BaseException:
            # `SystemExit`, or a mistake in this module. Whoever waits must hear of it, and readiness must
            # end.
            logger.critical("batch_worker_died", batcher=self._name, exc_info=True)
        with self._changed:
            self._is_open = False
            pending = [*self._take_all_queued(), *self._running]
            self._running = []
        self._fail(pending, "has stopped")

    def _next_batch(self) -> list[_Ticket[ItemT, ResultT]]:
        """Wait for work; an empty list means closed and drained."""
        with self._changed:
            while True:
                self._await_work()
                if not len(self._queue) and not self._is_open:
                    return []
                self._running = self._take_batch()
                self._report_queue()
                if self._running:
                    return self._running

    def _await_work(self) -> None:
        self._changed.wait_for(lambda: len(self._queue) or not self._is_open)
        while self._is_open and 0 < len(self._queue) < self._max_batch_size:
            remaining = self._queue.oldest_queued_at() + self._max_wait_seconds - time.monotonic()
            if remaining <= 0 or not self._changed.wait(remaining):
                return

    def _take_batch(self) -> list[_Ticket[ItemT, ResultT]]:
        """Take wanted tickets of one lane; an expired one is just dropped, for its waiter's own timer tells them."""
        if not len(self._queue):
            return []
        now, lane = time.monotonic(), self._queue.next_lane()
        self._size_in_use = None if lane is Lane.INTERACTIVE else self._current_bulk_size(now)
        size = self._max_batch_size if self._size_in_use is None else self._size_in_use.size
        batch: list[_Ticket[ItemT, ResultT]] = []
        while self._queue.has(lane) and len(batch) < size:
            ticket = self._queue.pop(lane)
            if ticket.is_wanted(now):
                batch.append(ticket)
        return batch

    def _current_bulk_size(self, now: float) -> BulkSize:
        return self._bulk_size_amid_searches if now - self._searched_at < SEARCHING_SECONDS else self._bulk_size

    def _run(self, batch: list[_Ticket[ItemT, ResultT]]) -> None:
        started_at = time.monotonic()
        for ticket in batch:
            self._observer.on_wait(started_at - ticket.queued_at)
        self._run_or_bisect(batch)
        run_seconds = time.monotonic() - started_at
        with self._changed:
            self._running = []
            self._note_rate(run_seconds / len(batch))
            if self._size_in_use is not None:
                self._size_in_use.note(len(batch), run_seconds)
        self._observer.on_batch(len(batch), run_seconds)

    def _run_or_bisect(self, batch: list[_Ticket[ItemT, ResultT]]) -> None:
        """Run a batch; if it fails, run its halves: one bad item of ``n`` costs ``2 log2 n`` more runs."""
        try:
            results = self._run_batch([ticket.item for ticket in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this batch's alone
            if len(batch) == 1:
                self._deliver([(batch[0], self._as_problem(error))])
                return
            logger.warning("batch_bisected", batcher=self._name, size=len(batch), error=type(error).__name__)
        else:
            self._deliver_results(batch, results)
            return
        middle, now = len(batch) // 2, time.monotonic()
        for half in (batch[:middle], batch[middle:]):
            if wanted := [ticket for ticket in half if ticket.is_wanted(now)]:
                self._run_or_bisect(wanted)

    def _deliver_results(self, batch: list[_Ticket[ItemT, ResultT]], results: Sequence[ResultT]) -> None:
        if len(results) == len(batch):
            self._deliver(zip(batch, results, strict=True))
            return
        # Nobody can say which result belongs to whom, so nobody gets one.
        logger.error("batch_miscounted", batcher=self._name, num_items=len(batch), num_results=len(results))
        self._deliver((ticket, InternalError()) for ticket in batch)

    def _as_problem(self, error: Exception) -> Problem:
        if isinstance(error, Problem):
            return error
        logger.error("batch_item_failed", batcher=self._name, exc_info=error)
        return InternalError()

    def _deliver(self, outcomes: Iterable[tuple[_Ticket[ItemT, ResultT], ResultT | Problem]]) -> None:
        """Resolve futures on their own loops, with one wake-up a loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[ResultT], ResultT | Problem]]] = {}
        for ticket, outcome in outcomes:
            by_loop.setdefault(ticket.loop, []).append((ticket.future, outcome))
        for loop, resolved in by_loop.items():
            try:
                loop.call_soon_threadsafe(_resolve, resolved)
            except RuntimeError:  # the loop is closed: those who waited are gone
                logger.debug("batch_results_unclaimed", batcher=self._name, num_items=len(resolved))

    def _fail(self, tickets: Sequence[_Ticket[ItemT, ResultT]], state: str) -> None:
        self._deliver((ticket, self._not_ready(state)) for ticket in tickets)

    def _take_all_queued(self) -> list[_Ticket[ItemT, ResultT]]:
        return self._queue.clear()

    def _note_rate(self, seconds_per_item: float) -> None:
        if not self._seconds_per_item:
            self._seconds_per_item = seconds_per_item
        self._seconds_per_item += RATE_SMOOTHING * (seconds_per_item - self._seconds_per_item)

    def _report_queue(self) -> None:
        self._observer.on_queue(len(self._queue), self._queue.pixels)

    def _not_ready(self, state: str) -> NotReady:
        return NotReady(f"The worker for {self._name} {state}.", retry_after_seconds=5)


def _resolve(outcomes: list[tuple[asyncio.Future[ResultT], ResultT | Problem]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue  # cancelled meanwhile
        if isinstance(outcome, Problem):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
