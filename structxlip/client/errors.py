"""What can go wrong with a call, as types.

```
StructXLIPError
├── ConnectionFailedError         no answer: refused, cut off, or not in time, after every try
│   └── NoAnswerInTimeError
├── UnexpectedAnswerError         an answer, but not one of this service: a proxy's page, another version's shape
└── ApiError                      the service said no, with problem details (RFC 9457) and a request id
    ├── MalformedRequestError     400
    ├── UnauthorizedError         401   no API key, or not one of the service's
    ├── ForbiddenError            403   a key without the scope
    ├── NotFoundError             404
    ├── ConflictError             409
    ├── TooLargeError             413   more bytes, files or text than one request may have
    ├── InvalidRequestError       422   well formed, but not something that the service can do: see `problem.errors`
    ├── PictureError              4xx   a picture that cannot be used; it never concerns the others of a request
    ├── TooManyRequestsError      429   busy, or past a rate limit, after every try
    └── ServerError               5xx   quote `request_id` when you report it
        ├── NotReadyError         503   starting, stopping, or a part of it has died
        ├── DeadlineExceededError 504   the answer would have come too late
        └── StorageFullError      507
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PICTURE_PROBLEMS = ("/problems/image-", "/problems/remote-image-")


@dataclass(frozen=True, slots=True)
class Problem:
    """RFC 9457 problem details, of a request or of one picture in it.

    Attributes:
        status: The HTTP status; 0 for a file that could not be read on this side and was never sent.
        errors: Each value that was not valid, where there are several: ``{"in": …, "pointer": …, "message": …}``.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Problem:
        """Read a problem object."""
        return cls(
            type=str(value["type"]),
            title=str(value["title"]),
            status=int(value["status"]),
            detail=str(value["detail"]),
            errors=tuple(value.get("errors") or ()),
        )


class StructXLIPError(Exception):
    """Anything that keeps a call from being answered."""


class ConnectionFailedError(StructXLIPError):
    """The service cannot be reached, or the connection broke, as often as it was tried."""


class NoAnswerInTimeError(ConnectionFailedError):
    """The service was reached, or should have been, but did not answer within the client's timeout."""


class UnexpectedAnswerError(StructXLIPError):
    """The answer is not one that this service gives: look at the address, and at what stands before it."""


class ApiError(StructXLIPError):
    """The service refused a request, or failed on it.

    Attributes:
        problem: What was received, what was expected, what to do.
        request_id: Under this the service's log has the rest; None for one picture of a request.
    """

    def __init__(self, problem: Problem, request_id: str | None = None) -> None:
        super().__init__(problem, request_id)
        self.problem = problem
        self.request_id = request_id

    def __str__(self) -> str:
        """Return one sentence that can be shown to a user."""
        listed = "; ".join(_listed(error) for error in self.problem.errors)
        where = f" (request id {self.request_id})" if self.request_id else ""
        return f"{self.problem.detail}{f': {listed}' if listed else ''}{where}"


class MalformedRequestError(ApiError):
    """The body was not what its headers said."""


class UnauthorizedError(ApiError):
    """An API key is needed, or the one given is not one of the service's."""


class ForbiddenError(ApiError):
    """The key lacks the scope for this call."""


class NotFoundError(ApiError):
    """There is nothing of that name."""


class ConflictError(ApiError):
    """The request does not fit the present state of what it asks about."""


class TooLargeError(ApiError):
    """More bytes, files or text than one request may have."""


class InvalidRequestError(ApiError):
    """The request does not say something that the service can do."""


class PictureError(ApiError):
    """One picture cannot be used: empty, damaged, too large, of an unknown kind."""


class TooManyRequestsError(ApiError):
    """The service is busy, or a rate limit is reached."""


class ServerError(ApiError):
    """The service failed."""


class NotReadyError(ServerError):
    """The service cannot serve now."""


class DeadlineExceededError(ServerError):
    """The service was too busy to answer while somebody waited."""


class StorageFullError(ServerError):
    """The service has no space left; nothing of the request was stored."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: MalformedRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidRequestError,
    429: TooManyRequestsError,
    503: NotReadyError,
    504: DeadlineExceededError,
    507: StorageFullError,
}


def error_of(problem: Problem, request_id: str | None = None) -> ApiError:
    """Return the exception for a problem."""
    if problem.type.startswith(PICTURE_PROBLEMS):
        return PictureError(problem, request_id)
    fallback = ServerError if problem.status >= 500 else ApiError
    return _BY_STATUS.get(problem.status, fallback)(problem, request_id)


def _listed(error: Mapping[str, Any]) -> str:
    return f"{error.get('in', '')}{error.get('pointer', '')} {error.get('message', '')}".strip()
