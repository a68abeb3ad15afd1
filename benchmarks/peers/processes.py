"""A peer's server in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.server_process import server_process

START_SECONDS = 300.0


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
    with server_process(
        command,
        is_ready=lambda url: _answers(f"{url}{is_ready}"),
        environment={**os.environ, **(environment or {})},
        start_seconds=START_SECONDS,
        log=log,
    ) as found:
        yield found


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
