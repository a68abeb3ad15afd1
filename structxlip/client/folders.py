"""Which files of a folder are pictures, and under which ids they are added."""

from __future__ import annotations

import os
from pathlib import Path

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


def find_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """Return every file below a folder that is named like a picture, at any depth, in a stable order.

    Raises:
        NotADirectoryError: If there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder; to add single files, name each of them")
    return [path for path in sorted(root.rglob("*")) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]


def id_of_path(relative: str) -> str:
    """Make an id of a path within a folder: ids hold no slash, since they stand in addresses."""
    return relative.replace("/", ":").replace("\\", ":")
