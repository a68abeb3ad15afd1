"""The dynamic batcher: everybody gets their own result, a bad item costs itself alone, overload and death are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import FIRST_BULK_BATCH_AMID_SEARCHES, Batcher, Lane
from service.problems import (
    DeadlineExceeded,
    ImageUnreadable,
    InternalError,
    NotReady,
    Problem,
    TooManyRequests,
)


@dataclass
class Recorder:
    """A `BatchObserver` that remembers."""

    queue: list[tuple[int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)

    def on_queue(self, num_items: int, num_pixels: int) -> None:
        self.queue.append((num_items, num_pixels))

    def on_wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def on_batch(self, size: int, run_seconds: float) -> None:
        self.batches.append(size)

    def on_rejected(self, reason: str) -> None:
        self.rejected.append(reason)


class Gate:
    """Doubles its items, but only while open; remembers its batches."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[list[Any]] = []
        self.has_begun = threading.Event()
        self._open = threading.Event()
        if is_open:
            self._open.set()

    def open(self) -> None:
        self._open.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.has_begun.set()
        assert self._open.wait(20)
        return [2 * item for item in items]

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.wait, 20)


@contextmanager
def running(run_batch: Callable[[Sequence[Any]], Sequence[Any]], **options: Any) -> Iterator[Batcher[Any, Any]]:
    defaults = {"name": "test", "max_batch_size": 8, "max_queue_items": 1000, "max_queue_pixels": 10**9}
    batcher: Batcher[Any, Any] = Batcher(run_batch, **{**defaults, **options})
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.close(drain=False, timeout=20)


async def queued(batcher: Batcher[Any, Any], num_items: int) -> None:
    """Wait until so many items wait."""
    async with asyncio.timeout(20):
        while len(batcher._queue) != num_items:
            await asyncio.sleep(0.001)


async def outcomes(*submissions: Any) -> list[Any]:
    return await asyncio.gather(*submissions, return_exceptions=True)


def test_everybody_gets_their_own_result_in_any_crowd() -> None:
    async def crowd(batcher: Batcher[int, int]) -> list[int]:
        lanes = list(Lane)
        return await asyncio.gather(*(batcher.submit(item, lane=lanes[item % 2]) for item in range(5000)))

    recorder = Recorder()
    with running(Gate(), max_batch_size=32, max_queue_items=5000, observer=recorder) as batcher:
        assert asyncio.run(crowd(batcher)) == [2 * item for item in range(5000)]
    assert sum(recorder.batches) == len(recorder.waits) == 5000
    assert max(recorder.batches) == 32
    assert recorder.queue[-1] == (0, 0)


def test_items_of_one_lane_run_in_the_order_in_which_they_came() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=4) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            rest = [asyncio.ensure_future(batcher.submit(item)) for item in range(1, 11)]
            await queued(batcher, 10)
            gate.open()
            await asyncio.gather(first, *rest)
        assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]

    asyncio.run(scenario())


def test_a_lone_item_does_not_wait_for_company() -> None:
    with running(Gate(), max_batch_size=64) as batcher:
        started_at = time.monotonic()
        assert asyncio.run(batcher.submit(3)) == 6
    assert time.monotonic() - started_at < 5


def test_with_a_waiting_time_items_gather_into_one_batch() -> None:
    async def scenario() -> None:
        gate = Gate()
        with running(gate, max_batch_size=3, max_wait_seconds=20) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(item)) for item in (1, 2)]
            await queued(batcher, 2)
            assert gate.batches == []
            assert await asyncio.gather(*tasks, batcher.submit(3)) == [2, 4, 6]
        assert gate.batches == [[1, 2, 3]]

    asyncio.run(scenario())


def test_the_waiting_time_ends() -> None:
    with running(Gate(), max_batch_size=64, max_wait_seconds=0.05) as batcher:
        assert asyncio.run(batcher.submit(3)) == 6


def test_a_queue_that_empties_during_the_waiting_time_does_not_end_the_worker() -> None:
    async def scenario() -> None:
        with running(Gate(), max_batch_size=64, max_wait_seconds=0.2) as batcher:
            task = asyncio.ensure_future(batcher.submit(1))
            await queued(batcher, 1)
            task.cancel()
            await outcomes(task)
            await asyncio.sleep(0.3)
            assert batcher.is_alive
            assert await batcher.submit(2) == 4

    asyncio.run(scenario())


@pytest.mark.parametrize("bad", [{0}, {7}, {3, 4}, {0, 1, 2, 3, 4, 5, 6, 7}])
def test_a_bad_item_costs_itself_alone(bad: set[int]) -> None:
    runs: list[list[int]] = []
    has_begun, gate = threading.Event(), threading.Event()

    def run_batch(items: Sequence[int]) -> list[int]:
        runs.append(list(items))
        has_begun.set()
        assert gate.wait(20)
        if bad & set(items):
            raise RuntimeError("the model cannot read this")
        return [2 * item for item in items]

    async def scenario(batcher: Batcher[int, int]) -> list[Any]:
        first = asyncio.ensure_future(batcher.submit(100))
        assert await asyncio.to_thread(has_begun.wait, 20)
        tasks = [asyncio.ensure_future(batcher.submit(item)) for item in range(8)]
        await queued(batcher, 8)
        gate.set()
        await first
        return await outcomes(*tasks)

    with running(run_batch) as batcher:
        results = asyncio.run(scenario(batcher))
        assert batcher.is_alive
    for item, result in enumerate(results):
        if item in bad:
            assert isinstance(result, InternalError)
            assert "cannot read" not in result.detail
        else:
            assert result == 2 * item
    if len(bad) == 1:  # 1 run of eight, then two of each size 4, 2, 1
        assert [len(run) for run in runs[1:]].count(8) == 1
        assert len(runs) - 1 == 1 + 2 * 3


def test_a_problem_of_one_item_reaches_its_caller_as_it_is() -> None:
    def run_batch(items: Sequence[str]) -> list[str]:
        if "bad" in items:
            raise ImageUnreadable("this one is cut off")
        return list(items)

    with running(run_batch) as batcher:
        bad, good = asyncio.run(outcomes(batcher.submit("bad"), batcher.submit("good")))
    assert isinstance(bad, ImageUnreadable)
    assert good == "good"


def test_a_wrong_number_of_results_is_an_error_for_all_of_the_batch() -> None:
    with running(lambda items: list(items)[:-1], max_wait_seconds=0.2, max_batch_size=3) as batcher:
        results = asyncio.run(outcomes(*(batcher.submit(item) for item in range(3))))
    assert [type(result) for result in results] == [InternalError] * 3
    assert len({id(result) for result in results}) == 3


def test_interactive_items_go_first_and_bulk_still_moves() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=1) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            bulk = [asyncio.ensure_future(batcher.submit(100 + item, lane=Lane.BULK)) for item in range(3)]
            quick = [asyncio.ensure_future(batcher.submit(item, lane=Lane.INTERACTIVE)) for item in range(1, 9)]
            await queued(batcher, 11)
            gate.open()
            await asyncio.gather(first, *bulk, *quick)
        order = [batch[0] for batch in gate.batches]
        assert order == [0, 1, 2, 3, 100, 4, 5, 6, 101, 7, 8, 102]

    asyncio.run(scenario())


def test_a_search_shares_no_batch_with_bulk_work() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=4) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            bulk = [asyncio.ensure_future(batcher.submit(100 + item, lane=Lane.BULK)) for item in range(5)]
            quick = [asyncio.ensure_future(batcher.submit(item, lane=Lane.INTERACTIVE)) for item in (1, 2)]
            await queued(batcher, 7)
            gate.open()
            await asyncio.gather(first, *bulk, *quick)
        assert gate.batches == [[0], [1, 2], [100, 101, 102, 103], [104]]

    asyncio.run(scenario())


def test_bulk_batches_are_short_while_somebody_searches() -> None:
    async def scenario(*, is_searching: bool) -> int:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=32) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            if is_searching:
                search = asyncio.ensure_future(batcher.submit(1, lane=Lane.INTERACTIVE))
                await queued(batcher, 1)
                search.cancel()
                await outcomes(search)
            batcher._size_in_use = None  # how long the gate was shut says nothing
            bulk = [asyncio.ensure_future(batcher.submit(100 + item, lane=Lane.BULK)) for item in range(64)]
            await queued(batcher, 64)
            gate.open()
            await asyncio.gather(first, *bulk)
        return len(gate.batches[1])

    assert asyncio.run(scenario(is_searching=False)) == 32
    assert asyncio.run(scenario(is_searching=True)) == FIRST_BULK_BATCH_AMID_SEARCHES


def test_a_full_queue_answers_429_with_retry_after() -> None:
    async def scenario() -> None:
        gate, recorder = Gate(is_open=False), Recorder()
        with running(gate, max_batch_size=1, max_queue_items=3, observer=recorder) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(0))]
            await gate.begun()
            tasks += [asyncio.ensure_future(batcher.submit(item)) for item in (1, 2, 3)]
            await queued(batcher, 3)
            with pytest.raises(TooManyRequests) as raised:
                await batcher.submit(4)
            assert 1 <= int(raised.value.headers["Retry-After"]) <= 30
            assert recorder.rejected == ["queue_items"]
            gate.open()
            assert await asyncio.gather(*tasks) == [0, 2, 4, 6]
            assert await batcher.submit(5) == 10

    asyncio.run(scenario())


def test_the_queue_is_bounded_in_pixels_but_takes_one_large_item_when_empty() -> None:
    async def scenario() -> None:
        gate, recorder = Gate(is_open=False), Recorder()
        with running(gate, max_batch_size=1, max_queue_pixels=100, observer=recorder) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(0, pixels=50))]
            await gate.begun()
            tasks.append(asyncio.ensure_future(batcher.submit(1, pixels=500)))
            await queued(batcher, 1)
            assert recorder.queue[-1] == (1, 500)
            with pytest.raises(TooManyRequests):
                await batcher.submit(2, pixels=1)
            assert recorder.rejected == ["queue_pixels"]
            gate.open()
            assert await asyncio.gather(*tasks) == [0, 2]

    asyncio.run(scenario())


def test_retry_after_follows_the_measured_rate() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=1) as batcher:
            assert batcher.retry_after_seconds() == 1.0
            slow = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            batcher._note_rate(0.5)
            tasks = [asyncio.ensure_future(batcher.submit(item)) for item in range(9)]
            await queued(batcher, 9)
            assert batcher.retry_after_seconds() == pytest.approx(10 * 0.5)
            tasks += [asyncio.ensure_future(batcher.submit(item)) for item in range(200)]
            await queued(batcher, 209)
            assert batcher.retry_after_seconds() == 30.0
            gate.open()
            await asyncio.gather(slow, *tasks)

    asyncio.run(scenario())


def test_what_is_past_its_deadline_is_told_so_and_never_run() -> None:
    async def scenario() -> None:
        gate, recorder = Gate(is_open=False), Recorder()
        with running(gate, max_batch_size=1, observer=recorder) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(1, pixels=7, deadline_seconds=0.05)
            assert recorder.queue[-1] == (0, 0)
            assert recorder.rejected == ["deadline"]
            gate.open()
            await first
            assert await batcher.submit(2) == 4
        assert gate.batches == [[0], [2]]

    asyncio.run(scenario())


def test_a_running_item_is_no_longer_waited_for_after_its_deadline() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate) as batcher:
            with pytest.raises(DeadlineExceeded):
                await batcher.submit(1, deadline_seconds=0.05)
            gate.open()
            assert await batcher.submit(2) == 4

    asyncio.run(scenario())


def test_the_worker_itself_drops_what_expired_while_its_loop_was_busy() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=1) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            late = asyncio.ensure_future(batcher.submit(1, deadline_seconds=0.05))
            await queued(batcher, 1)
            time.sleep(0.1)  # the loop is blocked: its own timer cannot take the item out
            gate.open()
            time.sleep(0.1)
            assert isinstance((await outcomes(late))[0], DeadlineExceeded)
            await first
        assert gate.batches == [[0]]

    asyncio.run(scenario())


def test_a_cancelled_caller_gives_the_place_back_and_costs_nothing() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=1, max_queue_items=1) as batcher:
            first = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            gone = asyncio.ensure_future(batcher.submit(1))
            await queued(batcher, 1)
            gone.cancel()
            await outcomes(gone)
            taken = asyncio.ensure_future(batcher.submit(2))
            await queued(batcher, 1)
            gate.open()
            assert await asyncio.gather(first, taken) == [0, 4]
        assert gate.batches == [[0], [2]]

    asyncio.run(scenario())


def test_a_worker_that_dies_fails_everybody_at_once_and_is_not_alive() -> None:
    gate = threading.Event()

    def die(items: Sequence[int]) -> list[int]:
        assert gate.wait(20)
        raise SystemExit("the device is gone")

    async def scenario(batcher: Batcher[int, int]) -> None:
        tasks = [asyncio.ensure_future(batcher.submit(0))]
        async with asyncio.timeout(20):
            while not batcher._running:
                await asyncio.sleep(0.001)
        tasks += [asyncio.ensure_future(batcher.submit(item)) for item in range(1, 5)]
        await queued(batcher, 4)
        assert batcher.is_alive
        gate.set()
        assert [type(result) for result in await outcomes(*tasks)] == [NotReady] * 5
        assert not batcher.is_alive
        with pytest.raises(NotReady):
            await batcher.submit(9)

    with running(die, max_batch_size=1) as batcher:
        asyncio.run(scenario(batcher))


def test_closing_with_drain_runs_what_is_queued_and_takes_no_more() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=2) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(0))]
            await gate.begun()
            tasks += [asyncio.ensure_future(batcher.submit(item)) for item in range(1, 6)]
            await queued(batcher, 5)
            closing = asyncio.ensure_future(asyncio.to_thread(batcher.close, drain=True, timeout=20))
            async with asyncio.timeout(20):
                while batcher.is_alive:
                    await asyncio.sleep(0.001)
            with pytest.raises(NotReady):
                await batcher.submit(9)
            gate.open()
            assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10]
            await closing

    asyncio.run(scenario())


def test_closing_without_drain_fails_what_is_queued() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate, max_batch_size=1) as batcher:
            tasks = [asyncio.ensure_future(batcher.submit(0))]
            await gate.begun()
            tasks += [asyncio.ensure_future(batcher.submit(item)) for item in range(1, 4)]
            await queued(batcher, 3)
            closing = asyncio.ensure_future(asyncio.to_thread(batcher.close, drain=False, timeout=20))
            refused = await outcomes(*tasks[1:])
            gate.open()
            await closing
            assert [type(result) for result in refused] == [NotReady] * 3
            assert await tasks[0] == 0

    asyncio.run(scenario())


def test_closing_does_not_wait_for_ever_for_a_stuck_batch() -> None:
    async def scenario() -> None:
        gate = Gate(is_open=False)
        with running(gate) as batcher:
            stuck = asyncio.ensure_future(batcher.submit(0))
            await gate.begun()
            await asyncio.to_thread(batcher.close, drain=True, timeout=0.05)
            assert isinstance((await outcomes(stuck))[0], NotReady)
            gate.open()

    asyncio.run(scenario())


def test_a_closed_event_loop_does_not_hurt_the_worker() -> None:
    gate = Gate(is_open=False)
    abandoned: list[Any] = []
    with running(gate) as batcher:

        async def leave() -> None:
            abandoned.append(asyncio.ensure_future(batcher.submit(0)))
            await gate.begun()

        asyncio.run(leave())  # cancels the caller and closes its loop
        gate.open()
        assert asyncio.run(batcher.submit(1)) == 2
        assert batcher.is_alive


def test_callers_of_several_event_loops_share_one_worker() -> None:
    results: dict[int, list[int]] = {}

    def call(batcher: Batcher[int, int], number: int) -> None:
        async def many() -> list[int]:
            return await asyncio.gather(*(batcher.submit(1000 * number + item) for item in range(200)))

        results[number] = asyncio.run(many())

    with running(Gate(), max_queue_items=2000) as batcher:
        threads = [threading.Thread(target=call, args=(batcher, number)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {number: [2 * (1000 * number + item) for item in range(200)] for number in range(5)}


def test_before_it_is_started_nothing_is_taken() -> None:
    batcher: Batcher[int, int] = Batcher(Gate(), name="idle", max_batch_size=1, max_queue_items=1, max_queue_pixels=1)
    assert not batcher.is_alive
    with pytest.raises(NotReady):
        asyncio.run(batcher.submit(1))
    batcher.close()


@settings(max_examples=60, deadline=None)
@given(
    max_batch_size=st.integers(1, 9),
    max_wait_seconds=st.sampled_from([0.0, 0.002]),
    bad=st.sets(st.integers(0, 59)),
    gone=st.sets(st.integers(0, 59)),
)
def test_whoever_is_bad_or_gone_all_others_get_their_own_result(
    max_batch_size: int, max_wait_seconds: float, bad: set[int], gone: set[int]
) -> None:
    def run_batch(items: Sequence[int]) -> list[int]:
        if bad & set(items):
            raise ValueError("bad")
        return [item * item for item in items]

    async def scenario(batcher: Batcher[int, int]) -> list[Any]:
        tasks = [
            asyncio.ensure_future(batcher.submit(item, pixels=item, lane=list(Lane)[item % 2])) for item in range(60)
        ]
        await asyncio.sleep(0)
        for item in gone:
            tasks[item].cancel()
        return await outcomes(*tasks)

    recorder = Recorder()
    with running(
        run_batch, max_batch_size=max_batch_size, max_wait_seconds=max_wait_seconds, observer=recorder
    ) as batcher:
        results = asyncio.run(scenario(batcher))
        assert batcher.is_alive
    for item, result in enumerate(results):
        if item in gone and isinstance(result, asyncio.CancelledError):
            continue
        if item in bad:
            assert isinstance(result, Problem)
        else:
            assert result == item * item
    assert recorder.queue[-1] == (0, 0)
