"""Watch lists over a real socket, with a checkpoint that is calibrated by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.settings import Settings
from structxlip.calibration import Background, MatchCalibration, QueryKind
from structxlip.checkpoint import save_checkpoint
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from tests.support.calibrations import plain_level
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service


@pytest.fixture(scope="module")
def calibrated(tiny_encoder: TwoViewEncoder, tmp_path_factory: pytest.TempPathFactory) -> TwoViewEncoder:
    """The tiny model with a background of plain pictures: only a picture itself stands far above them."""
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in plain_jpegs(40, seed=77)]
    seen = tiny_encoder.encode_images([tiny_encoder.prepare_image(rgb) for rgb in pictures])
    level = plain_level(per_spread=2.0, residual=0.001, level=1.0)
    calibration = MatchCalibration(
        Background(seen.appearance, seen.structure).rounded(), 0.05, {kind: [(0.0, level)] for kind in QueryKind}
    )
    folder = tmp_path_factory.mktemp("calibrated") / "tiny"
    save_checkpoint(folder, tiny_encoder, default_structure_weight=0.5, calibration=calibration)
    return load_encoder(str(folder), device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def watching(data: Path, calibrated: TwoViewEncoder) -> Iterator[httpx.Client]:
    with (
        running_service(Settings(data=data), calibrated) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def _files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]


def _saved_again(data: bytes) -> bytes:
    saved = io.BytesIO()
    Image.open(io.BytesIO(data)).save(saved, "PNG")
    return saved.getvalue()


def _post(client: httpx.Client, path: str, pictures: list[bytes], ids: list[str]) -> list[dict[str, Any]]:
    records = json.dumps([{"id": each} for each in ids])
    answer = client.post(path, files=_files(*pictures), data={"records": records})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_a_new_picture_is_held_against_the_lists(watching: httpx.Client) -> None:
    watched, other = plain_jpegs(3, seed=5), plain_jpegs(2, seed=900)
    assert watching.get("/watchlists").json() == {"watchlists": []}
    added = _post(watching, "/watchlists/logos", [*watched[:2], b"no picture"], ["a", "b", "c"])
    assert [item["status"] for item in added] == ["created", "created", "failed"]
    _post(watching, "/watchlists/people", watched[2:], ["a"])
    items = _post(watching, "/index", [_saved_again(watched[1]), other[0], watched[2]], ["x", "y", "z"])
    best = [item["resembles"][0] if item["resembles"] else None for item in items]
    assert best[0] is not None
    assert (best[0]["watchlist"], best[0]["id"]) == ("logos", "b")
    assert best[0]["score"] == pytest.approx(1, abs=1e-3)
    assert 0.9 < best[0]["confidence"] <= 1
    assert best[2] is not None
    assert (best[2]["watchlist"], best[2]["id"]) == ("people", "a")
    lists = watching.get("/watchlists").json()["watchlists"]
    assert lists == [{"name": "logos", "num_images": 2}, {"name": "people", "num_images": 1}]
    assert [image["id"] for image in watching.get("/watchlists/logos").json()["images"]] == ["a", "b"]
    # A watched picture is not one of the collection.
    assert watching.get("/images").json()["total"] == 3


def test_what_is_no_longer_watched_is_no_longer_told(watching: httpx.Client) -> None:
    pictures = plain_jpegs(2, seed=6)
    _post(watching, "/watchlists/l", pictures, ["a", "b"])
    assert watching.delete("/watchlists/l/a").status_code == 204
    assert watching.delete("/watchlists/l/a").status_code == 404
    found = _post(watching, "/index", pictures[:1], ["x"])[0]["resembles"]
    assert "a" not in [each["id"] for each in found]
    assert watching.delete("/watchlists/l").status_code == 204
    assert watching.delete("/watchlists/l").status_code == 404
    assert watching.get("/watchlists/l").status_code == 404
    assert watching.post("/watchlists/a%20b", files=_files(pictures[0])).status_code == 422


def test_lists_outlive_the_service(data: Path, calibrated: TwoViewEncoder) -> None:
    picture = plain_jpegs(1, seed=8)
    for path, wanted in (("/watchlists/l", []), ("/index", ["a"])):
        with running_service(Settings(data=data), calibrated) as url, httpx.Client(base_url=url, timeout=60) as client:
            found = _post(client, path, picture, ["a"])[0]["resembles"]
            assert [each["id"] for each in found] == wanted


def test_matches_are_told_from_chance(watching: httpx.Client) -> None:
    pictures = plain_jpegs(6, seed=9)
    _post(watching, "/index", pictures[:5], [f"p{n}" for n in range(5)])
    there = watching.post(
        "/search/image", files={"file": ("a.jpg", pictures[2])}, data={"options": '{"structure_weight": 0}'}
    ).json()
    assert there["no_match"] is False
    assert there["false_accept_rate"] == 0.05
    confidence = [hit["confidence"] for hit in there["hits"]]
    assert confidence == sorted(confidence, reverse=True)
    only = {"image_id": "p2", "structure_weight": 0, "only_confident": True}
    sure = watching.post("/search", json=only).json()
    least = min(hit["score"] for hit in sure["hits"])
    assert 1 <= len(sure["hits"]) < 5
    rest = [hit for hit in there["hits"] if hit["score"] < least - 1e-6]
    assert len(rest) + len(sure["hits"]) == 5
    nothing = watching.post("/search", json=only | {"filter": {"field": "none", "exists": True}}).json()
    assert (nothing["no_match"], nothing["hits"]) == (True, [])
    told = watching.get("/info").json()["calibration"]
    assert told["is_calibrated"] is True
    assert 0 < told["level"] < 1
