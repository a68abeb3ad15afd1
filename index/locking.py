"""Locks: one process per folder, and many readers or one writer inside a process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from types import TracebackType

from index.errors import CollectionLockedError

LOCK_NAME = "lock"


class FolderLock:
    """An exclusive lock on a folder that the system lets go of when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            CollectionLockedError: If another process has it; the message names that process.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise CollectionLockedError(
                f"{path.parent} is in use by process {owner}; stop that process, talk to it over HTTP, "
                "or choose another folder"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let the next process in."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SharedLock:
    """Many readers, or one writer who goes before readers that come after it."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._num_readers = 0
        self._num_writers_waiting = 0
        self._is_written = False

    def shared(self) -> SharedHold:
        """Hold off writers, from now on; do not nest."""
        with self._condition:
            while self._has_writers:
                self._condition.wait()
            self._num_readers += 1
        return SharedHold(self)

    def shared_now(self) -> SharedHold | None:
        """Hold off writers if none is there or waits; ``None`` otherwise."""
        with self._condition:
            if self._has_writers:
                return None
            self._num_readers += 1
        return SharedHold(self)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be alone."""
        with self._condition:
            self._num_writers_waiting += 1
            while self._is_written or self._num_readers:
                self._condition.wait()
            self._num_writers_waiting -= 1
            self._is_written = True
        try:
            yield
        finally:
            with self._condition:
                self._is_written = False
                self._condition.notify_all()

    @property
    def _has_writers(self) -> bool:
        return self._is_written or self._num_writers_waiting > 0

    def _leave(self) -> None:
        with self._condition:
            self._num_readers -= 1
            if not self._num_readers:
                self._condition.notify_all()


class SharedHold:
    """What holds off writers until it is released, at the latest where its block ends."""

    __slots__ = ("_lock",)

    def __init__(self, lock: SharedLock) -> None:
        self._lock: SharedLock | None = lock

    def release(self) -> None:
        """Let writers in; a second time does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock._leave()

    def __enter__(self) -> SharedHold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
