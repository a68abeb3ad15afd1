"""`structxlip serve` in a process of its own, for measurements."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from benchmarks.server_process import PORT, server_process

START_SECONDS = 600.0


@contextmanager
def running(model: str, data: Path, **settings: object) -> Iterator[tuple[str, float]]:
    """Yield the URL and the seconds from start to ready; stop the service on leaving.

    It is yielded when the backend that was asked for runs the model, which may be later than it was ready.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"},
        "STRUCTXLIP_LOG_LEVEL": "warning",
        **{f"STRUCTXLIP_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "service", "serve", "--model", model, "--data", str(data), "--port", PORT]
    started = time.perf_counter()
    with server_process(
        command, is_ready=_is_ready, environment=environment, start_seconds=START_SECONDS, poll_seconds=0.01
    ) as (url, _):
        seconds = time.perf_counter() - started
        while httpx.get(f"{url}/info").json()["is_changing_backend"]:
            time.sleep(0.01)
        yield url, seconds


def _is_ready(url: str) -> bool:
    """Ask once, over a bare connection: asking must not take the cores that the service is starting on."""
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except OSError:
            return False
