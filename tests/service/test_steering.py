"""Queries of several terms, sketches, negatives and the cache, over a real socket."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from service.schemas import HitOut, SearchAnswer
from tests.support.plain_pictures import plain_jpegs


@pytest.fixture
def pictures() -> list[bytes]:
    return plain_jpegs(8, seed=3)


@pytest.fixture
def filled(client: httpx.Client, pictures: list[bytes]) -> httpx.Client:
    files = [("files", (f"{n}.jpg", data)) for n, data in enumerate(pictures)]
    records = json.dumps([{"id": f"p{n}"} for n in range(len(pictures))])
    client.post("/index", files=files, data={"records": records}).raise_for_status()
    return client


def _drawing() -> bytes:
    canvas = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(canvas, (90, 90), 50, (0, 0, 0), 4)
    cv2.line(canvas, (20, 170), (180, 150), (0, 0, 0), 4)
    saved = io.BytesIO()
    Image.fromarray(canvas).save(saved, "PNG")
    return saved.getvalue()


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _search(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/search", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_answer_is_what_its_schema_says(filled: httpx.Client) -> None:
    """It is written as plain values: no field is missing, renamed or of another type."""
    answer = filled.post("/search", json={"text": "two squares", "include": ["explanation"], "limit": 2})
    told = answer.json()
    assert SearchAnswer.model_validate_json(answer.content, strict=True).model_dump(mode="json", by_alias=True) == told
    assert list(told) == list(SearchAnswer.model_fields)
    assert list(told["hits"][0]) == list(HitOut.model_fields)


def _metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.parametrize(
    "form",
    [
        {"text": "a red circle"},
        {"image_id": "p1"},
        {"sketch": _encoded(_drawing())},
        {"query": [{"text": "a red circle", "weight": 2}, {"sketch": _encoded(_drawing())}, {"image_id": "p2"}]},
        {"text": "a circle", "negative": {"text": "a blue square"}},
        {"image_id": "p1", "negative": [{"image_id": "p2"}, {"sketch": _encoded(_drawing())}]},
    ],
)
@pytest.mark.parametrize("weight", [None, 0.0, 0.3, 1.0])
def test_scores_add_up_whatever_is_asked(filled: httpx.Client, form: dict[str, Any], weight: float | None) -> None:
    answer = _search(filled, **form, structure_weight=weight)
    w = answer["structure_weight"]
    assert weight is None or w == weight
    for hit in answer["hits"]:
        split = (1 - w) * hit["scores"]["appearance"] + w * hit["scores"]["structure"]
        assert hit["score"] == pytest.approx(split, abs=1e-5)
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_a_sketch_looks_at_lines_alone_unless_told_otherwise(filled: httpx.Client) -> None:
    sketch = _encoded(_drawing())
    assert _search(filled, sketch=sketch)["structure_weight"] == 1.0
    chosen = _search(filled, sketch=sketch, structure_weight=0.5)
    assert chosen["structure_weight"] == 0.5
    assert {hit["scores"]["appearance"] for hit in chosen["hits"]} == {0.0}


def test_a_weighted_list_scores_as_the_weighted_mean(filled: httpx.Client) -> None:
    scores = {
        name: {hit["id"]: hit["score"] for hit in _search(filled, **form, structure_weight=0.4)["hits"]}
        for name, form in {
            "words": {"text": "a red circle"},
            "picture": {"image_id": "p3"},
            "both": {"query": [{"text": "a red circle", "weight": 3}, {"image_id": "p3", "weight": 1}]},
        }.items()
    }
    for image_id, score in scores["both"].items():
        assert score == pytest.approx(0.75 * scores["words"][image_id] + 0.25 * scores["picture"][image_id], abs=1e-5)


def test_a_negative_leaves_out_what_is_nearer_to_it(filled: httpx.Client) -> None:
    answer = _search(filled, image_id="p1", negative={"image_id": "p2"}, structure_weight=0.0, limit=8)
    found = [hit["id"] for hit in answer["hits"]]
    assert found[0] == "p1"
    assert "p2" not in found
    assert answer["num_excluded"] == 8 - len(found) > 0


def test_pages_with_exclusions_hold_each_hit_once(filled: httpx.Client) -> None:
    body: dict[str, Any] = {"image_id": "p1", "negative": {"image_id": "p2"}, "structure_weight": 0.0}
    whole = [hit["id"] for hit in _search(filled, **body, limit=8)["hits"]]
    paged, cursor = [], None
    while True:
        page = _search(filled, **body, limit=2, cursor=cursor)
        paged += [hit["id"] for hit in page["hits"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert paged == whole


def test_the_same_query_with_another_weight_calls_no_model(filled: httpx.Client, pictures: list[bytes]) -> None:
    forms: list[dict[str, Any]] = [
        {"text": "a green cup"},
        {"image": _encoded(pictures[0])},
        {"sketch": _encoded(_drawing())},
    ]
    for form in forms:
        _search(filled, **form)
    # The canary embeds too, but only texts and pictures in its own time: compare what the cache says.
    hits = _metric(filled, 'structxlip_query_cache_total{result="hit"}')
    misses = _metric(filled, 'structxlip_query_cache_total{result="miss"}')
    for form in forms:
        for weight in (0.1, 0.9):
            _search(filled, **form, structure_weight=weight, limit=3)
    assert _metric(filled, 'structxlip_query_cache_total{result="hit"}') == hits + 6
    assert _metric(filled, 'structxlip_query_cache_total{result="miss"}') == misses


def test_an_uploaded_picture_is_found_like_one_in_json(filled: httpx.Client, pictures: list[bytes]) -> None:
    upload = filled.post(
        "/search/image",
        files={"file": ("a.jpg", pictures[4])},
        data={"options": json.dumps({"structure_weight": 0.25, "limit": 3})},
    ).json()
    told = _search(filled, image=_encoded(pictures[4]), structure_weight=0.25, limit=3)
    assert upload["hits"] == told["hits"]
    assert upload["hits"][0]["id"] == "p4"


def test_an_uploaded_sketch_is_one(filled: httpx.Client) -> None:
    upload = filled.post("/search/image", files={"file": ("a.png", _drawing())}, data={"kind": "sketch"}).json()
    assert upload["structure_weight"] == 1.0
    assert upload["hits"] == _search(filled, sketch=_encoded(_drawing()))["hits"]


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({}, "exactly one"),
        ({"text": "a", "sketch": _encoded(_drawing())}, "exactly one"),
        ({"query": []}, "query"),
        ({"query": [{"weight": 1}]}, "exactly one"),
        ({"query": [{"text": "a", "weight": 0}]}, "weight"),
        ({"text": "a", "negative": {"text": "b", "image_id": "p1"}}, "exactly one"),
        ({"text": "a", "only_confident": True}, "structxlip calibrate"),
    ],
)
def test_what_cannot_be_asked_is_told(filled: httpx.Client, body: dict[str, Any], fragment: str) -> None:
    answer = filled.post("/search", json=body)
    assert answer.status_code == 422
    assert fragment in answer.text


def test_a_blank_sketch_is_told(filled: httpx.Client) -> None:
    saved = io.BytesIO()
    Image.new("RGB", (100, 100), "white").save(saved, "PNG")
    answer = filled.post("/search", json={"sketch": _encoded(saved.getvalue())})
    assert answer.status_code == 422
    assert "no strokes" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kwargs", "fragment"),
    [
        ({"files": {"wrong": ("a.png", b"x")}}, "wrong"),
        ({"files": {"file": ("a.png", _drawing())}, "data": {"kind": "film"}}, "film"),
        ({"files": {"file": ("a.png", _drawing())}, "data": {"options": "{"}}, "options"),
        ({"files": {"file": ("a.png", _drawing())}, "data": {"options": '{"text": "a"}'}}, "text"),
        ({"files": {"file": ("a.png", b"no picture")}}, ""),
    ],
)
def test_a_wrong_upload_is_told(filled: httpx.Client, kwargs: dict[str, Any], fragment: str) -> None:
    answer = filled.post("/search/image", **kwargs)
    assert answer.status_code in (415, 422)
    assert fragment in answer.text


def test_info_tells_what_can_be_asked(client: httpx.Client) -> None:
    told = client.get("/info").json()
    assert told["calibration"] == {"is_calibrated": False, "false_accept_rate": None, "level": None}
    assert {"sketch", "negatives"} <= set(told["features"])


def test_fields_of_the_metadata_are_listed(client: httpx.Client, pictures: list[bytes]) -> None:
    files = [("files", ("a.jpg", pictures[0])), ("files", ("b.jpg", pictures[1]))]
    records = json.dumps([{"metadata": {"shop": "x", "price": 4.5, "a.b": True}}, {"metadata": {"shop": "x"}}])
    client.post("/index", files=files, data={"records": records}).raise_for_status()
    fields = {json.dumps(field["name"]): field for field in client.get("/fields").json()["fields"]}
    assert fields['"shop"'] == {
        "name": "shop",
        "kinds": ["string"],
        "num_images": 2,
        "values": [{"value": "x", "num_images": 2}],
        "min": None,
        "max": None,
    }
    assert (fields['"price"']["min"], fields['"price"']["max"], fields['"price"']["kinds"]) == (4.5, 4.5, ["number"])
    assert fields['["a.b"]']["values"] == [{"value": True, "num_images": 1}]


def test_an_explanation_can_be_worked_out_from_embeddings_and_boxes(
    filled: httpx.Client, pictures: list[bytes]
) -> None:
    text = "a red circle left of two blue squares"
    told = filled.post("/explain", json={"text": text, "image_id": "p5", "structure_weight": 0.3, "overlay": True})
    assert told.status_code == 200, told.text
    found = told.json()
    assert [text[phrase["start"] : phrase["end"]] for phrase in found["phrases"]] == [
        phrase["text"] for phrase in found["phrases"]
    ]
    picture = Image.open(io.BytesIO(pictures[5])).convert("RGB")
    crops = []
    for region in found["regions"]:
        x0, y0, x1, y1 = region["box"]
        corners = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
        saved = io.BytesIO()
        picture.crop(tuple(round(corner) for corner in corners)).save(saved, "PNG")
        crops.append(_encoded(saved.getvalue()))
    embedded = filled.post("/embed", json={"texts": [p["text"] for p in found["phrases"]], "images": crops}).json()
    by_view = [
        np.array([row[view] for row in embedded["texts"]]) @ np.array([row[view] for row in embedded["images"]]).T
        for view in ("appearance", "structure")
    ]
    worked_out = 0.7 * by_view[0] + 0.3 * by_view[1]
    np.testing.assert_allclose(found["similarities"], worked_out, atol=1e-4)
    for pair in found["pairs"]:
        assert pair["region"] == int(worked_out[pair["phrase"]].argmax())
    assert [pair["similarity"] for pair in found["pairs"]] == sorted(
        (max(row) for row in found["similarities"]), reverse=True
    )
    overlay = Image.open(io.BytesIO(base64.b64decode(found["overlay"])))
    assert overlay.format == "PNG"


def test_hits_come_with_the_same_explanation(filled: httpx.Client) -> None:
    answer = _search(filled, text="two squares and a circle", include=["explanation"], limit=2, structure_weight=0.2)
    for hit in answer["hits"]:
        body = {"text": "two squares and a circle", "image_id": hit["id"], "structure_weight": 0.2}
        alone = filled.post("/explain", json=body).json()
        assert hit["explanation"] == {name: alone[name] for name in hit["explanation"]}
    assert "explanation" in _search(filled, text="a")["hits"][0]
    refused = filled.post("/search", json={"image_id": "p1", "include": ["explanation"]})
    assert refused.status_code == 422
