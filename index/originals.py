"""The original files, each kept once under the name of its content: ``originals/ab/abcdef…``.

A file is durable before the row that refers to it commits, and is removed only after the row that referred
to it last is gone. Between the two stands the *lease*: whoever is about to commit a reference holds one,
and a leased file is never removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from index.errors import storage_error
from index.files import sync_folder, write_atomically

_MAX_FLUSHES = 8


def original_path(folder: Path, content_hash: str) -> Path:
    """Return where a folder of originals keeps the file with this content."""
    return folder / content_hash[:2] / content_hash


class Originals:
    """A folder of files named by the SHA-256 of their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._leases: Counter[str] = Counter()
        self._num_pauses = 0
        for prefix in range(256):
            (folder / f"{prefix:02x}").mkdir(parents=True, exist_ok=True)
        self._incoming = folder / "incoming"
        self._incoming.mkdir(exist_ok=True)
        for left_behind in self._incoming.iterdir():
            left_behind.unlink(missing_ok=True)
        sync_folder(folder)

    def path(self, content_hash: str) -> Path:
        """Return where the file with this content is, or would be."""
        return original_path(self._folder, content_hash)

    def read(self, content_hash: str) -> bytes | None:
        """Return the content, or ``None`` when it is not kept."""
        try:
            return self.path(content_hash).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise storage_error(error, f"reading the original {content_hash}") from error

    @contextmanager
    def lease(self, content_hashes: Collection[str]) -> Iterator[None]:
        """Keep these files from being removed, whether or not they are there yet."""
        with self._lock:
            self._leases.update(content_hashes)
        try:
            yield
        finally:
            with self._lock:
                self._leases.subtract(content_hashes)
                for content_hash in content_hashes:
                    if self._leases[content_hash] <= 0:
                        del self._leases[content_hash]

    @contextmanager
    def removal_paused(self) -> Iterator[None]:
        """Keep every file; what becomes unreferenced meanwhile is collected at the next open."""
        with self._lock:
            self._num_pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_pauses -= 1

    def write_all(self, contents: Mapping[str, bytes]) -> None:
        """Store files durably, several flushes to the disk at once; the caller holds their leases.

        Raises:
            StorageError: If the disk fails or is full; some of the files may be there.
        """
        with ThreadPoolExecutor(max_workers=min(_MAX_FLUSHES, max(1, len(contents)))) as pool:
            for done in [pool.submit(self.write, *item) for item in contents.items()]:
                done.result()

    def write(self, content_hash: str, content: bytes) -> None:
        """Store a file durably; the caller holds its lease.

        Raises:
            StorageError: If the disk fails or is full; nothing is left behind.
        """
        path = self.path(content_hash)
        if _has_size(path, len(content)):
            # Another thread may have given it its name a moment ago without having made the name durable yet.
            sync_folder(path.parent)
            return
        write_atomically(
            path,
            lambda file: _discard(file.write(content)),
            f"writing the original {content_hash}",
            temporary_folder=self._incoming,
        )

    def remove(self, content_hash: str) -> bool:
        """Remove a file that no row refers to, unless somebody is about to refer to it."""
        with self._lock:
            if self._num_pauses or content_hash in self._leases:
                return False
            self.path(content_hash).unlink(missing_ok=True)
            return True

    def unreferenced(self, referenced: Callable[[list[str]], set[str]]) -> list[str]:
        """List the kept files that no row refers to.

        Args:
            referenced: Returns those of the given hashes that rows refer to.
        """
        found: list[str] = []
        for prefix in range(256):
            names = [path.name for path in (self._folder / f"{prefix:02x}").iterdir()]
            in_use = referenced(names) if names else set()
            found += [name for name in names if name not in in_use]
        return found


def _has_size(path: Path, num_bytes: int) -> bool:
    try:
        return path.stat().st_size == num_bytes
    except OSError:
        return False


def _discard(_: int) -> None:
    return None
