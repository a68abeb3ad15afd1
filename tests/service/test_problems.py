"""Every error becomes problem details with a request id, and a 500 tells nothing of its inside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import get_contextvars
from structlog.testing import capture_logs

from service import problems
from service.problems import (
    Forbidden,
    ImageUnreadable,
    InvalidRequest,
    NotReady,
    Problem,
    TooManyRequests,
    Unauthorized,
    install_problem_handlers,
    json_pointer,
)


class Wanted(BaseModel):
    limit: int
    names: list[str] = []


class Breaking:
    """A middleware that raises what it is told."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/middleware-bug":
            raise RuntimeError("secret of the middleware")
        if scope.get("path") == "/middleware-problem":
            raise Forbidden("not from here")
        await self._app(scope, receive, send)


def make_app() -> FastAPI:
    app = FastAPI()

    @app.get("/bug")
    async def bug() -> None:
        raise RuntimeError("secret of the inside")

    @app.get("/picture")
    async def picture() -> None:
        raise ImageUnreadable("cut off", extra={"index": 3})

    @app.get("/busy")
    async def busy() -> None:
        raise TooManyRequests("full", retry_after_seconds=2.1)

    @app.post("/wanted")
    async def wanted(wanted: Wanted) -> dict[str, Any]:
        return {"ok": wanted.limit}

    @app.get("/context")
    async def context() -> dict[str, Any]:
        return get_contextvars()

    app.add_middleware(Breaking)
    install_problem_handlers(app)
    return app


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(make_app())


def all_problems(kind: type[Problem] = Problem) -> list[type[Problem]]:
    below = [problem for child in kind.__subclasses__() for problem in all_problems(child)]
    return [*kind.__subclasses__(), *below]


def test_each_kind_of_problem_has_its_own_type_and_stands_in_the_drawing() -> None:
    public = [kind for kind in all_problems() if kind.__module__ == "service.problems" and kind.__name__[0] != "_"]
    assert len({kind.type for kind in public}) == len(public)
    assert problems.__doc__ is not None
    for kind in public:
        line = next(line for line in problems.__doc__.splitlines() if f"─ {kind.__name__} " in line)
        assert f" {kind.status} " in f"{line} ", f"{kind.__name__} has status {kind.status}, drawn as {line!r}"


def test_a_problem_is_answered_as_rfc_9457_says(client: TestClient) -> None:
    answer = client.get("/picture")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/problems/image-unreadable",
        "title": "The picture cannot be read",
        "status": 422,
        "detail": "cut off",
        "index": 3,
        "instance": "/picture",
        "request_id": answer.headers["x-request-id"],
    }


def test_headers_of_a_problem_are_sent(client: TestClient) -> None:
    assert client.get("/busy").headers["retry-after"] == "3"
    assert Unauthorized("who?").headers["WWW-Authenticate"].startswith("Bearer")
    assert NotReady("not yet").headers["Retry-After"] == "1"


@pytest.mark.parametrize(("path", "secret"), [("/bug", "the inside"), ("/middleware-bug", "the middleware")])
def test_a_bug_is_a_500_without_internals_and_logged_with_its_traceback(
    client: TestClient, path: str, secret: str
) -> None:
    with capture_logs() as logs:
        answer = client.get(path)
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("unhandled_error", True)]


def test_a_problem_of_a_middleware_is_answered_like_any_other(client: TestClient) -> None:
    answer = client.get("/middleware-problem")
    assert (answer.status_code, answer.json()["detail"]) == (403, "not from here")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nothing", 404), ("DELETE", "/wanted", 405), ("GET", "/x" * 900, 404)]
)
def test_the_frameworks_own_errors_are_problems_too(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert len(answer.text) < 1000


def test_a_405_says_what_is_allowed(client: TestClient) -> None:
    assert client.delete("/wanted").headers["allow"] == "POST"


def test_invalid_values_are_listed_by_json_pointer(client: TestClient) -> None:
    answer = client.post("/wanted", json={"limit": "many", "names": ["a", 5]})
    assert answer.status_code == 422
    listed = answer.json()["errors"]
    assert [(error["in"], error["pointer"]) for error in listed] == [("body", "/limit"), ("body", "/names/1")]
    assert all(error["message"] for error in listed)


def test_invalid_json_points_at_the_whole_body(client: TestClient) -> None:
    answer = client.post("/wanted", content=b"{oh", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == ""


def test_huge_inputs_are_not_echoed(client: TestClient) -> None:
    answer = client.post("/wanted", json={"limit": "x" * 100_000, "names": [{"y" * 50_000: 1}] * 500})
    assert answer.status_code == 422
    assert len(answer.content) < 20_000
    assert len(answer.json()["errors"]) == problems.MAX_LISTED_ERRORS
    assert "leaves out" in answer.json()["detail"]


def test_half_a_surrogate_pair_does_not_break_the_answer() -> None:
    with pytest.raises(ValidationError) as raised:
        Wanted.model_validate({"limit": 1, "names": {"\ud800": 1}})
    problem = InvalidRequest.from_validation(raised.value.errors(), source="body")
    scope = {"type": "http", "path": "/\ud800"}
    assert json.loads(bytes(problems.problem_response(scope, problem).body))["status"] == 422


def test_a_sane_request_id_is_kept_and_others_are_replaced(client: TestClient) -> None:
    assert client.get("/context", headers={"X-Request-ID": "abc-123"}).headers["x-request-id"] == "abc-123"
    for offered in ("", "a b", "x" * 129, "a\tb", '"><script>'):
        given = client.get("/context", headers={"X-Request-ID": offered}).headers["x-request-id"]
        assert given != offered
        assert len(given) == 32


def test_the_request_id_is_in_the_context_of_the_log(client: TestClient) -> None:
    answer = client.get("/context", headers={"X-Request-ID": "abc-123"})
    assert answer.json() == {"request_id": "abc-123"}
    assert "request_id" not in get_contextvars()


@pytest.mark.parametrize(
    ("location", "pointer"), [((), ""), (("filter", 0, "a/b~c"), "/filter/0/a~1b~0c"), (("",), "/")]
)
def test_json_pointers_are_escaped(location: tuple[str | int, ...], pointer: str) -> None:
    assert json_pointer(location) == pointer
