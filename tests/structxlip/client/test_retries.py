from __future__ import annotations

import asyncio
import email.utils
import socket
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse, PlainTextResponse, Response

from structxlip.client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    InvalidRequestError,
    NoAnswerInTimeError,
    NotFoundError,
    NotReadyError,
    RetryPolicy,
    ServerError,
    TooManyRequestsError,
    UnexpectedAnswerError,
)
from structxlip.client.retries import retry_after_seconds
from tests.structxlip.client.conftest import QUICK
from tests.support.flaky_service import FlakyService, cut_off, problem

FOUND: dict[str, object] = {
    "hits": [],
    "no_match": None,
    "structure_weight": 0.3,
    "structural_text": "a chair",
    "cursor": None,
    "took_ms": 1.0,
    "fingerprint": "f",
}


def found() -> Response:
    return JSONResponse(FOUND)


def created(*ids: str) -> Response:
    return JSONResponse({"items": [{"id": name, "status": "created", "problem": None} for name in ids]})


def busy_item(image_id: str, status: int = 429) -> dict[str, object]:
    refusal = {"type": "/problems/too-many-requests", "title": "t", "status": status, "detail": "the queue is full"}
    return {"id": image_id, "status": "failed", "problem": refusal}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_until_it_has_passed(flaky: FlakyService, flaky_client: Client, status: int) -> None:
    flaky.will(problem(status), problem(status), found())
    assert flaky_client.search("a chair").structural_text == "a chair"
    assert len(flaky.requests) == 3
    assert len({body for *_, body in flaky.requests}) == 1


def test_an_async_client_tries_as_often(flaky: FlakyService, flaky_url: str) -> None:
    flaky.will(problem(503), cut_off, found())

    async def scenario() -> None:
        async with AsyncClient(flaky_url, retries=QUICK) as client:
            assert (await client.search("a chair")).structural_text == "a chair"

    asyncio.run(scenario())
    assert len(flaky.requests) == 3


def test_a_connection_that_breaks_is_opened_again(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(cut_off, cut_off, found())
    assert flaky_client.search("a chair").hits == ()
    flaky.will(cut_off)
    with pytest.raises(ConnectionFailedError, match=r"POST .*/search"):
        flaky_client.search("a chair")
    assert len(flaky.requests) == 3 + QUICK.max_tries


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 507])
def test_what_does_not_pass_is_asked_once(flaky: FlakyService, flaky_client: Client, status: int) -> None:
    flaky.will(problem(status))
    with pytest.raises(Exception, match=f"detail of {status}"):
        flaky_client.search("a chair")
    assert len(flaky.requests) == 1


def test_patience_ends_with_the_last_refusal(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(problem(429))
    with pytest.raises(TooManyRequestsError) as refused:
        flaky_client.search("a chair")
    assert len(flaky.requests) == QUICK.max_tries
    assert (refused.value.problem.status, refused.value.request_id) == (429, "r-1")
    assert "r-1" in str(refused.value)


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for(flaky: FlakyService, flaky_client: Client, as_date: bool) -> None:
    # A date has whole seconds, so that two of them are at least one.
    value = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    flaky.will(problem(429, retry_after=value), found())
    started = time.monotonic()
    flaky_client.search("a chair")
    assert time.monotonic() - started >= 0.95


def test_a_rest_longer_than_the_client_waits_is_an_error_at_once(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(problem(429, retry_after="3600"))
    with pytest.raises(TooManyRequestsError):
        flaky_client.search("a chair")
    assert len(flaky.requests) == 1


def test_health_says_how_things_stand_now(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(problem(503), found())
    with pytest.raises(NotReadyError):
        flaky_client.health()
    assert len(flaky.requests) == 1
    flaky.will(JSONResponse({"ready": False, "checks": {"index_loaded": False}, "activity": "x", "progress": 0.5}, 503))
    state = flaky_client.readiness()
    assert (state.is_ready, state.checks, state.progress) == (False, {"index_loaded": False}, 0.5)


def test_a_start_is_waited_for(flaky: FlakyService, flaky_client: Client) -> None:
    starting = JSONResponse({"ready": False, "checks": {"index_loaded": False, "worker_alive": True}}, 503)
    ready = JSONResponse({"ready": True, "checks": {"index_loaded": True, "worker_alive": True}})
    flaky.will(cut_off, starting, problem(502), ready)
    assert flaky_client.wait_until_ready().is_ready
    flaky.will(starting)
    with pytest.raises(NotReadyError, match=r"missing: index_loaded$"):
        flaky_client.wait_until_ready(seconds=0.1)
    flaky.will(problem(404))
    with pytest.raises(NotFoundError):
        flaky_client.wait_until_ready()


def test_a_deletion_whose_answer_was_lost_is_no_error(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(cut_off, problem(404))
    flaky_client.images.delete("a")
    flaky.will(problem(404))
    with pytest.raises(NotFoundError):
        flaky_client.images.delete("a")


def test_pictures_that_met_a_full_queue_are_sent_again_without_the_others(
    flaky: FlakyService, flaky_client: Client
) -> None:
    first = JSONResponse({"items": [{"id": "a", "status": "created"}, busy_item("b"), busy_item("c", 503)]})
    second = JSONResponse({"items": [busy_item("b"), {"id": "c", "status": "created"}]})
    flaky.will(first, second, created("b"))
    results = list(flaky_client.add_many([b"A-bytes", b"B-bytes", b"C-bytes"]))
    assert [(result.picture, result.id, result.status) for result in results] == [
        (b"A-bytes", "a", "created"),
        (b"B-bytes", "b", "created"),
        (b"C-bytes", "c", "created"),
    ]
    bodies = [body for *_, body in flaky.requests]
    sent = [[name for name in (b"A-bytes", b"B-bytes", b"C-bytes") if name in body] for body in bodies]
    assert sent == [[b"A-bytes", b"B-bytes", b"C-bytes"], [b"B-bytes", b"C-bytes"], [b"B-bytes"]]


def test_a_queue_that_stays_full_fails_the_picture(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(JSONResponse({"items": [busy_item("a")]}))
    (result,) = flaky_client.add_many([b"x"])
    assert result.problem is not None
    assert result.problem.detail == "the queue is full"
    with pytest.raises(TooManyRequestsError):
        result.raise_if_failed()
    assert len(flaky.requests) == QUICK.max_tries


def test_a_service_that_dies_in_the_middle_ends_the_adding(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(created("a"), problem(507))
    results = flaky_client.add_many([b"x", b"y", b"z"], batch_size=1, num_workers=1)
    assert next(results).id == "a"
    with pytest.raises(ServerError, match="detail of 507"):
        list(results)


def test_nobody_there_is_said_with_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(url, retries=QUICK) as client, pytest.raises(ConnectionFailedError, match=url):
            client.info()


def test_a_silent_service_is_not_waited_for_beyond_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        retries = RetryPolicy(max_tries=2, first_delay_seconds=0.001)
        with Client(url, timeout_seconds=0.2, retries=retries) as client, pytest.raises(NoAnswerInTimeError):
            client.info()


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("It works!"),
        Response(status_code=302, headers={"Location": "/login"}),
        JSONResponse({"hits": "none"}),
        JSONResponse([]),
        JSONResponse({**FOUND, "hits": [{"id": "a"}]}),
    ],
)
def test_another_servers_answer_is_no_result(flaky: FlakyService, flaky_client: Client, answer: Response) -> None:
    flaky.will(answer)
    with pytest.raises(UnexpectedAnswerError, match="/search answered"):
        flaky_client.search("a chair")


def test_a_proxys_error_page_keeps_its_status(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(PlainTextResponse("<html>no such host</html>", 404))
    with pytest.raises(NotFoundError, match="no such host"):
        flaky_client.search("a chair")
    flaky.will(Response("{not json", 422, media_type="application/problem+json"))
    with pytest.raises(InvalidRequestError):
        flaky_client.search("a chair")


def test_items_that_do_not_belong_to_the_pictures_are_no_result(flaky: FlakyService, flaky_client: Client) -> None:
    for answer in (created("a", "b"), created(), JSONResponse({"items": [{"name": "a"}]})):
        flaky.will(answer)
        with pytest.raises(UnexpectedAnswerError):
            flaky_client.add(b"x")


@given(num_tried=st.integers(1, 5000), cap=st.floats(0.01, 100), first=st.floats(0.001, 10))
def test_the_delay_doubles_up_to_its_bound_and_half_is_chance(num_tried: int, cap: float, first: float) -> None:
    policy = RetryPolicy(first_delay_seconds=first, max_delay_seconds=cap)
    whole = min(cap, first * 2.0 ** min(num_tried - 1, 100))
    assert whole / 2 <= policy.backoff_seconds(num_tried) <= whole
    assert len({policy.backoff_seconds(3) for _ in range(20)}) > 1


@given(st.text(st.characters(max_codepoint=126, min_codepoint=32)) | st.integers().map(str))
def test_any_retry_after_is_a_number_of_seconds(value: str) -> None:
    assert retry_after_seconds(httpx.Response(429, headers={"Retry-After": value})) >= 0


def test_mistakes_in_the_address_are_found_at_once() -> None:
    for wrong in ("127.0.0.1:8000", "ftp://somewhere", "http://", "http://[x]", "http://a:b:c", ""):
        with pytest.raises(ValueError, match="address"):
            Client(wrong)
