"""A real service for tests: uvicorn on a real socket, in a thread (quick) or in a process (to be killed)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp

from service.app import create_app, open_collection
from service.commands.serve import KEEP_ALIVE_SECONDS
from service.model import BackendChange
from service.security import KeyStore
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder

START_SECONDS = 120.0


@contextmanager
def serve_in_thread(app: ASGIApp) -> Iterator[str]:
    """Serve ``app`` on a free port; yields its URL."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, lifespan="on", timeout_keep_alive=KEEP_ALIVE_SECONDS
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the service did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive(), "the service did not stop"


@contextmanager
def running_service(
    settings: Settings,
    encoder: TwoViewEncoder,
    *,
    keys: KeyStore | None = None,
    backend_change: BackendChange | None = None,
) -> Iterator[str]:
    """Serve an encoder and the collection in ``settings.data``; yields the URL once the service is ready."""
    with closing(open_collection(settings, encoder, wait=False)) as collection:
        app = create_app(settings, encoder=encoder, collection=collection, keys=keys, backend_change=backend_change)
        with serve_in_thread(app) as url:
            wait_until_ready(url)
            yield url


def wait_until_ready(url: str, *, seconds: float = START_SECONDS) -> None:
    """Wait for 200 from /readyz."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise TimeoutError(f"{url} was not ready after {seconds} s")


@dataclass
class ServiceProcess:
    """`structxlip serve` in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self, *, seconds: float = 60) -> int:
        """SIGTERM, and wait; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)


def start_service(model: str, data: Path, *, log: Path, **settings: str | int | float) -> ServiceProcess:
    """Start the service on a free port and wait until it is ready; the caller kills or stops it."""
    port = _free_port()
    environment = {
        **os.environ,
        "STRUCTXLIP_LOG_FORMAT": "json",
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
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    service = ServiceProcess(process, f"http://127.0.0.1:{port}", log)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            wait_until_ready(service.url, seconds=0.5)
        except TimeoutError:
            continue
        return service
    service.kill()
    raise TimeoutError(f"the service was not ready:\n{log.read_text()[-3000:]}")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
