"""A full disk: a typed error, nothing half-written, reads go on, and writes again once there is space."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from index.collection import NewImage
from index.errors import CollectionError, StorageError, StorageFullError, storage_error
from tests.index.builders import QUIET, content_of, open_local, picture, query_vector

ROOT = Path(__file__).parents[2]
TMPFS_BYTES = 3 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def big(name: str, seed: int, num_bytes: int) -> NewImage:
    import hashlib

    content = bytes([seed % 256]) * num_bytes
    image = picture(name, seed)
    return replace(image, content=content, content_hash=hashlib.sha256(content).hexdigest())


def fill(place: Path, *, leave: int) -> Path:
    """Take the space that is left, but for some."""
    status = os.statvfs(place)
    filler = place / "filler"
    filler.write_bytes(b"\x00" * max(0, status.f_bavail * status.f_frsize - leave))
    return filler


def test_a_full_disk_while_writing_an_original(small_disk: Path) -> None:
    with open_local(small_disk / "c") as collection:
        collection.add([picture("a", 1)])
        filler = fill(small_disk, leave=200_000)
        with pytest.raises(StorageFullError, match="no space left"):
            collection.add([picture("b", 2), big("large", 3, 400_000)])
        assert collection.count() == 1
        kept = [path.name for path in (small_disk / "c" / "originals").glob("??/*")]
        assert kept == [picture("a", 1).content_hash]
        assert list((small_disk / "c" / "originals" / "incoming").iterdir()) == []
        assert collection.original("a") == content_of(1)
        filler.unlink()
        collection.add([big("large", 3, 400_000)])
        assert len(collection.search(query_vector(0), limit=5).items) == 2


def test_a_full_disk_while_committing(small_disk: Path) -> None:
    with open_local(small_disk / "c") as collection:
        stored = [picture(f"p{i}", i) for i in range(5)]
        collection.add(stored)
        filler = fill(small_disk, leave=60_000)
        num_refused = 0
        for i in range(40):
            try:
                collection.add([picture(f"more{i}", 100 + i, metadata={"text": "x" * 20_000})])
                stored.append(picture(f"more{i}", 100 + i))
            except StorageFullError:
                num_refused += 1
            assert len(collection.search(query_vector(0), limit=100).items) == len(stored)
        assert num_refused > 20
        names = {each.id for each in stored}
        assert {each.id for each in collection.list_images(limit=100).items} == names
        filler.unlink()
        collection.add([picture("after", 999)])
        assert collection.delete("p0")
    with open_local(small_disk / "c") as collection:
        assert {each.id for each in collection.list_images(limit=100).items} == names - {"p0"} | {"after"}
        for image in stored[1:]:
            assert collection.original(image.id) == image.content
        assert len(collection.search(query_vector(0), limit=100).items) == len(stored)


def test_a_full_disk_costs_a_snapshot_and_nothing_else(small_disk: Path) -> None:
    with open_local(small_disk / "c", dimension=512) as collection:
        images = [picture(f"p{i}", i, dimension=512) for i in range(100)]
        collection.add(images)
        filler = fill(small_disk, leave=100_000)
        with pytest.raises(StorageFullError):
            collection.snapshot()
        assert list((small_disk / "c" / "snapshots").iterdir()) == []
        assert collection.get("p0") is not None
    filler.unlink()
    with open_local(small_disk / "c", dimension=512) as collection:
        assert len(collection.search(query_vector(0, dimension=512), limit=200).items) == 100


LIMITED = """
import resource, sys
from pathlib import Path
from index.errors import StorageError
from tests.index.builders import *
with open_local(Path(sys.argv[1])) as collection:
    collection.add([picture(f"p{i}", i) for i in range(3)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    stored, refused = 3, 0
    for i in range(60):
        try:
            collection.add([picture(f"more{i}", 100 + i, metadata={"text": "x" * 20_000})])
            stored += 1
        except StorageError:
            refused += 1
        assert collection.count() == stored == len(collection.search(query_vector(0), limit=99).items)
    assert refused > 10, refused
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    collection.add([picture("after", 999)])
    print(stored + 1)
"""


def test_a_file_that_may_not_grow_refuses_writes_and_loses_nothing(folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder / "c")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    with open_local(folder / "c") as collection:
        assert collection.count() == int(result.stdout)
        assert len(collection.search(query_vector(0), limit=99).items) == int(result.stdout)


def test_the_kind_of_error_follows_what_the_system_says() -> None:
    assert isinstance(storage_error(OSError(28, "No space left on device"), "writing"), StorageFullError)
    other = storage_error(OSError(5, "Input/output error"), "writing the original")
    assert isinstance(other, StorageError)
    assert not isinstance(other, StorageFullError)
    assert "while writing the original" in str(other)
    assert isinstance(other, CollectionError)
    assert QUIET.num_snapshots == 2
