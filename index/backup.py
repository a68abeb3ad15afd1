"""Copies of a whole collection: taken while it is in use, and brought back into an empty folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from index.catalogue_file import CATALOGUE_NAME, SCHEMA_VERSION
from index.errors import BackupError, storage_error
from index.files import sync_folder, write_atomically
from index.originals import original_path

MANIFEST_NAME = "backup.json"
_NUM_ATTEMPTS = 5


def backup_directory(directory: Path, destination: Path) -> int:
    """Back up the collection in a folder, which another process may be using.

    Returns:
        The number of originals.

    Raises:
        BackupError: If there is no collection, or see `write_backup`.
        StorageError: If the disk fails or is full.
    """
    if not (directory / CATALOGUE_NAME).is_file():
        raise BackupError(f"there is no collection in {directory}")
    return write_backup(directory / CATALOGUE_NAME, directory / "originals", destination)


def write_backup(catalogue_path: Path, originals: Path, destination: Path) -> int:
    """Copy a catalogue and its originals; the manifest comes last and says that the copy is whole.

    An original that disappears between the two was removed by the process that uses the collection; the catalogue is
    then copied again, as it is by now. What is linked already stays, so this ends.

    Args:
        catalogue_path: May be in use.
        originals: The folder of originals.
        destination: A new or empty folder. Originals are hard links where the file system can, else copies.

    Returns:
        The number of originals.

    Raises:
        BackupError: If the destination is not empty, or the collection lacks an original.
        StorageError: If the disk fails or is full.
    """
    _make_empty(destination)
    try:
        for _ in range(_NUM_ATTEMPTS):
            _copy_catalogue(catalogue_path, destination / CATALOGUE_NAME)
            contents = dict(_contents(destination / CATALOGUE_NAME))
            missing = [each for each in contents if not _link_or_copy(originals, destination, each, contents[each])]
            if not missing:
                break
        else:
            raise BackupError(f"{len(missing)} originals are missing from the collection, for example {missing[0]}")
        for path in (destination / "originals").glob("??/*"):
            if path.name not in contents:
                path.unlink()
        _sync_originals(destination)
        text = json.dumps({"schema_version": SCHEMA_VERSION, "num_originals": len(contents)}).encode()
        write_atomically(destination / MANIFEST_NAME, lambda file: (file.write(text), None)[1], "writing the manifest")
    except (OSError, sqlite3.Error) as error:
        raise storage_error(error, f"writing a backup to {destination}") from error
    return len(contents)


def restore(backup: Path, directory: Path) -> int:
    """Bring a backup back into a new or empty folder, checking every file of it.

    The catalogue gets its place last: a restore that was interrupted leaves a folder that is not a collection.

    Returns:
        The number of originals.

    Raises:
        BackupError: If the backup is incomplete or damaged, or the folder is not empty.
        StorageError: If the disk fails or is full.
    """
    num_expected = _read_manifest(backup)
    _check_integrity(backup / CATALOGUE_NAME)
    _make_empty(directory)
    temporary = directory / f"{CATALOGUE_NAME}.part"
    try:
        num_files = 0
        for content_hash, _ in _contents(backup / CATALOGUE_NAME):
            _copy_verified(_original(backup, content_hash), _original(directory, content_hash), content_hash)
            num_files += 1
        if num_files != num_expected:
            raise BackupError(f"the backup names {num_expected} originals; its catalogue {num_files}")
        _sync_originals(directory)
        shutil.copyfile(backup / CATALOGUE_NAME, temporary)
        with closing(sqlite3.connect(temporary, isolation_level=None)) as connection:
            # Its history goes its own way from here, so snapshots of the other one must not fit.
            connection.execute("UPDATE meta SET value = ? WHERE key = 'identity'", (secrets.token_hex(16),))
        _sync_file(temporary)
        temporary.replace(directory / CATALOGUE_NAME)
        sync_folder(directory)
    except (OSError, sqlite3.Error) as error:
        raise storage_error(error, f"restoring to {directory}") from error
    return num_files


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BackupError(f"{folder} is not empty; choose a new folder")
    except OSError as error:
        raise storage_error(error, f"making the folder {folder}") from error


def _read_manifest(backup: Path) -> int:
    try:
        manifest = json.loads((backup / MANIFEST_NAME).read_bytes())
        version, num_files = int(manifest["schema_version"]), int(manifest["num_originals"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{backup} is not a complete backup: {MANIFEST_NAME} cannot be read ({error})") from error
    if version > SCHEMA_VERSION:
        raise BackupError(f"the backup has schema version {version}; this program knows up to {SCHEMA_VERSION}")
    return num_files


def _check_integrity(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"the catalogue of the backup cannot be read: {error}") from error
    if answer != "ok":
        raise BackupError(f"the catalogue of the backup is damaged: {answer}")


def _contents(catalogue_path: Path) -> Iterator[tuple[str, int]]:
    with closing(sqlite3.connect(catalogue_path)) as connection:
        yield from connection.execute("SELECT DISTINCT content_hash, num_bytes FROM images ORDER BY content_hash")


def _original(folder: Path, content_hash: str) -> Path:
    return original_path(folder / "originals", content_hash)


def _copy_catalogue(source_path: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(source_path, timeout=60)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def _link_or_copy(originals: Path, destination: Path, content_hash: str, num_bytes: int) -> bool:
    source, target = original_path(originals, content_hash), _original(destination, content_hash)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileExistsError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        _sync_file(target)
    if target.stat().st_size != num_bytes:
        raise BackupError(f"the original {source.name} has {target.stat().st_size} bytes; expected {num_bytes}")
    return True


def _copy_verified(source: Path, target: Path, content_hash: str) -> None:
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise BackupError(f"the backup lacks the original {content_hash}") from None
    if hashlib.sha256(content).hexdigest() != content_hash:
        raise BackupError(f"the original {content_hash} in the backup is damaged")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    _sync_file(target)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_originals(folder: Path) -> None:
    originals = folder / "originals"
    originals.mkdir(exist_ok=True)
    for each in originals.iterdir():
        sync_folder(each)
    sync_folder(originals)
    sync_folder(folder)
