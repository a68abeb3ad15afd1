"""Snapshots of the engine: one file each, whole or refused.

Layout: 8 bytes magic, 8 bytes little-endian header length, the header (JSON), the arrays one after the
other, and the SHA-256 of everything before it. A snapshot names the collection, the model, the last change
it holds and the random mark of that change, so that one of another collection, of another model, or of a
history that was rolled back is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from index.engine import EngineKind, EngineState
from index.errors import SnapshotError
from index.files import TEMPORARY_SUFFIX, write_atomically

FORMAT_VERSION = 1
_MAGIC = b"SXIDX\x00\x01\n"
_SUFFIX = ".snapshot"
_MAX_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 4 << 20
_DTYPES = ("<f4", "<i8", "|u1")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which history a snapshot belongs to, and how far it goes.

    Attributes:
        identity: The random name of the collection.
        fingerprint: The model.
        sequence: The last change it holds.
        mark: The random number drawn for that change.
    """

    identity: str
    fingerprint: str
    sequence: int
    mark: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An engine and where in the history it stands."""

    lineage: Lineage
    state: EngineState


class SnapshotFolder:
    """The snapshots of one collection, newest last."""

    def __init__(self, folder: Path, num_kept: int) -> None:
        self._folder = folder
        self._num_kept = max(1, num_kept)
        folder.mkdir(parents=True, exist_ok=True)
        for left_behind in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            left_behind.unlink(missing_ok=True)
        files = self.newest_first()
        self._newest_written_at = files[0].stat().st_mtime if files else None

    def newest_first(self) -> list[Path]:
        """List the files."""
        return sorted(self._folder.glob(f"*{_SUFFIX}"), reverse=True)

    def write(self, snapshot: Snapshot) -> None:
        """Write a snapshot durably, then forget the oldest.

        Raises:
            StorageError: If the disk fails or is full; the older snapshots stay.
        """
        name = f"{snapshot.lineage.sequence:020d}{_SUFFIX}"
        write_atomically(self._folder / name, lambda file: write_snapshot(file, snapshot), "writing a snapshot")
        self._newest_written_at = time.time()
        for old in self.newest_first()[self._num_kept :]:
            old.unlink(missing_ok=True)

    def oldest_sequence(self) -> int:
        """Return the last change that even the oldest snapshot holds, 0 when there is none."""
        files = self.newest_first()
        return int(files[-1].stem) if files and files[-1].stem.isdigit() else 0

    def age_seconds(self) -> float | None:
        """Return how long ago the newest snapshot was written; every search asks, so the disk is not looked at."""
        return None if self._newest_written_at is None else max(0.0, time.time() - self._newest_written_at)


def write_snapshot(file: BinaryIO, snapshot: Snapshot) -> None:
    """Write a snapshot into an open file."""
    digest = hashlib.sha256()
    lineage, state = snapshot.lineage, snapshot.state
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    header = {
        "format": FORMAT_VERSION,
        "identity": lineage.identity,
        "fingerprint": lineage.fingerprint,
        "sequence": lineage.sequence,
        "mark": lineage.mark,
        "engine": state.kind.value,
        "config": dict(state.config),
        "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()],
    }
    text = json.dumps(header).encode()
    start = _MAGIC + len(text).to_bytes(8, "little") + text
    digest.update(start)
    file.write(start)
    for chunk in _byte_chunks(arrays):
        digest.update(chunk)
        file.write(chunk)
    file.write(digest.digest())


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot and check every byte of it.

    Raises:
        SnapshotError: If the file is missing, cut short, changed, or of a newer format.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except OSError as error:
        raise SnapshotError(f"cannot read {path.name}: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise SnapshotError(f"{path.name} is damaged: {error}") from error


def _read(file: BinaryIO, num_bytes: int) -> Snapshot:
    digest = hashlib.sha256()
    start = _take(file, 16, digest)
    header_length = int.from_bytes(start[8:], "little")
    if start[:8] != _MAGIC:
        raise ValueError("it does not begin as a snapshot")
    if header_length > min(_MAX_HEADER_BYTES, num_bytes):
        raise ValueError("its header is too long")
    header = json.loads(_take(file, header_length, digest))
    if header["format"] != FORMAT_VERSION:
        raise ValueError(f"it has format {header['format']}; expected {FORMAT_VERSION}")
    expected = 16 + header_length + 32 + sum(_num_bytes(dtype, shape) for _, dtype, shape in header["arrays"])
    if expected != num_bytes:
        raise ValueError(f"it has {num_bytes} bytes; expected {expected}")
    arrays = {name: _read_array(file, dtype, shape, digest) for name, dtype, shape in header["arrays"]}
    if file.read(32) != digest.digest():
        raise ValueError("its checksum differs")
    lineage = Lineage(header["identity"], header["fingerprint"], header["sequence"], header["mark"])
    return Snapshot(lineage, EngineState(EngineKind(header["engine"]), header["config"], arrays))


def _take(file: BinaryIO, num_bytes: int, digest: hashlib._Hash) -> bytes:
    part = file.read(num_bytes)
    if len(part) != num_bytes:
        raise ValueError("it is cut short")
    digest.update(part)
    return part


def _num_bytes(dtype: str, shape: list[int]) -> int:
    if dtype not in _DTYPES or any(not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError(f"it has an array of {dtype} {shape}")
    return math.prod(shape) * np.dtype(dtype).itemsize


def _read_array(file: BinaryIO, dtype: str, shape: list[int], digest: hashlib._Hash) -> NDArray[Any]:
    array = np.empty(shape, dtype=dtype)
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    for start in range(0, len(view), _CHUNK_BYTES):
        chunk = view[start : start + _CHUNK_BYTES]
        if file.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
            raise ValueError("it is cut short")
        digest.update(chunk)
    return array


def _byte_chunks(arrays: Mapping[str, NDArray[Any]]) -> Iterator[memoryview]:
    for array in arrays.values():
        view = memoryview(array.reshape(-1).view(np.uint8).data)
        for start in range(0, len(view), _CHUNK_BYTES):
            yield view[start : start + _CHUNK_BYTES]
