"""Servers in processes of their own: a free port, a start, a wait, an end with all children; what memory they take."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

PORT = "{port}"
# A collection takes a snapshot before it ends.
END_SECONDS = 120.0


@contextmanager
def server_process(
    command: Sequence[str],
    *,
    is_ready: Callable[[str], bool],
    environment: Mapping[str, str],
    start_seconds: float,
    log: Path | None = None,
    poll_seconds: float = 0.2,
) -> Iterator[tuple[str, int]]:
    """Yield the URL and the process number of a server that is ready, and end it with its children on leaving.

    Args:
        command: ``{port}`` in it stands for the port.
        is_ready: Asks a URL.
        environment: All of it.
        start_seconds: The longest wait for it.
        log: Where its output goes; this process's own where left out.
        poll_seconds: Between two questions.

    Raises:
        RuntimeError: If it ends before it is ready.
        TimeoutError: If it is not ready in time.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") if log else nullcontext() as output:
        process = subprocess.Popen(
            [part.replace(PORT, str(port)) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,
            env=dict(environment),
        )
        try:
            _wait(lambda: is_ready(url), process, start_seconds, poll_seconds, log)
            yield url, process.pid
        finally:
            _end(process)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(
    holds: Callable[[], bool],
    process: subprocess.Popen[bytes],
    start_seconds: float,
    poll_seconds: float,
    log: Path | None,
) -> None:
    deadline = time.perf_counter() + start_seconds
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}{_last_words(log)}")
        if holds():
            return
        time.sleep(poll_seconds)
    raise TimeoutError(f"the server was not ready in {start_seconds:.0f} s{_last_words(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_words(log: Path | None) -> str:
    return f":\n{log.read_text(errors='replace')[-3000:]}" if log else ""


def _children(process_number: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process_number}/task").glob("*/children"):
        direct = [int(number) for number in task.read_text().split()]
        found += direct
        for number in direct:
            found += _children(number)
    return found
