"""Where a search runs: quick ones on the event loop, slow and waiting ones on threads, and errors pass either way."""

from __future__ import annotations

import asyncio
import threading

import pytest

from index.errors import InvalidCursorError, WouldWaitError
from service.search.turns import BEARABLE_SECONDS, FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, QUICK_SECONDS, SearchTurns


class Clock:
    """A clock that searches move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Search:
    """A search that takes a given time and tells where it ran."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def __call__(self, *, wait: bool) -> tuple[bool, bool]:
        self._clock.now += self._seconds
        return threading.current_thread() is threading.main_thread(), wait


def places(turns: SearchTurns, search: Search, times: int) -> list[bool]:
    """Tell for each of some searches whether it ran on the event loop; on a thread it may wait."""

    async def ask() -> list[bool]:
        found = []
        for _ in range(times):
            on_loop, may_wait = await turns.take(search)
            assert may_wait is not on_loop
            found.append(on_loop)
        return found

    return asyncio.run(ask())


def test_quick_searches_stay_on_the_event_loop() -> None:
    clock = Clock()
    assert all(places(SearchTurns(clock), Search(clock, 0.9 * QUICK_SECONDS), 200))


def test_a_slow_search_now_and_then_is_made_up_for() -> None:
    clock = Clock()
    turns = SearchTurns(clock)
    for _ in range(50):
        assert all(places(turns, Search(clock, QUICK_SECONDS + 0.9 * BEARABLE_SECONDS), 1))
        assert all(places(turns, Search(clock, 0.1 * QUICK_SECONDS), 9))


def test_searches_that_are_slow_on_average_go_to_threads_for_a_while() -> None:
    clock = Clock()
    turns = SearchTurns(clock)
    times = round(BEARABLE_SECONDS / QUICK_SECONDS) + 1
    assert places(turns, Search(clock, 2 * QUICK_SECONDS), times + 1) == [True] * times + [False]
    clock.now += FIRST_PAUSE_SECONDS
    assert places(turns, Search(clock, 0.1 * QUICK_SECONDS), 3) == [True] * 3


def test_pauses_grow_while_searches_stay_slow_and_are_short_again_afterwards() -> None:
    clock = Clock()
    turns = SearchTurns(clock)
    slow, quick = Search(clock, 1.0), Search(clock, 0.0)
    pause = FIRST_PAUSE_SECONDS
    for _ in range(20):
        assert places(turns, slow, 1) == [True]
        clock.now += 0.99 * pause
        assert places(turns, quick, 1) == [False]
        clock.now += 0.02 * pause
        pause = min(2 * pause, MOST_PAUSE_SECONDS)
    assert pause == MOST_PAUSE_SECONDS
    assert places(turns, quick, 1) == [True]
    assert places(turns, slow, 2) == [True, False]
    clock.now += FIRST_PAUSE_SECONDS
    assert places(turns, quick, 1) == [True]


def test_a_search_that_would_wait_is_left_to_a_thread() -> None:
    waited = []

    def search(*, wait: bool) -> str:
        if not wait:
            raise WouldWaitError("the engine is being changed")
        waited.append(threading.current_thread())
        return "found"

    assert asyncio.run(SearchTurns().take(search)) == "found"
    assert waited != [threading.main_thread()]


def test_an_error_is_the_callers_and_nothing_is_tried_again() -> None:
    calls = []

    def search(*, wait: bool) -> str:
        calls.append(wait)
        raise InvalidCursorError("the cursor is damaged")

    with pytest.raises(InvalidCursorError, match="damaged"):
        asyncio.run(SearchTurns().take(search))
    assert calls == [False]
