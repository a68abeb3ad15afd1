"""What a JSON body holds of the budget is given back with the end of its request, however it ends."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.types import Message

from service.bodies import LeaseMiddleware, json_body
from service.problems import install_problem_handlers
from service.settings import Settings
from service.uploads import BytesBudget


class Words(BaseModel):
    """A body with one text."""

    text: str


class State:
    """Of a service, what reading a body looks at."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.upload_budget = BytesBudget(1000)


def answered(state: State, body: bytes, *, is_broken: bool = False) -> tuple[int, list[int]]:
    """Return the status, and what was held while the request was worked on and when its answer began."""
    app, held = FastAPI(), []

    @app.post("/")
    async def answer(request: Request, words: Annotated[Words, json_body(Words)]) -> dict[str, str]:
        held.append(state.upload_budget.held_bytes)
        if is_broken:
            raise RuntimeError("made to break")
        return {"text": words.text}

    app.add_middleware(LeaseMiddleware)
    install_problem_handlers(app)
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            held.append(state.upload_budget.held_bytes)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "state": {"service": state},
    }
    asyncio.run(app(scope, receive, send))
    return statuses[0], held


@pytest.fixture
def state(settings: Settings) -> State:
    return State(settings)


def test_a_body_is_held_until_its_answer(state: State) -> None:
    body = b'{"text": "a red chair"}'
    assert answered(state, body) == (200, [len(body), len(body)])
    assert state.upload_budget.held_bytes == 0


def test_a_body_that_is_refused_is_given_back(state: State) -> None:
    status, held = answered(state, b'{"text": 5}')
    assert (status, held) == (422, [11])
    assert state.upload_budget.held_bytes == 0


def test_a_body_that_broke_something_is_given_back(state: State) -> None:
    assert answered(state, b'{"text": "x"}', is_broken=True)[0] == 500
    assert state.upload_budget.held_bytes == 0


def test_a_body_beyond_the_budget_is_refused_and_holds_nothing(state: State) -> None:
    state.upload_budget.take(990)
    assert answered(state, b'{"text": "a red chair"}')[0] == 429
    assert state.upload_budget.held_bytes == 990
