"""Loads a server: closed loops (each client waits for its answer) and open ones (requests come when they come)."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np

from benchmarks.quiet import no_collections
from benchmarks.results import summarise_milliseconds

TIMEOUT_SECONDS = 60.0
OPEN_LOOP_CONNECTIONS = 64


@dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})


@dataclass
class Outcome:
    """What came back of many requests."""

    seconds: list[float] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    num_refused: int = 0
    num_failed: int = 0
    duration: float = 0.0

    @property
    def per_second(self) -> float:
        """Return the rate of good answers."""
        return len(self.seconds) / self.duration

    def figures(self) -> dict[str, object]:
        """Return rate, quantiles and what went wrong."""
        return {
            "per_second": round(self.per_second, 2),
            "milliseconds": summarise_milliseconds(self.seconds) if self.seconds else None,
            "refused": self.num_refused,
            "failed": self.num_failed,
        }


def closed_loop(
    url: str, requests: Iterable[Request], *, num_clients: int, keep: bool = False, seconds: float = float("inf")
) -> Outcome:
    """Send the requests from so many clients, each of which waits for its answer before it sends the next.

    Args:
        url: Of the server.
        requests: What to send, in this order.
        num_clients: Connections at once.
        keep: Whether to keep the answers, in the order of the requests; then one client only.
        seconds: No request begins later than so.
    """
    waiting = iter(requests)
    lock = threading.Lock()
    started = time.perf_counter()

    def next_request() -> Request | None:
        with lock:
            return next(waiting, None) if time.perf_counter() - started < seconds else None

    def work(outcome: Outcome) -> None:
        with closing(_connect(url)) as connection:
            while (request := next_request()) is not None:
                _send(connection, request, outcome, time.perf_counter(), keep=keep)

    return _together([work] * num_clients, started)


def open_loop(
    url: str, requests: Iterator[Request], *, rate: float, seconds: float, seed: int = 0, timeout: float = 30.0
) -> Outcome:
    """Send requests at chance times (a Poisson process), whether or not answers come; delays count from those times.

    A request that finds all connections busy waits for one, and its wait counts. What is not begun within
    ``timeout`` of its time has failed.
    """
    chance = np.random.default_rng(seed)
    due: queue.Queue[tuple[float, Request] | None] = queue.Queue()

    def work(outcome: Outcome) -> None:
        with closing(_connect(url)) as connection:
            while (item := due.get()) is not None:
                if time.perf_counter() - item[0] > timeout:
                    outcome.num_failed += 1
                    continue
                _send(connection, item[1], outcome, item[0], keep=False)

    def feed(_: Outcome) -> None:
        at = time.perf_counter()
        end = at + seconds
        while (at := at + float(chance.exponential(1 / rate))) < end:
            time.sleep(max(0.0, at - time.perf_counter()))
            due.put((at, next(requests)))
        for _worker in range(OPEN_LOOP_CONNECTIONS):
            due.put(None)

    outcome = _together([feed, *[work] * OPEN_LOOP_CONNECTIONS], time.perf_counter())
    outcome.duration = max(seconds, outcome.duration)
    return outcome


def ask_once(url: str, request: Request, *, timeout: float) -> tuple[int, float]:
    """Send one request on a new connection; return its status (0: none came) and its seconds."""
    started = time.perf_counter()
    with closing(_connect(url, timeout)) as connection:
        try:
            connection.request("POST", request.path, request.body, dict(request.headers))
            answer = connection.getresponse()
            answer.read()
            status = answer.status
        except OSError:
            status = 0
    return status, time.perf_counter() - started


def _together(works: Sequence[Callable[[Outcome], None]], started: float) -> Outcome:
    outcomes = [Outcome() for _ in works]
    threads = [
        threading.Thread(target=work, args=(outcome,)) for work, outcome in zip(works, outcomes, strict=True)
    ]
    with no_collections():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return Outcome(
        seconds=[second for outcome in outcomes for second in outcome.seconds],
        answers=[answer for outcome in outcomes for answer in outcome.answers],
        num_refused=sum(outcome.num_refused for outcome in outcomes),
        num_failed=sum(outcome.num_failed for outcome in outcomes),
        duration=time.perf_counter() - started,
    )


def _send(connection: HTTPConnection, request: Request, outcome: Outcome, since: float, *, keep: bool) -> None:
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        answer = connection.getresponse()
        body = answer.read()
    except OSError:
        connection.close()
        outcome.num_failed += 1
        return
    if answer.status == HTTPStatus.OK:
        outcome.seconds.append(time.perf_counter() - since)
        if keep:
            outcome.answers.append(body)
    elif answer.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        outcome.num_refused += 1
    else:
        outcome.num_failed += 1


def _connect(url: str, timeout: float = TIMEOUT_SECONDS) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc, timeout=timeout)
