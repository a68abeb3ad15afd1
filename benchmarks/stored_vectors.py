"""A collection of many random unit vectors, made without embedding anything."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue

from index.collection import NewImage
from index.local import LocalCollection
from index.settings import LocalSettings

ROWS_A_CALL = 1000
QUIET_LOOKS = 4


def fill_collection(
    folder: Path,
    *,
    num: int,
    dimension: int,
    fingerprint: str,
    seed: int = 0,
    rows: NDArray[np.float32] | None = None,
) -> None:
    """Store ``num`` pictures that share one file, with these vectors of both views side by side.

    Without ``rows`` they have random vectors of clustered directions. Returns when the engine that suits their number
    is made and saved.
    """
    chance = np.random.default_rng(seed)
    centres = unit(chance.standard_normal((256, dimension)))
    collection = LocalCollection.open(folder, dimension=dimension, fingerprint=fingerprint)
    for start in range(0, num, ROWS_A_CALL):
        size = min(ROWS_A_CALL, num - start)
        if rows is None:
            views = [
                unit(centres[chance.integers(0, 256, size)] + 0.6 * unit(chance.standard_normal((size, dimension))))
                for _ in range(2)
            ]
            pairs = np.concatenate(views, axis=1)
        else:
            pairs = rows[start : start + size]
        numbers = range(start, start + size)
        store(
            collection,
            pairs,
            [{"shelf": number % 100, "name": f"picture {number}"} for number in numbers],
            first=start,
        )
    _wait_until_settled(collection)
    collection.close()


def store(
    collection: LocalCollection, pairs: NDArray[np.float32], metadata: Sequence[dict[str, JsonValue]], first: int = 0
) -> None:
    """Add pictures ``v0``, ``v1``, … that share one file, with these vectors, shape ``(N, 2 D)``, and metadata."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 60)).save(buffer, "PNG")
    content = buffer.getvalue()
    content_hash = hashlib.sha256(content).hexdigest()
    dimension = pairs.shape[1] // 2
    for start in range(0, len(pairs), ROWS_A_CALL):
        collection.add(
            [
                NewImage(
                    id=f"v{first + row}",
                    content=content,
                    content_hash=content_hash,
                    media_type="image/png",
                    width=16,
                    height=16,
                    appearance=pairs[row, :dimension],
                    structure=pairs[row, dimension:],
                    metadata=metadata[row],
                )
                for row in range(start, min(start + ROWS_A_CALL, len(pairs)))
            ]
        )


@contextmanager
def engines_over(
    pairs: NDArray[np.float32], metadata: Sequence[dict[str, JsonValue]], kinds: Sequence[str], target: float
) -> Iterator[dict[str, tuple[LocalCollection, float]]]:
    """Yield a collection of these on disk for each engine, made and tuned, with the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        dimension, filled = pairs.shape[1] // 2, Path(folder) / "filled"
        settings = LocalSettings(engine="flat")
        with LocalCollection.open(filled, dimension=dimension, fingerprint="x", settings=settings) as collection:
            store(collection, pairs, metadata)
        made = {}
        for kind in kinds:
            settings = LocalSettings(engine=kind, recall_target=target, self_check_seconds=0)  # type: ignore[arg-type]
            shutil.copytree(filled, Path(folder) / kind)
            started = time.perf_counter()
            collection = stack.enter_context(
                LocalCollection.open(Path(folder) / kind, dimension=dimension, fingerprint="x", settings=settings)
            )
            while collection.status().engine != kind or collection.status().activity:
                time.sleep(0.05)
            made[kind] = collection, time.perf_counter() - started
        yield made


def _wait_until_settled(collection: LocalCollection) -> None:
    num_quiet = 0
    while num_quiet < QUIET_LOOKS:
        time.sleep(0.5)  # about the time between two looks of the collection at what is due
        num_quiet = 0 if collection.status().activity else num_quiet + 1


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scale rows to length 1."""
    scaled: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled
