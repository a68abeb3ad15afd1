"""A folder that appears whole or not at all, also over one that is already there."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `target` when the block ends, and vanishes when it fails.

    Files are flushed to the disk before the exchange, so that a crash at any moment leaves the old folder or
    the new one. One writer at a time: what a killed writer left behind is removed by the next.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.saving")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for path in [*draft.iterdir(), draft]:
            _flush(path)
        _take_place(draft, target)
        _flush(target.parent)
    finally:
        # After the exchange the draft's name holds the former folder.
        shutil.rmtree(draft, ignore_errors=True)


def _take_place(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
    elif not _exchange(draft, target):
        # Without an atomic exchange there is an instant with no folder; both stay on the disk through it.
        former = target.with_name(f".{target.name}.former")
        shutil.rmtree(former, ignore_errors=True)
        target.rename(former)
        draft.rename(target)
        former.rename(draft)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; `False` where the system has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
