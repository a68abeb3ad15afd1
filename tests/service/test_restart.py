"""A start without a snapshot: the service is up at once, says how far the rebuilding is, and then finds everything."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import closing
from typing import Any

import httpx
import pytest

from index.engine_flat import FlatEngine
from service.app import create_app, open_collection
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service, serve_in_thread, wait_until_ready

NUM_PICTURES = 8


def test_without_a_snapshot_it_rebuilds_and_says_so_with_progress(
    settings: Settings, tiny_encoder: TwoViewEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with running_service(settings, tiny_encoder) as url, httpx.Client(base_url=url, timeout=60) as client:
        files = [("files", (f"{n}.jpg", data)) for n, data in enumerate(plain_jpegs(NUM_PICTURES, seed=6))]
        records = json.dumps([{"id": str(n)} for n in range(NUM_PICTURES)])
        assert client.post("/index", files=files, data={"records": records}).status_code == 200
        before = client.post("/search", json={"text": "a tree", "limit": 100}).json()["hits"]
    assert len(before) == NUM_PICTURES
    for path in (settings.data / "snapshots").iterdir():
        path.unlink()

    next_step = threading.Semaphore(0)
    add = FlatEngine.add

    def stepwise(self: FlatEngine, numbers: Any, vectors: Any) -> None:
        assert next_step.acquire(timeout=60)
        add(self, numbers, vectors)

    monkeypatch.setattr(FlatEngine, "add", stepwise)
    monkeypatch.setattr("index.catalogue._BATCH_ROWS", 1)
    with (
        caplog.at_level(logging.INFO, logger="index.maintenance"),
        closing(open_collection(settings, tiny_encoder, wait=False)) as collection,
        serve_in_thread(create_app(settings, encoder=tiny_encoder, collection=collection)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        seen = [0.0]
        for _ in range(NUM_PICTURES - 1):
            next_step.release()
            answer = _readiness_past(client, seen[-1])
            seen.append(answer["progress"])
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(0.95 * (NUM_PICTURES - 1) / NUM_PICTURES)
        refused = client.post("/search", json={"text": "a tree"})
        assert refused.status_code == 503
        assert "rebuilding" in refused.json()["detail"]
        next_step.release()
        wait_until_ready(url)
        assert client.post("/search", json={"text": "a tree", "limit": 100}).json()["hits"] == before
    assert "rebuilding the index from 8 stored pictures" in caplog.text
    assert "rebuilding the index: 50 % done" in caplog.text


def _readiness_past(client: httpx.Client, progress: float) -> dict[str, Any]:
    """Poll /readyz until it has got further; each answer on the way must say that the index is being rebuilt."""
    for _ in range(6000):
        response = client.get("/readyz")
        answer: dict[str, Any] = response.json()
        assert response.status_code == 503
        assert answer["checks"]["index_loaded"] is False, answer
        if answer["activity"] == "rebuilding" and answer["progress"] > progress:
            return answer
        threading.Event().wait(0.01)
    raise TimeoutError(f"no progress past {progress}: {answer}")
