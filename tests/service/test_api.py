"""The contract of `service.md`, call by call, over a real socket."""

from __future__ import annotations

import base64
import io
import json
import time
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from structxlip.encoder import TwoViewEncoder
from tests.support.plain_pictures import plain_jpegs


def _files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]


def _add(client: httpx.Client, pictures: list[bytes], records: list[dict[str, object]]) -> dict[str, object]:
    answer = client.post("/index", files=_files(*pictures), data={"records": json.dumps(records)})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def pictures() -> list[bytes]:
    return plain_jpegs(6, seed=1)


def test_added_pictures_are_found_by_words_with_scores_that_add_up(client: httpx.Client, pictures: list[bytes]) -> None:
    added = _add(client, pictures, [{"id": f"p{n}", "metadata": {"n": n}, "caption": f"picture {n}"} for n in range(6)])
    assert [item["status"] for item in added["items"]] == ["created"] * 6
    answer = client.post("/search", json={"text": "a red table", "structure_weight": 0.4, "limit": 4}).json()
    assert len(answer["hits"]) == 4
    assert answer["structure_weight"] == 0.4
    assert answer["fingerprint"] == added["fingerprint"]
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    for hit in answer["hits"]:
        split = 0.6 * hit["scores"]["appearance"] + 0.4 * hit["scores"]["structure"]
        assert hit["score"] == pytest.approx(split, abs=1e-5)
        assert hit["caption"] == f"picture {hit['metadata']['n']}"


def test_an_idle_connection_is_kept_longer_than_clients_keep_it(service_url: str) -> None:
    parts = urlsplit(service_url)
    with closing(HTTPConnection(parts.hostname or "", parts.port, timeout=30)) as connection:
        for idle_seconds in (0.0, 5.5):  # uvicorn's own default is 5
            time.sleep(idle_seconds)
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')


def test_scores_are_split_also_where_one_view_has_no_weight(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures, [])
    for weight in (0.0, 1.0):
        hit = client.post("/search", json={"text": "a table", "structure_weight": weight}).json()["hits"][0]
        assert hit["scores"]["appearance"] != 0
        assert hit["scores"]["structure"] != 0
        wanted = hit["scores"]["structure" if weight else "appearance"]
        assert hit["score"] == pytest.approx(wanted, abs=1e-6)


def test_search_equals_the_encoder_used_by_hand(
    client: httpx.Client, pictures: list[bytes], tiny_encoder: TwoViewEncoder
) -> None:
    _add(client, pictures, [{"id": f"p{n}"} for n in range(6)])
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures]
    stored = tiny_encoder.encode_images([tiny_encoder.prepare_image(image) for image in images])
    text = tiny_encoder.encode_texts([tiny_encoder.prepare_text("two blue chairs")])
    expected = 0.5 * stored.appearance @ text.appearance[0] + 0.5 * stored.structure @ text.structure[0]
    answer = client.post("/search", json={"text": "two blue chairs", "structure_weight": 0.5}).json()
    found = {hit["id"]: hit["score"] for hit in answer["hits"]}
    assert found == pytest.approx({f"p{n}": float(expected[n]) for n in range(6)}, abs=1e-5)


def test_adding_again_is_unchanged_and_new_content_replaces(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures[:1], [{"id": "a"}])
    assert _add(client, pictures[:1], [{"id": "a"}])["items"][0]["status"] == "unchanged"
    assert _add(client, pictures[1:2], [{"id": "a"}])["items"][0]["status"] == "replaced"
    assert client.get("/images/a/file").content == pictures[1]
    assert client.get("/images").json()["total"] == 1


def test_without_an_id_the_content_is_the_id(client: httpx.Client, pictures: list[bytes]) -> None:
    first = _add(client, pictures[:1], [])["items"][0]
    second = _add(client, pictures[:1], [])["items"][0]
    assert first["status"] == "created"
    assert second == {**first, "status": "unchanged"}


def test_json_takes_base64_and_answers_like_multipart(client: httpx.Client, pictures: list[bytes]) -> None:
    encoded = base64.b64encode(pictures[0]).decode()
    answer = client.post(
        "/index",
        json={
            "images": [
                {"id": "a", "image": encoded},
                {"id": "b", "image": f"data:image/jpeg;base64,{encoded}"},
            ]
        },
    )
    assert [item["status"] for item in answer.json()["items"]] == ["created", "created"]


def test_one_bad_item_costs_itself_alone(client: httpx.Client, pictures: list[bytes]) -> None:
    answer = client.post(
        "/index",
        files=_files(pictures[0], b"no picture at all", pictures[1][:200], pictures[2]),
        data={"records": json.dumps([{"id": "a"}, {"id": "b"}, {"id": "c"}, {"id": "d", "nonsense": 1}])},
    )
    items = answer.json()["items"]
    assert answer.status_code == 200
    assert [item["status"] for item in items] == ["created", "failed", "failed", "failed"]
    assert items[1]["problem"]["type"].endswith("image-unsupported")
    assert items[2]["problem"]["type"].endswith("image-unreadable")
    assert "nonsense" in json.dumps(items[3]["problem"])
    assert client.get("/images").json()["total"] == 1


@pytest.mark.parametrize(
    ("kwargs", "status", "fragment"),
    [
        ({"files": [("wrong", ("a.jpg", b"x"))]}, 422, "wrong"),
        ({"data": {"records": "[]"}}, 415, "multipart"),
        ({"files": [("files", ("a.jpg", b"x"))], "data": {"records": "{"}}, 422, "JSON"),
        ({"files": [("files", ("a.jpg", b"x"))], "data": {"records": "[{}, {}]"}}, 422, "2 records"),
        ({"json": {"images": []}}, 422, "images"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "JSON"),
    ],
)
def test_a_malformed_index_request_is_told_what_is_wrong(
    client: httpx.Client, kwargs: dict[str, object], status: int, fragment: str
) -> None:
    answer = client.post("/index", **kwargs)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert fragment in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_page_of_hits_continues_where_the_last_one_ended(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures, [{"id": f"p{n}"} for n in range(6)])
    query = {"text": "a house", "structure_weight": 0.5}
    everything = [hit["id"] for hit in client.post("/search", json=query).json()["hits"]]
    paged, cursor = [], None
    while True:
        page = client.post("/search", json={**query, "limit": 2, "cursor": cursor}).json()
        paged += [hit["id"] for hit in page["hits"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert paged == everything
    assert len(everything) == 6


def test_a_filter_and_a_minimal_score_narrow_the_hits(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures, [{"id": f"p{n}", "metadata": {"shop": "xy"[n % 2], "price": n}} for n in range(6)])
    query = {"text": "a house"}
    condition = {"all": [{"field": "shop", "eq": "x"}, {"field": "price", "lt": 4}]}
    found = client.post("/search", json={**query, "filter": condition}).json()["hits"]
    assert {hit["id"] for hit in found} == {"p0", "p2"}
    threshold = client.post("/search", json=query).json()["hits"][2]["score"]
    narrowed = client.post("/search", json={**query, "min_score": threshold}).json()["hits"]
    assert len(narrowed) == 3


def test_a_picture_finds_itself_by_content_and_by_id(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures, [{"id": f"p{n}"} for n in range(6)])
    by_content = client.post("/search", json={"image": base64.b64encode(pictures[3]).decode(), "limit": 1}).json()
    by_id = client.post("/search", json={"image_id": "p3", "limit": 1}).json()
    assert by_content["hits"][0]["id"] == by_id["hits"][0]["id"] == "p3"
    assert by_content["hits"][0]["score"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"text": "a", "image_id": "b"}, 422),
        ({"text": ""}, 422),
        ({"text": "a", "limit": 0}, 422),
        ({"text": "a", "limit": 100_000}, 422),
        ({"text": "a", "structure_weight": 1.5}, 422),
        ({"text": "a", "filter": {"field": "x"}}, 422),
        ({"text": "a", "cursor": "nonsense"}, 422),
        ({"text": "a", "unknown": 1}, 422),
        ({"image_id": "nobody"}, 404),
        ({"image": "%%%"}, 422),
        ({"image": base64.b64encode(b"no picture").decode()}, 415),
        ({"text": "ü" * 5000}, 413),
    ],
)
def test_a_malformed_search_gets_a_problem(client: httpx.Client, body: dict[str, object], status: int) -> None:
    answer = client.post("/search", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["status"] == status


def test_half_a_surrogate_pair_is_refused_clearly(client: httpx.Client) -> None:
    answer = client.post("/search", content=rb'{"text": "\ud800"}', headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_a_text_that_is_too_long_for_the_model_says_so(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures[:1], [])
    short = client.post("/search", json={"text": "a chair"}).json()
    long = client.post("/search", json={"text": "a chair " * 200}).json()
    assert short["warnings"] == []
    assert "was not used" in long["warnings"][0]


def test_records_are_listed_changed_and_deleted(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures[:3], [{"id": f"p{n}", "metadata": {"n": n}} for n in range(3)])
    page = client.get("/images", params={"limit": 2}).json()
    rest = client.get("/images", params={"limit": 2, "cursor": page["cursor"]}).json()
    assert [image["id"] for image in page["images"] + rest["images"]] == ["p2", "p1", "p0"]
    assert rest["cursor"] is None
    assert page["total"] == 3
    changed = client.patch("/images/p1", json={"metadata": {"n": 10}, "caption": "new"}).json()
    assert (changed["metadata"], changed["caption"]) == ({"n": 10}, "new")
    only_ten = client.get("/images", params={"filter": json.dumps({"field": "n", "eq": 10})}).json()
    assert [image["id"] for image in only_ten["images"]] == ["p1"]
    assert client.delete("/images/p1").status_code == 204
    assert client.delete("/images/p1").status_code == 404
    assert client.get("/images/p1").status_code == 404
    assert client.patch("/images/p1", json={}).status_code == 404
    found = client.post("/search", json={"text": "anything"}).json()["hits"]
    assert {hit["id"] for hit in found} == {"p0", "p2"}


def test_an_odd_id_survives_the_links(client: httpx.Client, pictures: list[bytes]) -> None:
    odd = "schöne Vase #1?&=%20+:"
    _add(client, pictures[:1], [{"id": odd}])
    links = client.post("/search", json={"text": "a vase"}).json()["hits"][0]["links"]
    assert client.get(links["self"]).json()["id"] == odd
    assert client.get(links["file"]).content == pictures[0]


def test_file_thumbnail_and_edges_are_pictures_of_the_right_size(
    client: httpx.Client, tiny_encoder: TwoViewEncoder
) -> None:
    wide = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 300, 3), np.uint8)).save(wide, "PNG")
    _add(client, [wide.getvalue()], [{"id": "a"}])
    file = client.get("/images/a/file")
    assert (file.content, file.headers["content-type"]) == (wide.getvalue(), "image/png")
    thumbnail = client.get("/images/a/thumbnail", params={"side": 100})
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (100, 20)
    edges = Image.open(io.BytesIO(client.get("/images/a/edges").content))
    assert edges.size == (tiny_encoder.image_size, tiny_encoder.image_size)
    assert client.get("/images/b/edges").status_code == 404


def test_embed_gives_unit_vectors_of_both_views(client: httpx.Client, pictures: list[bytes]) -> None:
    answer = client.post(
        "/embed", json={"texts": ["a red chair"], "images": [base64.b64encode(pictures[0]).decode()]}
    ).json()
    for item in (*answer["texts"], *answer["images"]):
        for view in ("appearance", "structure"):
            assert len(item[view]) == answer["dimension"]
            assert np.linalg.norm(item[view]) == pytest.approx(1, abs=1e-5)
    assert answer["texts"][0]["structural_text"] == "a chair"


def test_the_openai_shape_is_kept(client: httpx.Client, pictures: list[bytes]) -> None:
    picture = "data:image/jpeg;base64," + base64.b64encode(pictures[0]).decode()
    answer = client.post("/v1/embeddings", json={"input": ["a chair", picture], "model": "any"}).json()
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert answer["usage"]["total_tokens"] > 0
    packed = client.post("/v1/embeddings", json={"input": "a chair", "encoding_format": "base64"}).json()
    unpacked = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert unpacked.tolist() == pytest.approx(answer["data"][0]["embedding"], abs=1e-6)
    structure = client.post("/v1/embeddings", json={"input": "a red chair", "view": "structure"}).json()
    assert structure["data"][0]["embedding"] == pytest.approx(answer["data"][0]["embedding"], abs=1e-5)


def test_one_view_is_the_same_alone_as_with_the_other(client: httpx.Client, pictures: list[bytes]) -> None:
    encoded = [base64.b64encode(picture).decode() for picture in pictures[:2]]
    texts = ["a red chair", "two round blue tables"]
    both = client.post("/embed", json={"texts": texts, "images": encoded}).json()
    for view in ("appearance", "structure"):
        inputs = [*texts, *(f"data:image/jpeg;base64,{picture}" for picture in encoded)]
        alone = client.post("/v1/embeddings", json={"input": inputs, "view": view}).json()
        expected = [item[view] for item in (*both["texts"], *both["images"])]
        np.testing.assert_allclose([item["embedding"] for item in alone["data"]], expected, atol=1e-5)
    assert alone["usage"]["total_tokens"] < sum(text["num_tokens"] for text in both["texts"])  # "red", "blue" left out


def test_info_tells_that_a_plain_models_structure_is_untrained(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert info["model"]["structure_is_trained"] is False
    assert info["model"]["default_structure_weight"] == 0
    assert "untrained" in info["warnings"][0]
    assert info["limits"]["max_files"] == 64


def test_metrics_count_what_happened(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures[:2], [])
    client.post("/search", json={"text": "a chair"})
    text = client.get("/metrics").text
    assert "structxlip_collection_images 2.0" in text
    assert 'structxlip_http_requests_total{method="POST",route="/index",status="200"} 1.0' in text
    assert 'structxlip_batch_size_count{queue="texts"}' in text
    assert "structxlip_decode_seconds_count 2.0" in text
    client.post("/index", files=_files(b"no picture"))
    assert 'structxlip_rejected_total{reason="image_unsupported"} 1.0' in client.get("/metrics").text


def test_metrics_tell_views_apart(client: httpx.Client, pictures: list[bytes]) -> None:
    picture = f"data:image/png;base64,{base64.b64encode(pictures[0]).decode()}"
    client.post("/v1/embeddings", json={"input": [picture], "view": "appearance"})
    client.post("/v1/embeddings", json={"input": [picture], "view": "structure"})
    client.post("/v1/embeddings", json={"input": ["a chair"], "view": "structure"})
    text = client.get("/metrics").text
    for view, kind in (("appearance", "picture"), ("structure", "picture"), ("structure", "text")):
        assert f'structxlip_encode_seconds_count{{kind="{kind}",view="{view}"}} 1.0' in text
    assert "structxlip_decode_seconds_count 2.0" in text
    assert "structxlip_edge_seconds_count 1.0" in text


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    assert client.get("/nowhere").headers["content-type"].startswith("application/problem+json")
    not_allowed = client.put("/search")
    assert (not_allowed.status_code, not_allowed.headers["allow"]) == (405, "POST")
    assert client.post("/images/a").headers["allow"] == "DELETE, GET, PATCH"
    assert client.get("/healthz").json() == {"status": "ok"}


def test_the_same_picture_is_not_embedded_twice(client: httpx.Client, pictures: list[bytes]) -> None:
    _add(client, pictures[:1], [{"id": "a"}])
    _add(client, pictures[:1], [{"id": "b"}])
    assert "structxlip_decode_seconds_count 1.0" in client.get("/metrics").text
    assert client.get("/images").json()["total"] == 2
