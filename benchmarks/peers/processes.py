"""A peer's server in a process of its own, and what memory a server takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 300.0
PORT = "{port}"


@contextmanager
def server(
    command: Sequence[str], *, is_ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, int]]:
    """Yield the URL and the process number of a server, and end it with its children on leaving.

    Args:
        command: ``{port}`` in it stands for the port.
        is_ready: A path that answers 200 when it is.
        log: Where its output goes.
        environment: Added to this process's.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.replace(PORT, str(port)) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            _wait(f"{url}{is_ready}", process, log)
            yield url, process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def peak_mebibytes(process_number: int) -> int:
    """Return the most memory that a process and its children have held at once each, summed."""
    peaks = []
    for number in (process_number, *_children(process_number)):
        try:
            status = Path(f"/proc/{number}/status").read_text()
        except OSError:
            continue
        peaks += [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return round(sum(peaks) / 1024)


def _children(process_number: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process_number}/task").glob("*/children"):
        direct = [int(number) for number in task.read_text().split()]
        found += direct
        for number in direct:
            found += _children(number)
    return found


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    deadline = time.perf_counter() + START_SECONDS
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            if httpx.get(url, timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"the server was not ready in {START_SECONDS:.0f} s:\n{log.read_text()[-3000:]}")
