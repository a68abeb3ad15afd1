"""Pictures and texts to vectors: decode in a thread pool, prepare, queue, encode in batches.

The order for a picture is header → budget → decode (off the event loop) → resize and edge map → batch queue → model.
Bytes that cannot become a picture never reach the queue. Pictures, texts and sketches have a queue each, so that a
sentence or a drawing never waits behind a batch of pictures; a picture to search by passes those to add at every one
of these steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.admission import Admission
from service.batching import Batcher, Lane
from service.encoding import (
    EmbeddedText,
    OneView,
    PictureItem,
    PictureRows,
    PictureView,
    TextItem,
    TextRows,
    TextView,
    Vector,
    View,
    encode_pictures,
    encode_texts,
    prepare_view,
    views_of,
)
from service.images import DecodedImage, ImageLimits, decode_image, inspect_image
from service.metrics import Metrics
from service.problems import InvalidRequest
from service.settings import Settings
from structxlip.cores import num_cores
from structxlip.encoder import PreparedImage, TwoViewEncoder
from structxlip.explanation import cut_out, find_regions
from structxlip.sketch import WORKING_SIDE, EmptySketchError

ResultT = TypeVar("ResultT")

# Of the time after which an idle queue is asked to prove that it answers: so many times it, beside one that serves.
CANARY_PATIENCE = 6


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What the service keeps of a decoded picture once its pixels are gone."""

    content_hash: str
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class EmbeddedPicture:
    """One picture and its unit vectors, each of shape ``(D,)``."""

    facts: PictureFacts
    appearance: Vector
    structure: Vector


@dataclass(frozen=True, slots=True)
class EmbeddedRegions:
    """Boxes `(R, 4)` of a picture, as shares of its width and height, and their unit rows `(R, D)` of both views."""

    boxes: NDArray[np.float64]
    appearance: NDArray[np.float32]
    structure: NDArray[np.float32]


class QueueMetrics:
    """Reports one batcher's life to Prometheus (the batcher's `BatchObserver`)."""

    def __init__(self, metrics: Metrics, queue: str) -> None:
        self._metrics = metrics
        self._items = metrics.queue_items.labels(queue)
        self._pixels = metrics.queue_pixels.labels(queue)
        self._batch_size = metrics.batch_size.labels(queue)
        self._wait = metrics.queue_seconds.labels(queue)

    def on_queue(self, num_items: int, num_pixels: int) -> None:
        """Note the queue's length."""
        self._items.set(num_items)
        self._pixels.set(num_pixels)

    def on_batch(self, size: int, run_seconds: float) -> None:
        """Note a finished batch."""
        self._batch_size.observe(size)

    def on_wait(self, seconds: float) -> None:
        """Note how long an item waited."""
        self._wait.observe(seconds)

    def on_rejected(self, reason: str) -> None:
        """Count an item that was refused or dropped."""
        self._metrics.rejected_total.labels(reason).inc()


class Embedder:
    """Owns the model's queues and threads; made and used on one event loop."""

    def __init__(self, encoder: TwoViewEncoder, settings: Settings, metrics: Metrics) -> None:
        self._encoder = encoder
        self._metrics = metrics
        self._deadline_seconds = settings.request_seconds
        self._lane_seconds = {Lane.INTERACTIVE: settings.request_seconds, Lane.BULK: settings.add_seconds}
        self._limits = ImageLimits(max_bytes=settings.max_file_bytes, max_pixels=settings.max_pixels)
        num_threads = settings.decode_threads or _default_decode_threads(encoder.device)
        self._decode_pools = {
            lane: ThreadPoolExecutor(num_threads, thread_name_prefix=f"decode-{lane.value}") for lane in Lane
        }
        self._last_success = {"pictures": 0.0, "texts": 0.0}
        self._pictures: Batcher[PictureItem, PictureRows] = Batcher(
            self._encode_pictures,
            name="pictures",
            max_batch_size=settings.max_batch_size,
            max_queue_items=settings.max_queue_items,
            max_queue_pixels=settings.max_queue_items * encoder.image_size**2,
            observer=QueueMetrics(metrics, "pictures"),
        )
        self._texts: Batcher[TextItem, TextRows] = Batcher(
            self._encode_texts,
            name="texts",
            max_batch_size=settings.max_batch_size,
            max_queue_items=settings.max_queue_items,
            max_queue_pixels=1,
            observer=QueueMetrics(metrics, "texts"),
        )
        self._sketches = Batcher(
            self._encode_sketches,
            name="sketches",
            max_batch_size=settings.max_batch_size,
            max_queue_items=settings.max_queue_items,
            max_queue_pixels=settings.max_queue_items * encoder.image_size**2,
            observer=QueueMetrics(metrics, "sketches"),
        )
        self.admission = Admission(
            max_items=settings.max_queue_items,
            max_pixels=settings.max_inflight_pixels,
            retry_after_seconds=self._pictures.retry_after_seconds,
            on_rejected=lambda reason: metrics.rejected_total.labels(reason).inc(),
        )

    @property
    def _queues(self) -> tuple[Batcher[Any, Any], ...]:
        return self._pictures, self._texts, self._sketches

    def start(self) -> None:
        """Start the model's worker threads."""
        for queue in self._queues:
            queue.start()

    def close(self) -> None:
        """Finish what is queued, then stop the threads."""
        for pool in self._decode_pools.values():
            pool.shutdown(wait=True)
        for queue in self._queues:
            queue.close(drain=True, timeout=self._deadline_seconds)

    @property
    def is_alive(self) -> bool:
        """Every worker runs; one that died takes readiness with it."""
        return all(queue.is_alive for queue in self._queues)

    def seconds_since_success(self) -> float:
        """Time since the staler of the two queues last produced a vector."""
        return time.monotonic() - min(self._last_success.values())

    async def decode(self, data: bytes, *, min_side: int | None = None) -> DecodedImage:
        """Turn untrusted bytes into pixels in the decode pool."""
        return await self._in_pool(lambda: decode_image(data, self._limits, min_side=min_side))

    async def embed_picture(self, data: bytes, *, lane: Lane) -> EmbeddedPicture:
        """Embed one file.

        Raises:
            Problem: If the bytes are no acceptable picture, the budget is spent, or the deadline passed.
        """
        header = inspect_image(data, self._limits)
        async with self.admission.admit(header.width * header.height, lane):
            facts, prepared = await self._in_pool(lambda: self._decode_and_prepare(data), lane)
            appearance, structure = await self._embed_both(prepared, lane, self._lane_seconds[lane])
        return EmbeddedPicture(facts, appearance, structure)

    async def embed_picture_view(self, data: bytes, view: View, *, lane: Lane) -> OneView:
        """Embed one view of a file, at the cost of that one.

        Raises:
            Problem: As `embed_picture`.
        """
        header = inspect_image(data, self._limits)
        async with self.admission.admit(header.width * header.height, lane):
            prepared = await self._in_pool(lambda: self._decode_view(data, view), lane)
            rows = await self._pictures.submit(
                prepared,
                pixels=self._encoder.image_size**2,
                lane=lane,
                deadline_seconds=self._lane_seconds[lane],
            )
        return cast(OneView, rows)

    async def embed_regions(self, data: bytes) -> EmbeddedRegions:
        """Find the regions of a picture file and embed what each of them holds; somebody waits for it.

        Raises:
            Problem: As `embed_picture`.
        """
        header = inspect_image(data, self._limits)
        async with self.admission.admit(header.width * header.height, lane=Lane.INTERACTIVE):
            boxes, prepared = await self._in_pool(lambda: self._decode_regions(data))
            vectors = await asyncio.gather(
                *(self._embed_both(region, Lane.INTERACTIVE, self._deadline_seconds) for region in prepared)
            )
        return EmbeddedRegions(boxes, np.stack([v for v, _ in vectors]), np.stack([e for _, e in vectors]))

    async def embed_text(self, text: str, *, lane: Lane = Lane.INTERACTIVE) -> EmbeddedText:
        """Embed one text and its structural part."""
        rows = await self._texts.submit(text, pixels=0, lane=lane, deadline_seconds=self._deadline_seconds)
        return cast(EmbeddedText, rows)

    async def embed_text_view(self, text: str, view: View, *, lane: Lane) -> OneView:
        """Embed one view of a text, at the cost of that one."""
        item = TextView(view, text)
        rows = await self._texts.submit(item, pixels=0, lane=lane, deadline_seconds=self._deadline_seconds)
        return cast(OneView, rows)

    async def embed_sketch(self, data: bytes, *, lane: Lane = Lane.INTERACTIVE) -> Vector:
        """Decode a drawing and embed its lines; returns the structure vector.

        Raises:
            Problem: As `embed_picture`.
            InvalidRequest: If it has no strokes.
        """
        header = inspect_image(data, self._limits)
        async with self.admission.admit(header.width * header.height, lane):
            edges = await self._in_pool(lambda: self._decode_sketch(data), lane)
            return await self._sketches.submit(
                edges, pixels=edges.size, lane=lane, deadline_seconds=self._deadline_seconds
            )

    async def edge_map(self, data: bytes) -> NDArray[np.uint8]:
        """Return the edge map of a file as the model sees it, shape ``(S, S)``."""
        _, prepared = await self._in_pool(lambda: self._decode_and_prepare(data))
        return prepared.edges

    async def run_canary(self, *, idle_seconds: float = 0.0) -> None:
        """Push a known text and a known picture through the queues, to prove that they still answer.

        A queue that answered others within ``idle_seconds`` has proved it already: beside an import, a canary would
        only pass for somebody who searches. While the other queue serves somebody, one that is idle is asked less
        often: a picture takes the cores from texts for up to a tenth of a second.
        """
        size = self._encoder.image_size
        blank = PreparedImage(rgb=np.full((size, size, 3), 127, np.uint8), edges=np.zeros((size, size), np.uint8))
        since = {queue: time.monotonic() - last for queue, last in self._last_success.items()}
        if min(since.values()) < idle_seconds:
            idle_seconds *= CANARY_PATIENCE
        songs: list[Coroutine[Any, Any, object]] = []
        if since["texts"] >= idle_seconds:
            songs.append(self.embed_text("a canary"))
        if since["pictures"] >= idle_seconds:
            songs.append(
                self._pictures.submit(blank, pixels=0, lane=Lane.INTERACTIVE, deadline_seconds=self._deadline_seconds)
            )
        await asyncio.gather(*songs)

    def _decode_and_prepare(self, data: bytes) -> tuple[PictureFacts, PreparedImage]:
        with self._metrics.decode_seconds.time():
            decoded = decode_image(data, self._limits, min_side=self._encoder.image_size)
        with self._metrics.edge_seconds.time():
            prepared = self._encoder.prepare_image(decoded.rgb)
        facts = PictureFacts(decoded.content_hash, decoded.media_type, decoded.width, decoded.height)
        return facts, prepared

    def _decode_view(self, data: bytes, view: View) -> PictureView:
        with self._metrics.decode_seconds.time():
            decoded = decode_image(data, self._limits, min_side=self._encoder.image_size)
        if view == "appearance":
            return prepare_view(self._encoder, decoded.rgb, view)
        with self._metrics.edge_seconds.time():
            return prepare_view(self._encoder, decoded.rgb, view)

    def _decode_regions(self, data: bytes) -> tuple[NDArray[np.float64], list[PreparedImage]]:
        with self._metrics.decode_seconds.time():
            decoded = decode_image(data, self._limits)
        with self._metrics.edge_seconds.time():
            boxes = find_regions(decoded.rgb, self._encoder.edge_detector)
            return boxes, [self._encoder.prepare_image(cut_out(decoded.rgb, box)) for box in boxes]

    def _decode_sketch(self, data: bytes) -> NDArray[np.uint8]:
        with self._metrics.decode_seconds.time():
            decoded = decode_image(data, self._limits, min_side=max(WORKING_SIDE, self._encoder.image_size))
        try:
            with self._metrics.edge_seconds.time():
                return self._encoder.prepare_sketch(decoded.rgb)
        except EmptySketchError as error:
            raise InvalidRequest(str(error)) from error

    def _encode_sketches(self, edges: Sequence[NDArray[np.uint8]]) -> list[Vector]:
        with self._metrics.encode_seconds.labels("structure", "sketch").time():
            return list(self._encoder.encode_edge_maps(edges))

    async def _embed_both(self, prepared: PreparedImage, lane: Lane, seconds: float) -> tuple[Vector, Vector]:
        rows = await self._pictures.submit(prepared, pixels=prepared.edges.size, lane=lane, deadline_seconds=seconds)
        return cast(tuple[Vector, Vector], rows)

    def _encode_pictures(self, items: Sequence[PictureItem]) -> list[PictureRows]:
        with self._metrics.encode_seconds.labels(views_of(items), "picture").time():
            rows = encode_pictures(self._encoder, items)
        self._last_success["pictures"] = time.monotonic()
        return rows

    def _encode_texts(self, items: Sequence[TextItem]) -> list[TextRows]:
        with self._metrics.encode_seconds.labels(views_of(items), "text").time():
            rows = encode_texts(self._encoder, items)
        self._last_success["texts"] = time.monotonic()
        return rows

    async def _in_pool(self, work: Callable[[], ResultT], lane: Lane = Lane.INTERACTIVE) -> ResultT:
        return await asyncio.get_running_loop().run_in_executor(self._decode_pools[lane], work)


def _default_decode_threads(device: str) -> int:
    """Leave a model on the CPU half of the cores: decoding is far quicker than encoding and need not be ahead."""
    cores = num_cores()
    return max(1, cores // 2) if device == "cpu" else cores
