"""A picture to search by passes an import at every step: the budget, decoding, the queue, the batch."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching import Lane
from service.embedding import Embedder, _default_decode_threads
from service.metrics import Metrics
from service.settings import Settings
from structxlip.backends.towers import BackendName, EdgesAsPictures, Precision, Towers
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from tests.support.plain_pictures import plain_jpegs


class SlowImages:
    """An image tower that takes its time for each picture, and remembers the batches."""

    backend: BackendName = "torch"
    precision: Precision = "f32"

    def __init__(self, encoder: TwoViewEncoder, seconds_per_picture: float) -> None:
        self._images = encoder.towers.images
        self._seconds = seconds_per_picture
        self.batches: list[int] = []

    def __call__(self, items: NDArray[Any]) -> NDArray[np.float32]:
        self.batches.append(len(items))
        time.sleep(self._seconds * len(items))
        return self._images(items)


def slow_embedder(model: str, settings: Settings, seconds_per_picture: float) -> tuple[Embedder, SlowImages]:
    encoder = load_encoder(model, device="cpu")
    images = SlowImages(encoder, seconds_per_picture)
    towers = encoder.towers
    encoder.run_on(Towers(images, EdgesAsPictures(images), towers.tokens, towers.spare_tokens))
    return Embedder(encoder, settings, Metrics()), images


def test_a_search_by_picture_passes_an_import(tiny_model: str, settings: Settings) -> None:
    files = plain_jpegs(100, seed=5)

    async def scenario() -> int:
        embedder, _ = slow_embedder(tiny_model, settings, seconds_per_picture=0.02)
        embedder.start()
        try:
            imported = [asyncio.create_task(embedder.embed_picture(data, lane=Lane.BULK)) for data in files]
            while sum(task.done() for task in imported) < 3:
                await asyncio.sleep(0.005)
            await embedder.embed_picture(plain_jpegs(1, seed=6)[0], lane=Lane.INTERACTIVE)
            waiting = sum(not task.done() for task in imported)
            for task in imported:
                task.cancel()
            await asyncio.gather(*imported, return_exceptions=True)
            return waiting
        finally:
            await asyncio.to_thread(embedder.close)

    # In the order of arrival it would have been after all of them.
    assert asyncio.run(scenario()) > 40


def test_a_canary_sings_only_where_nobody_was_heard(tiny_model: str, settings: Settings) -> None:
    async def scenario() -> list[int]:
        embedder, images = slow_embedder(tiny_model, settings, seconds_per_picture=0.0)
        embedder.start()
        try:
            await embedder.run_canary(idle_seconds=60)
            await embedder.run_canary(idle_seconds=60)
            assert len(images.batches) == 1
            assert embedder.seconds_since_success() < 60
            await embedder.run_canary()
            return images.batches
        finally:
            await asyncio.to_thread(embedder.close)

    assert asyncio.run(scenario()) == [2, 2]  # two views of a blank picture, twice


def test_an_idle_queue_is_asked_less_often_beside_a_busy_one(tiny_model: str, settings: Settings) -> None:
    async def scenario() -> list[int]:
        embedder, images = slow_embedder(tiny_model, settings, seconds_per_picture=0.0)
        embedder.start()
        try:
            await embedder.run_canary(idle_seconds=60)
            await asyncio.sleep(0.5)
            await embedder.embed_text("somebody searches")
            await embedder.run_canary(idle_seconds=0.2)  # by itself, half a second would be long enough
            beside = len(images.batches)
            await asyncio.sleep(0.5)
            await embedder.run_canary(idle_seconds=0.2)  # now nobody searches
            return [beside, len(images.batches)]
        finally:
            await asyncio.to_thread(embedder.close)

    assert asyncio.run(scenario()) == [1, 2]


def test_decoding_leaves_cores_to_a_model_that_needs_them() -> None:
    assert 1 <= _default_decode_threads("cpu") <= _default_decode_threads("cuda")
