"""`structxlip serve` in a process of its own, for measurements."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx

START_SECONDS = 600.0


@contextmanager
def running(model: str, data: Path, **settings: object) -> Iterator[tuple[str, float]]:
    """Yield the URL and the seconds from start to ready; stop the service on leaving.

    It is yielded when the backend that was asked for runs the model, which may be later than it was ready.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **{name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"},
        "STRUCTXLIP_LOG_LEVEL": "warning",
        **{f"STRUCTXLIP_{name.upper()}": str(value) for name, value in settings.items()},
    }
    command = [
        sys.executable,
        "-m",
        "service",
        "serve",
        "--model",
        model,
        "--data",
        str(data),
        "--port",
        str(port),
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(lambda: _is_ready(url), process)
        seconds = time.perf_counter() - started
        _wait(lambda: not httpx.get(f"{url}/info").json()["is_changing_backend"], process)
        yield url, seconds
    finally:
        process.terminate()
        process.wait(timeout=120)


def _wait(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + START_SECONDS
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        if holds():
            return
        time.sleep(0.01)
    raise TimeoutError("the service did not become ready")


def _is_ready(url: str) -> bool:
    """Ask once, over a bare connection: asking must not take the cores that the service is starting on."""
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=10)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except OSError:
            return False
