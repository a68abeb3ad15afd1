"""Writing files so that they are there after a crash, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from index.errors import storage_error

TEMPORARY_SUFFIX = ".part"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(
    path: Path, write: Callable[[BinaryIO], None], doing: str, *, temporary_folder: Path | None = None
) -> None:
    """Write a file under a temporary name, make it durable, and only then give it its name.

    Args:
        path: The name it gets; its folder exists.
        write: Puts the content into the open file.
        doing: For the message of an error.
        temporary_folder: Where it stands until it is whole, on the same file system; beside ``path`` by default.

    Raises:
        StorageError: If the disk fails or is full; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=temporary_folder or path.parent, suffix=TEMPORARY_SUFFIX)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, doing) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
