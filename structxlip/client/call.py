"""One call of the service, described apart from how it is sent: the sync and the async client send the same ones."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import httpx

from structxlip.client.errors import (
    ApiError,
    ConnectionFailedError,
    NoAnswerInTimeError,
    Problem,
    StructXLIPError,
    UnexpectedAnswerError,
    error_of,
)

T = TypeVar("T")

# Busy, starting or restarting: 502 and 504 come from a proxy whose service is not there.
TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})
PROBLEM_TYPE = "application/problem+json"
MAX_QUOTED = 200


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What to send, and how to read the answer.

    Attributes:
        read: Makes the result of a good answer.
        files: Multipart parts: the part's name, the file's name, its bytes.
        form: Multipart fields beside them.
        accepts: Error statuses whose answer `read` understands.
        is_retried: False where the caller wants to know how things stand now.
        is_done_when_gone: A 404 on a later try means that an earlier one was served, though its answer was lost.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Any = None
    files: Sequence[tuple[str, str, bytes]] = ()
    form: Mapping[str, str] = field(default_factory=dict)
    accepts: frozenset[int] = frozenset()
    is_retried: bool = True
    is_done_when_gone: bool = False

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Make the request, with the client's address, headers and timeouts."""
        return client.build_request(
            self.method,
            self.path,
            params=self.params or None,
            json=self.json,
            files=[(part, (name, data)) for part, name, data in self.files] or None,
            data=self.form or None,
        )

    def result(self, outcome: httpx.Response | httpx.RequestError, *, num_tried: int = 1) -> T:
        """Read what came of the last try.

        Raises:
            StructXLIPError: If that was no good answer.
        """
        if isinstance(outcome, httpx.RequestError):
            raise _connection_error(outcome) from outcome
        is_done = outcome.is_success or outcome.status_code in self.accepts
        if self.is_done_when_gone and outcome.status_code == httpx.codes.NOT_FOUND and num_tried > 1:
            is_done = True
        if not is_done:
            raise answered_error(outcome)
        try:
            return self.read(outcome)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnexpectedAnswerError(f"{_said(outcome)}, in a shape that this client does not know") from error


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next call."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """There is no next call; this came of them all."""

    value: T


# Several calls that hang together, as a generator: it yields calls and pauses and is sent their results, or has their
# error thrown in. It does the thinking, and a client of either kind does the sending and the waiting.
Steps = Generator[Call[Any] | Pause, Any, T]


def advance(
    steps: Steps[T], result: object = None, *, error: StructXLIPError | None = None
) -> Call[Any] | Pause | Done[T]:
    """Hand the last call's result or error to the steps, and return what they want next."""
    try:
        return steps.send(result) if error is None else steps.throw(error)
    except StopIteration as end:
        return Done(end.value)


def answered_error(response: httpx.Response) -> StructXLIPError:
    """Return the exception for an answer that is not a good one."""
    request_id = response.headers.get("X-Request-ID")
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == PROBLEM_TYPE:
        try:
            return error_of(Problem.from_json(response.json()), request_id)
        except (ValueError, KeyError, TypeError):
            pass
    if response.is_error:
        # Something in between answered: its status says as much as the service's own would.
        detail = f"{_said(response)}, without problem details: {response.text[:MAX_QUOTED]!r}"
        return error_of(Problem("about:blank", response.reason_phrase, response.status_code, detail), request_id)
    return UnexpectedAnswerError(f"{_said(response)}; is this the address of the service?")


def is_transient(error: StructXLIPError) -> bool:
    """Whether the same call may go through later."""
    if isinstance(error, ApiError):
        return error.problem.status in TRANSIENT_STATUSES
    return isinstance(error, ConnectionFailedError)


def _connection_error(error: httpx.RequestError) -> ConnectionFailedError:
    request = error.request
    said = f"{request.method} {request.url}: {str(error) or type(error).__name__}"
    if isinstance(error, httpx.TimeoutException):
        return NoAnswerInTimeError(f"no answer in time to {said}")
    return ConnectionFailedError(f"no answer to {said}")


def _said(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url} answered {response.status_code}"
