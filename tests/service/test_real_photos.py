"""Real photographs and a real model: what POST /search finds is what an exact computation finds."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.settings import Settings
from structxlip.models import load_encoder
from tests.support.oracles_service import decode_reference
from tests.support.server import running_service
from tests.support.shared_data import shared_path

NUM_PHOTOS = 120


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 0.35])
def test_recall_through_search_equals_the_exact_computation(tmp_path: Path, weight: float) -> None:
    folder = shared_path("data/photos")
    encoder = load_encoder(f"local-dir:{shared_path('weights/photo-mini')}", device="cpu")
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "test"][:NUM_PHOTOS]
    files = [(folder / row["image"]).read_bytes() for row in rows]

    images = encoder.encode_images([encoder.prepare_image(decode_reference(file)) for file in files])
    texts = encoder.encode_texts([encoder.prepare_text(row["long"]) for row in rows])
    exact = (1 - weight) * texts.appearance @ images.appearance.T + weight * texts.structure @ images.structure.T

    settings = Settings(model="given", data=tmp_path / "data")
    with running_service(settings, encoder) as url, httpx.Client(base_url=url, timeout=120) as client:
        for start in range(0, NUM_PHOTOS, 40):
            answer = client.post(
                "/index",
                files=[("files", ("a.jpg", file)) for file in files[start : start + 40]],
                data={"records": json.dumps([{"id": str(n)} for n in range(start, start + 40)])},
            )
            assert {item["status"] for item in answer.json()["items"]} == {"created"}
        found = np.zeros_like(exact)
        for position, row in enumerate(rows):
            body = {"text": row["long"], "structure_weight": weight, "limit": NUM_PHOTOS}
            for hit in client.post("/search", json=body).json()["hits"]:
                found[position, int(hit["id"])] = hit["score"]
    np.testing.assert_allclose(found, exact, atol=2e-4)
    assert _recall(found, 10) == pytest.approx(_recall(exact, 10), abs=1.5 / NUM_PHOTOS)
    if weight == 0.0:
        assert _recall(found, 10) > 0.6  # the model means something: chance is 0.08


def _recall(scores: np.ndarray, k: int) -> float:
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    return float((ranks < k).mean())
