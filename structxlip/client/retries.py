"""When to try a request again: exponential backoff with jitter, never sooner than the service says."""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass

import httpx

from structxlip.client.call import TRANSIENT_STATUSES

# Mistakes in what was asked, which come again however often one tries.
HOPELESS_ERRORS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a request is tried, and how long to wait in between.

    Every call of the service may be repeated: adding is idempotent by id and by content, changing and deleting say what
    is to hold afterwards. So a broken connection is tried again as well, though the request may have been served.

    Attributes:
        max_tries: 1 never tries again.
        first_delay_seconds: The delay doubles after each try, and a half of it is left to chance.
        max_delay_seconds: The doubling ends here.
        max_retry_after_seconds: A service that asks for a longer rest than this (`Retry-After`) is not waited for.
    """

    max_tries: int = 5
    first_delay_seconds: float = 0.25
    max_delay_seconds: float = 10.0
    max_retry_after_seconds: float = 60.0

    def backoff_seconds(self, num_tried: int) -> float:
        """Return how long to wait after so many tries, between half the delay and all of it."""
        # The exponent is bounded: 2.0 ** 1024 is an error, not infinity.
        delay = min(self.first_delay_seconds * 2.0 ** min(num_tried - 1, 64), self.max_delay_seconds)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, guards nothing

    def delay_seconds(self, num_tried: int, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Return how long to wait before the next try, None when there is to be none."""
        if num_tried >= self.max_tries:
            return None
        if isinstance(outcome, httpx.RequestError):
            return None if isinstance(outcome, HOPELESS_ERRORS) else self.backoff_seconds(num_tried)
        if outcome.status_code not in TRANSIENT_STATUSES:
            return None
        asked = retry_after_seconds(outcome)
        if asked > self.max_retry_after_seconds:
            return None
        # On top of what was asked for, so that clients sent away together do not come back together.
        return asked + self.backoff_seconds(num_tried)


def retry_after_seconds(response: httpx.Response) -> float:
    """Return what `Retry-After` asks for, in seconds or as a date; 0 without a readable one."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
