"""Waiting for a service that starts."""

from __future__ import annotations

import time

from structxlip.client.call import Pause, Steps, is_transient
from structxlip.client.calls import readiness
from structxlip.client.errors import NotReadyError, Problem, StructXLIPError
from structxlip.client.results import Readiness

POLL_SECONDS = 0.2


def until_ready(seconds: float) -> Steps[Readiness]:
    """Ask until the service can serve.

    Raises:
        StructXLIPError: What kept it from serving, when the time is over.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            now: Readiness = yield readiness()
            if now.is_ready:
                return now
            reason: StructXLIPError = _not_ready(now, seconds)
        except StructXLIPError as error:
            if not is_transient(error):
                raise
            reason = error
        if time.monotonic() >= deadline:
            raise reason
        yield Pause(POLL_SECONDS)


def _not_ready(now: Readiness, seconds: float) -> NotReadyError:
    missing = ", ".join(name for name, holds in now.checks.items() if not holds)
    busy = f" (busy with: {now.activity})" if now.activity else ""
    detail = f"the service was not ready after {seconds:g} s; missing: {missing}{busy}"
    return NotReadyError(Problem("about:blank", "The service is not ready", 503, detail))
