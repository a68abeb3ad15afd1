"""The budget of pictures in flight."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from service.admission import Admission
from service.batching import Lane
from service.problems import TooManyRequests


def _admission(max_items: int = 4, max_pixels: int = 100) -> tuple[Admission, list[str]]:
    reasons: list[str] = []
    admission = Admission(
        max_items=max_items,
        max_pixels=max_pixels,
        retry_after_seconds=lambda: 3.0,
        on_rejected=reasons.append,
    )
    return admission, reasons


def test_a_new_request_is_refused_while_the_items_are_spent() -> None:
    async def scenario() -> None:
        admission, reasons = _admission(max_items=1)
        async with admission.admit(1):
            with pytest.raises(TooManyRequests) as refusal:
                admission.refuse_when_full()
            assert refusal.value.headers["Retry-After"] == "3"
        admission.refuse_when_full()
        assert reasons == ["queue_items"]

    asyncio.run(scenario())


def test_an_announced_picture_counts_before_it_has_its_place() -> None:
    admission, reasons = _admission(max_items=4)
    with admission.announce(3), admission.announce(64):
        with pytest.raises(TooManyRequests), admission.announce(1):
            pass
        with pytest.raises(TooManyRequests):
            admission.refuse_when_full()
    with admission.announce(64):
        pass
    assert reasons == ["queue_items"] * 2


def test_pixels_count_too() -> None:
    async def scenario() -> None:
        admission, reasons = _admission(max_pixels=10)
        async with admission.admit(10):
            with pytest.raises(TooManyRequests):
                admission.refuse_when_full()
        assert reasons == ["queue_pixels"]

    asyncio.run(scenario())


def test_a_picture_larger_than_the_budget_runs_alone() -> None:
    async def scenario() -> None:
        admission, _ = _admission(max_pixels=10)
        order: list[str] = []

        async def hold(name: str, pixels: int) -> None:
            async with admission.admit(pixels):
                order.append(f"{name} in, {admission.items} at once")
                await asyncio.sleep(0)

        await asyncio.gather(hold("small", 5), hold("huge", 50), hold("late", 5))
        assert order == ["small in, 1 at once", "huge in, 1 at once", "late in, 1 at once"]

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_holds_whoever_comes_and_goes(seed: int) -> None:
    async def scenario() -> None:
        chance = random.Random(seed)
        admission, _ = _admission(max_items=3, max_pixels=50)
        finished = 0

        async def hold(pixels: int) -> None:
            nonlocal finished
            async with admission.admit(pixels):
                assert admission.items <= 3
                assert admission.pixels <= 50 or admission.items == 1
                await asyncio.sleep(chance.random() / 500)
                finished += 1

        tasks = [asyncio.create_task(hold(chance.randint(1, 60))) for _ in range(60)]
        num_cancelled = 0
        for task in chance.sample(tasks, 15):
            await asyncio.sleep(chance.random() / 1000)
            num_cancelled += task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
        assert finished >= 60 - num_cancelled
        assert (admission.items, admission.pixels) == (0, 0)

    asyncio.run(scenario())


def test_an_import_that_fills_its_share_leaves_room_to_search() -> None:
    async def scenario() -> None:
        admission, _ = _admission(max_items=8, max_pixels=800)
        async with AsyncExitStack() as stack:
            for _ in range(7):
                await stack.enter_async_context(admission.admit(1))
            with pytest.raises(TooManyRequests):
                admission.refuse_when_full()
            admission.refuse_when_full(Lane.INTERACTIVE)
            await stack.enter_async_context(admission.admit(1, Lane.INTERACTIVE))
            with pytest.raises(TooManyRequests):
                admission.refuse_when_full(Lane.INTERACTIVE)

    asyncio.run(scenario())


def test_a_picture_to_search_by_comes_in_before_those_that_wait_to_be_added() -> None:
    async def scenario() -> None:
        admission, _ = _admission(max_items=1)
        order: list[str] = []

        async def hold(name: str, lane: Lane) -> None:
            async with admission.admit(1, lane):
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(
            hold("first", Lane.BULK), *(hold("bulk", Lane.BULK) for _ in range(3)), hold("search", Lane.INTERACTIVE)
        )
        assert order == ["first", "search", "bulk", "bulk", "bulk"]

    asyncio.run(scenario())
