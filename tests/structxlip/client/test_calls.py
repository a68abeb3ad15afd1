"""What goes out for each call, and how answers are read, by the shapes that the service promises."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

from structxlip.client import Calibration, Client, NotFoundError, Term, WatchedImage, Watchlist, calls
from structxlip.client.results import FieldValue, Pair, Phrase, Region
from tests.support.flaky_service import FlakyService, problem
from tests.support.pictures import jpeg, scene

PICTURE = jpeg(scene(32, 24, seed=1))
ENCODED = base64.b64encode(PICTURE).decode()

EXPLANATION = {
    "phrases": [{"text": "a chair", "start": 0, "end": 7}],
    "regions": [{"box": [0, 0, 0.5, 1]}, {"box": [0.25, 0.25, 1, 1]}],
    "similarities": [[0.5, 0.25]],
    "pairs": [{"phrase": 0, "region": 0, "similarity": 0.5}, {"phrase": 0, "region": 1, "similarity": 0.25}],
}
ANSWER = {
    "hits": [
        {
            "id": "a",
            "score": 0.5,
            "scores": {"appearance": 0.4, "structure": 0.6},
            "confidence": 0.97,
            "metadata": {"shop": "x"},
            "caption": None,
            "links": {"self": "/images/a"},
            "explanation": EXPLANATION,
        }
    ],
    "no_match": False,
    "false_accept_rate": 0.05,
    "num_excluded": 2,
    "structure_weight": 0.5,
    "structural_text": "a chair",
    "cursor": "next",
    "took_ms": 1.5,
    "fingerprint": "f",
    "warnings": ["careful"],
}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"text": "a chair"}, {"text": "a chair", "limit": 10}),
        ({"image": PICTURE}, {"image": ENCODED, "limit": 10}),
        ({"image_id": "a", "limit": 3}, {"image_id": "a", "limit": 3}),
        ({"sketch": PICTURE, "structure_weight": 0.0}, {"sketch": ENCODED, "structure_weight": 0.0, "limit": 10}),
        (
            {"query": [Term(text="a chair", weight=2), Term(image_id="a"), Term(sketch=PICTURE, weight=0.5)]},
            {
                "query": [{"text": "a chair", "weight": 2}, {"image_id": "a"}, {"sketch": ENCODED, "weight": 0.5}],
                "limit": 10,
            },
        ),
        ({"text": "x", "negative": "red"}, {"text": "x", "negative": [{"text": "red"}], "limit": 10}),
        (
            {"text": "x", "negative": [Term(image=PICTURE), "red", Term(image_id="b")]},
            {"text": "x", "negative": [{"image": ENCODED}, {"text": "red"}, {"image_id": "b"}], "limit": 10},
        ),
        ({"text": "x", "negative": ()}, {"text": "x", "limit": 10}),
        (
            {"text": "x", "only_confident": True, "include": ["explanation"], "min_score": 0.0, "cursor": "c"},
            {
                "text": "x",
                "only_confident": True,
                "include": ["explanation"],
                "min_score": 0.0,
                "cursor": "c",
                "limit": 10,
            },
        ),
        ({"text": "x", "filter": {"not": {"field": "a", "exists": True}}},
         {"text": "x", "filter": {"not": {"field": "a", "exists": True}}, "limit": 10}),
    ],
    ids=lambda value: ",".join(value),
)  # fmt: skip
def test_a_search_says_what_was_given_and_nothing_else(given: dict[str, Any], sent: dict[str, Any]) -> None:
    call = calls.search(**given)
    assert (call.method, call.path, call.json) == ("POST", "/search", sent)


def test_an_answer_with_everything_is_read(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(JSONResponse(ANSWER))
    found = flaky_client.search("a chair", include=["explanation"])
    assert (found.no_match, found.false_accept_rate, found.num_excluded) == (False, 0.05, 2)
    assert (found.cursor, found.warnings) == ("next", ("careful",))
    (hit,) = found.hits
    assert (hit.confidence, hit.metadata) == (0.97, {"shop": "x"})
    assert hit.explanation is not None
    assert hit.explanation.phrases == (Phrase("a chair", 0, 7),)
    assert hit.explanation.regions[0] == Region((0.0, 0.0, 0.5, 1.0))
    assert hit.explanation.similarities == ((0.5, 0.25),)
    assert hit.explanation.pairs[0] == Pair(0, 0, 0.5)
    assert hit.explanation.overlay is None


def test_an_uploaded_picture_goes_as_a_file_beside_its_options(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(JSONResponse(ANSWER))
    flaky_client.search_image(PICTURE, kind="sketch", structure_weight=0.5, negative="red", limit=4)
    method, path, headers, body = flaky.requests[0]
    assert (method, path) == ("POST", "/search/image")
    assert headers["content-type"].startswith("multipart/form-data")
    assert PICTURE in body
    assert b'name="file"; filename="picture"' in body
    assert b'name="kind"\r\n\r\nsketch\r\n' in body
    options = body.partition(b'name="options"\r\n\r\n')[2].partition(b"\r\n")[0]
    assert json.loads(options) == {"structure_weight": 0.5, "negative": [{"text": "red"}], "limit": 4}


def test_an_explanation_brings_its_overlay(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(JSONResponse({**EXPLANATION, "overlay": ENCODED, "fingerprint": "f", "structure_weight": 0.5}))
    explanation = flaky_client.explain("a chair", image_id="a", structure_weight=0.5, overlay=True)
    assert (explanation.overlay, explanation.fingerprint, explanation.structure_weight) == (PICTURE, "f", 0.5)
    sent = {"text": "a chair", "image_id": "a", "structure_weight": 0.5, "overlay": True}
    assert json.loads(flaky.requests[0][3]) == sent
    flaky_client.explain("a chair", image=PICTURE)
    assert json.loads(flaky.requests[1][3]) == {"text": "a chair", "image": ENCODED}


def test_fields_are_read(flaky: FlakyService, flaky_client: Client) -> None:
    field = {"name": "price", "kinds": ["number", "string"], "num_images": 3, "min": 1, "max": 2.5}
    flaky.will(JSONResponse({"fields": [{**field, "values": [{"value": "x", "num_images": 1}]}]}))
    (read,) = flaky_client.fields()
    assert flaky.requests[0][:2] == ("GET", "/fields")
    assert (read.name, read.kinds, read.min, read.max) == ("price", ("number", "string"), 1, 2.5)
    assert read.values == (FieldValue("x", 1),)
    flaky.will(JSONResponse({"fields": [{**field, "name": ["a.b", "c"], "values": []}]}))
    assert flaky_client.fields()[0].name == ("a.b", "c")


def test_a_calibration_is_read_and_its_absence_too(flaky: FlakyService, flaky_client: Client) -> None:
    info: dict[str, Any] = {"version": "1", "model": {}, "collection": {}, "limits": {}, "warnings": []}
    flaky.will(JSONResponse(info))
    assert flaky_client.info().calibration == Calibration(False, None, None)
    calibration = {"is_calibrated": True, "false_accept_rate": 0.05, "level": 0.9}
    flaky.will(JSONResponse({**info, "calibration": calibration}))
    assert flaky_client.info().calibration == Calibration(True, 0.05, 0.9)


def test_what_an_added_picture_resembles_is_read(flaky: FlakyService, flaky_client: Client) -> None:
    resemblance = {"watchlist": "logos", "id": "w", "score": 0.9, "confidence": 0.99, "structure_weight": 1.0}
    flaky.will(JSONResponse({"items": [{"id": "a", "status": "created", "resembles": [resemblance]}]}))
    (found,) = flaky_client.add(PICTURE).resembles
    assert (found.watchlist, found.id, found.score, found.confidence) == ("logos", "w", 0.9, 0.99)
    assert found.structure_weight == 1.0


def test_the_paths_of_watch_lists(flaky: FlakyService, flaky_client: Client) -> None:
    flaky.will(JSONResponse({"items": [{"id": "w", "status": "created"}]}))
    (result,) = flaky_client.watchlists.add("our logos", [PICTURE])
    assert result.status == "created"
    flaky.will(JSONResponse({"watchlists": [{"name": "our logos", "num_images": 1}]}))
    assert flaky_client.watchlists.list() == (Watchlist("our logos", 1),)
    watched: dict[str, Any] = {"id": "w", "content_hash": "h", "media_type": "image/png", "width": 3, "height": 2}
    watched |= {"caption": None, "created_at": 1.5}
    flaky.will(JSONResponse({"name": "our logos", "images": [watched]}))
    assert flaky_client.watchlists.images("our logos") == (WatchedImage(**watched),)
    flaky.will(Response(status_code=204))
    flaky_client.watchlists.delete_image("our logos", "w/1")
    flaky_client.watchlists.delete("our logos")
    assert [(method, path) for method, path, *_ in flaky.requests] == [
        ("POST", "/watchlists/our%20logos"),
        ("GET", "/watchlists"),
        ("GET", "/watchlists/our%20logos"),
        ("DELETE", "/watchlists/our%20logos/w%2F1"),
        ("DELETE", "/watchlists/our%20logos"),
    ]


def test_an_api_key_goes_with_every_call(flaky: FlakyService, flaky_url: str) -> None:
    flaky.will(problem(404))
    with Client(flaky_url, api_key="sxl_secret") as client:
        for ask in (client.info, lambda: client.search("x"), lambda: client.images.delete("a")):
            with pytest.raises(NotFoundError) as refused:
                ask()
            assert "sxl_secret" not in f"{refused.value!r} {client!r}"
    assert {headers["authorization"] for _, _, headers, _ in flaky.requests} == {"Bearer sxl_secret"}


def test_arrays_are_pictures_everywhere() -> None:
    mask = np.eye(8, dtype=bool)
    sketched = calls.search(sketch=mask).json["sketch"]
    assert base64.b64decode(sketched).startswith(b"\x89PNG")
    assert calls.search_image(mask).files[0][2].startswith(b"\x89PNG")
    assert calls.embed(images=[mask]).json["images"] == [sketched]
