"""A service that answers by a script: busy, broken, cut off, or well."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.problems import MEDIA_TYPE

METHODS = ["GET", "POST", "PATCH", "DELETE"]

Answer = Response | Callable[[Scope, Receive, Send], Any]


@dataclass
class FlakyService:
    """Gives the scripted answers one after another, and then the last one for ever.

    Attributes:
        answers: What is still to be given.
        requests: What came: method, path (quoted as it came), headers, body.
    """

    answers: deque[Answer] = field(default_factory=deque)
    requests: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        """The service as an ASGI application."""
        return Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)])

    async def _answer(self, request: Request) -> Answer:
        target = request.scope["raw_path"].decode()
        self.requests.append((request.method, target, dict(request.headers), await request.body()))
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]

    def will(self, *answers: Answer) -> None:
        """Set the script."""
        self.answers = deque(answers)


def problem(status: int, *, retry_after: str | None = None, type: str = "/problems/of-the-test") -> Response:
    """Return an answer with problem details."""
    body = {"type": type, "title": "A title", "status": status, "detail": f"detail of {status}", "request_id": "r-1"}
    headers = {"X-Request-ID": "r-1"} | ({} if retry_after is None else {"Retry-After": retry_after})
    return JSONResponse(body, status, headers, MEDIA_TYPE)


async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
    """Promise a body and close the connection instead."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
