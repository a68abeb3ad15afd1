"""Small pictures and folders for the tests of collections."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.catalogue import Matrix, Numbers
from index.collection import NewImage, Page, SearchHit
from index.filters import Filter
from index.local import LocalCollection
from index.settings import LocalSettings

DIMENSION = 8
FINGERPRINT = "model-a"
QUIET = LocalSettings(self_check_seconds=0, snapshot_seconds=1e9)


@dataclass(frozen=True)
class Rows:
    """A vector source in memory."""

    held: Numbers
    rows: Matrix

    def numbers(self) -> Numbers:
        return self.held

    def pairs(self, numbers: list[int]) -> tuple[Numbers, Matrix]:
        places = np.flatnonzero(np.isin(self.held, numbers))
        return self.held[places], self.rows[places]

    def all_pairs(self) -> Iterator[tuple[Numbers, Matrix]]:
        for start in range(0, len(self.held), 100):
            yield self.held[start : start + 100], self.rows[start : start + 100]


def unit_vector(seed: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    vector = np.random.default_rng(seed).standard_normal(dimension).astype(np.float32)
    return vector / np.linalg.norm(vector)


def unit(rows: NDArray[np.float64]) -> Matrix:
    """Scale rows to length 1."""
    scaled: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def content_of(seed: int) -> bytes:
    return f"content {seed}".encode() * (1 + seed % 3)


def picture(
    name: str,
    seed: int = 0,
    *,
    metadata: Mapping[str, JsonValue] | None = None,
    caption: str | None = None,
    dimension: int = DIMENSION,
) -> NewImage:
    """A picture whose content and vectors follow from the seed."""
    content = content_of(seed)
    return NewImage(
        id=name,
        content=content,
        content_hash=hashlib.sha256(content).hexdigest(),
        media_type="image/png",
        width=4,
        height=3,
        appearance=unit_vector(2 * seed, dimension),
        structure=unit_vector(2 * seed + 1, dimension),
        metadata=metadata or {},
        caption=caption,
    )


def query_vector(seed: int, structure_weight: float = 0.5, dimension: int = DIMENSION) -> NDArray[np.float32]:
    return np.concatenate(
        [
            (1 - structure_weight) * unit_vector(10_000 + seed, dimension),
            structure_weight * unit_vector(20_000 + seed, dimension),
        ]
    ).astype(np.float32)


def open_local(
    directory: Path, settings: LocalSettings = QUIET, *, dimension: int = DIMENSION, fingerprint: str = FINGERPRINT
) -> LocalCollection:
    return LocalCollection.open(directory, dimension=dimension, fingerprint=fingerprint, settings=settings)


def shown(page: Page[SearchHit]) -> list[tuple[str, float]]:
    return [(hit.record.id, hit.score) for hit in page.items]


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for background work, and fail when it does not come."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "the awaited state did not come in time"
        time.sleep(0.01)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where the system has one: flushing is then free, and durability is not what is tested."""
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def search_while_writing(write: Callable[[], None], search: Callable[[int], None], *, num_threads: int = 3) -> int:
    """Write once on one thread while others search, each with its number, until that is done.

    Returns:
        How many searches there were.

    Raises:
        BaseException: What one of them raised.
    """
    with ThreadPoolExecutor(1 + num_threads) as pool:
        writing = pool.submit(write)

        def search_on(number: int) -> int:
            num_searches = 0
            while not writing.done():
                search(number)
                num_searches += 1
            return num_searches

        searching = [pool.submit(search_on, number) for number in range(num_threads)]
    writing.result()
    return sum(each.result() for each in searching)


def search_while_one_changes(
    collection: LocalCollection, condition: Filter, *, num_fixed: int, after_write: Callable[[int], None]
) -> int:
    """Search with a filter for lamps while one picture turns from a lamp into a chair and back, 39 times.

    Each search must find all lamps that stay, and the changing one as it is while it is a lamp.

    Args:
        collection: Empty.
        condition: Lets lamps through: ``kind`` is ``lamp``.
        num_fixed: Lamps that stay.
        after_write: Called with the number of each change.

    Returns:
        How many searches there were.
    """
    collection.add([picture(f"lamp{n}", n, metadata={"kind": "lamp"}) for n in range(num_fixed)])
    collection.add([picture("changing", 500, metadata={"kind": "lamp", "version": 0})])
    # Else the engine is made anew and tuned for these beside the searches: a minute on a slow machine.
    wait_until(lambda: not collection._live.needs_rebuild and collection.status().activity is None, seconds=60)
    fixed = {f"lamp{n}" for n in range(num_fixed)}

    def write() -> None:
        for version in range(1, 40):
            kind = "lamp" if version % 2 else "chair"
            collection.add([picture("changing", 500 + version, metadata={"kind": kind, "version": version})])
            end = time.monotonic() + 0.03
            while time.monotonic() < end:
                collection._maintenance.wake()
                time.sleep(0.002)
            after_write(version)

    def search(seed: int) -> None:
        found = collection.search(query_vector(seed), limit=num_fixed + 10, filter=condition)
        hits = {hit.record.id: hit for hit in found.items}
        assert set(hits) - {"changing"} == fixed
        if (changing := hits.get("changing")) is not None:
            version = changing.record.metadata["version"]
            assert isinstance(version, int)
            assert version % 2 or not version
            np.testing.assert_array_equal(changing.appearance, unit_vector(2 * (500 + version)))

    return search_while_writing(write, search)
