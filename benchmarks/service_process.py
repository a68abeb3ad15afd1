"""`structxlip serve` in a process of its own, for measurements."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 600.0


@contextmanager
def running(model: str, data: Path, **settings: object) -> Iterator[tuple[str, float]]:
    """Yield the URL and the seconds from start to ready; stop the service on leaving."""
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
        _wait(url, process)
        yield url, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(timeout=120)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + START_SECONDS
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.01)
    raise TimeoutError("the service did not become ready")
