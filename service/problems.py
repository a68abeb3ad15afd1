"""What can go wrong for a caller, as RFC 9457 problem details.

Every error that a caller may see is a `Problem`: it knows its HTTP status, so that a call about one thing can
answer with it and a call about many things can embed it beside the results that did work. Whatever else is
raised is our own
mistake: it becomes a 500 that carries a request id and no internals.

    Problem
    ├── MalformedRequest           400   not HTTP, multipart or JSON as the standards say
    │   └── RequestIncomplete      400   the client went away in the middle of the body
    ├── Unauthorized               401   no key, or not one of ours
    ├── Forbidden                  403   a key without the scope, or a request from a foreign web page
    ├── NotFound                   404
    ├── RequestTimeout             408   the body came too slowly
    ├── Conflict                   409
    ├── PayloadTooLarge            413
    ├── UnsupportedMediaType       415
    ├── MisdirectedRequest         421   a Host header that is not ours
    ├── InvalidRequest             422   well formed, but it does not say something we can do
    ├── TooManyRequests            429   with Retry-After
    ├── InternalError              500
    ├── NotReady                   503   with Retry-After
    ├── DeadlineExceeded           504   the answer would have come too late
    ├── StorageFull                507
    ├── ImageProblem               422   one picture, not the request
    │   ├── ImageEmpty             422
    │   ├── ImageTooLarge          413   in bytes
    │   ├── ImageTooManyPixels     413
    │   ├── ImageTooSmall          422   in pixels a side
    │   ├── ImageUnreadable        422   damaged or cut off
    │   └── ImageUnsupported       415   not a picture, or of a kind that we do not read
    └── RemoteImageProblem         422   a picture given by its address
        ├── RemoteImageRefused     422   an address that we do not visit
        └── RemoteImageUnavailable 422   it did not answer, or not with a picture in time
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Self

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.routes import routes_of_path

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

MAX_LISTED_ERRORS = 20
MAX_MESSAGE_LENGTH = 300
MAX_POINTER_LENGTH = 200

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """Something that went wrong for the caller, said so that they can act on it.

    Args:
        detail: What was received, what was expected, what to do. Shown to the caller as it is.
        headers: HTTP headers of the answer, when the whole request is answered with this.
        extra: Further members of the JSON object.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "about:blank"
    title: ClassVar[str] = "Internal server error"

    def __init__(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, JsonValue] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: Mapping[str, str] = dict(headers or {})
        self.extra: Mapping[str, JsonValue] = dict(extra or {})

    def to_json(self) -> dict[str, JsonValue]:
        """Return the members of the problem object, also fit to stand in an answer about many things."""
        return {
            **self.extra,
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }


class MalformedRequest(Problem):
    """The bytes are not what their own headers say."""

    status = 400
    type = "/problems/malformed-request"
    title = "The request is malformed"


class RequestIncomplete(MalformedRequest):
    """The client went away before the body was complete; nobody reads the answer."""

    type = "/problems/request-incomplete"
    title = "The request body is incomplete"


class Unauthorized(Problem):
    """No API key, or not one of ours."""

    status = 401
    type = "/problems/unauthorized"
    title = "An API key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="structxlip"'})


class Forbidden(Problem):
    """We know who asks, and they may not."""

    status = 403
    type = "/problems/forbidden"
    title = "Not allowed"


class NotFound(Problem):
    """There is nothing of that name."""

    status = 404
    type = "/problems/not-found"
    title = "Not found"


class RequestTimeout(Problem):
    """The body came too slowly."""

    status = 408
    type = "/problems/request-timeout"
    title = "The request took too long to arrive"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Connection": "close"})


class Conflict(Problem):
    """The request does not fit the present state of what it asks about."""

    status = 409
    type = "/problems/conflict"
    title = "In conflict with the present state"


class PayloadTooLarge(Problem):
    """More bytes, files or parts than one request may have."""

    status = 413
    type = "/problems/payload-too-large"
    title = "The request is too large"


class UnsupportedMediaType(Problem):
    """A body in a format that this call does not read."""

    status = 415
    type = "/problems/unsupported-media-type"
    title = "The format of the request body is not supported"


class MisdirectedRequest(Problem):
    """The Host header names a server that we are not."""

    status = 421
    type = "/problems/misdirected-request"
    title = "This server does not answer for that host name"


class InvalidRequest(Problem):
    """Well formed, but it does not say something that we can do."""

    status = 422
    type = "/problems/invalid-request"
    title = "The request is not valid"

    @classmethod
    def from_validation(cls, errors: Sequence[Mapping[str, Any]], *, source: str | None = None) -> Self:
        """Make one from pydantic's list of errors, without echoing what was sent.

        Args:
            errors: As `pydantic.ValidationError.errors()` gives them.
            source: Where the validated value came from, such as ``body``; None when each location begins with
                it, as FastAPI's do.
        """
        listed: list[JsonValue] = [_listed_error(error, source) for error in errors[:MAX_LISTED_ERRORS]]
        more = len(errors) - len(listed)
        detail = f"{len(errors)} value(s) of the request are not valid; see `errors`"
        return cls(detail + (f", which leaves out {more}" if more else ""), extra={"errors": listed})


class _RetryLater(Problem):
    """A problem that passes by itself: it says when to come back."""

    def __init__(self, detail: str, *, retry_after_seconds: float = 1.0) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        super().__init__(detail, headers={"Retry-After": str(self.retry_after_seconds)})


class TooManyRequests(_RetryLater):
    """A rate limit, or a queue or budget that is full."""

    status = 429
    type = "/problems/too-many-requests"
    title = "Too many requests"


class InternalError(Problem):
    """Our own mistake; the details are in the log, under the request id."""

    status = 500
    type = "/problems/internal-error"
    title = "Internal server error"

    def __init__(self) -> None:
        super().__init__("Something went wrong on our side. Quote the request id when you report it.")


class NotReady(_RetryLater):
    """The service is starting, stopping, or a part of it has died."""

    status = 503
    type = "/problems/not-ready"
    title = "The service is not ready"


class DeadlineExceeded(Problem):
    """The answer would have come later than anybody waits for it."""

    status = 504
    type = "/problems/deadline-exceeded"
    title = "The request was not served in time"


class StorageFull(Problem):
    """No space left to store what was sent."""

    status = 507
    type = "/problems/storage-full"
    title = "The storage is full"


class ImageProblem(Problem):
    """One picture cannot be used; it costs itself alone."""

    status = 422
    type = "/problems/image-unusable"
    title = "The picture cannot be used"


class ImageEmpty(ImageProblem):
    """A file of no bytes."""

    type = "/problems/image-empty"
    title = "The picture is empty"


class ImageTooLarge(ImageProblem):
    """More bytes than a picture may have."""

    status = 413
    type = "/problems/image-too-large"
    title = "The picture has too many bytes"


class ImageTooManyPixels(ImageProblem):
    """More pixels than a picture may have, found before they are decoded."""

    status = 413
    type = "/problems/image-too-many-pixels"
    title = "The picture has too many pixels"


class ImageTooSmall(ImageProblem):
    """Too few pixels a side to show anything."""

    type = "/problems/image-too-small"
    title = "The picture is too small"


class ImageUnreadable(ImageProblem):
    """Damaged, or cut off."""

    type = "/problems/image-unreadable"
    title = "The picture cannot be read"


class ImageUnsupported(ImageProblem):
    """Not a picture, or of a kind that we do not read."""

    status = 415
    type = "/problems/image-unsupported"
    title = "The file is not a picture of a supported kind"


class RemoteImageProblem(Problem):
    """A picture given by its address cannot be had."""

    status = 422
    type = "/problems/remote-image-unusable"
    title = "The picture cannot be fetched"


class RemoteImageRefused(RemoteImageProblem):
    """An address that we do not visit."""

    type = "/problems/remote-image-refused"
    title = "Pictures from this address are refused"


class RemoteImageUnavailable(RemoteImageProblem):
    """The other server did not give the picture, or not in time."""

    type = "/problems/remote-image-unavailable"
    title = "The picture could not be fetched"


class ProblemResponse(Response):
    """A response of problem details; plain ASCII, so that no lone surrogate of the caller's can break it."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Return the JSON as bytes."""
        return json.dumps(content, allow_nan=False).encode("ascii")


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of ``app`` a problem response with an id; call it after adding other middleware.

    The two middlewares that this adds then stand outermost: each request has its id before anything else sees
    it, and an exception from any other middleware still becomes a problem.
    """
    app.add_exception_handler(Problem, _handle_problem)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_middleware(LastResortMiddleware)
    app.add_middleware(RequestIdMiddleware)


def problem_response(scope: Scope, problem: Problem) -> Response:
    """Return the response for a problem; also for middleware, which stands outside the handlers."""
    body = {**problem.to_json(), "instance": _instance(scope), "request_id": request_id_of(scope)}
    return ProblemResponse(body, status_code=problem.status, headers=dict(problem.headers))


def request_id_of(scope: Scope) -> str | None:
    """Return the id that `RequestIdMiddleware` gave to the request, None where it is not installed."""
    request_id = scope.get("state", {}).get("request_id")
    return str(request_id) if request_id is not None else None


class RequestIdMiddleware:
    """Gives each request an id: the caller's ``X-Request-ID`` if it is a sane one, else a new one.

    The id goes back in the same header, into ``scope["state"]["request_id"]`` and into structlog's context.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request with its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if _SANE_REQUEST_ID.fullmatch(offered) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_id)


class LastResortMiddleware:
    """Turns what nobody handled into a 500 without internals, and logs it with its traceback.

    Starlette's own place for this is outside all middleware, where the request id is gone from the log's
    context, and it raises the error again for the server to log a second time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request; answer for what it raises, unless the answer has begun."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def watch_start(message: Message) -> None:
            nonlocal is_started
            is_started = is_started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch_start)
        except Exception as error:
            # A problem raised in a middleware is an answer like any other.
            problem = error if isinstance(error, Problem) else InternalError()
            if problem is not error:
                logger.exception("unhandled_error", method=scope["method"], path=_instance(scope))
            if is_started:
                raise  # Too late for a status: the server closes the connection, so that the cut is seen.
            await problem_response(scope, problem)(scope, receive, send)


async def _handle_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("internal_error", path=_instance(request.scope), exc_info=error)
    return problem_response(request.scope, error)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(request.scope, InvalidRequest.from_validation(error.errors()))


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    body: dict[str, JsonValue] = {
        "type": "about:blank",
        "title": phrase,
        "status": error.status_code,
        "detail": str(error.detail) or phrase,
        "instance": _instance(request.scope),
        "request_id": request_id_of(request.scope),
    }
    return ProblemResponse(body, status_code=error.status_code, headers=headers)


def _allowed_methods(request: Request) -> set[str]:
    """Return the methods of every route on this path; Starlette names those of the first one only."""
    allowed: set[str] = set()
    for route, _ in routes_of_path(request.scope):
        allowed |= getattr(route, "methods", None) or set()
    return allowed


def _instance(scope: Scope) -> str:
    return _shorten(str(scope.get("path", "")), MAX_POINTER_LENGTH)


def _listed_error(error: Mapping[str, Any], source: str | None) -> JsonValue:
    location = list(error.get("loc", ()))
    if source is None and location:
        source = str(location.pop(0))
    if error.get("type") == "json_invalid":
        location = []  # FastAPI puts the character's offset here, which is no path into the document.
    return {
        "in": source or "body",
        "pointer": _shorten(json_pointer(location), MAX_POINTER_LENGTH),
        "message": _shorten(str(error.get("msg", "not valid")), MAX_MESSAGE_LENGTH),
    }


def json_pointer(location: Sequence[str | int]) -> str:
    """Return RFC 6901's pointer: ``("filter", 0, "a/b")`` is ``/filter/0/a~1b``, all of it is ``""``."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in location)


def _shorten(text: str, max_length: int) -> str:
    return text if len(text) <= max_length else text[: max_length - 1] + "…"
