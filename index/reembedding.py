"""Giving a stored collection the vectors of another model, without its service having to stop.

The vectors of two models stand side by side in the catalogue. While a service goes on with the old one,
`reembed` adds those of the new one in small transactions; it can be stopped and started again at any time.
Then the service is started with the new model; whenever it stands still, `prune_vectors` forgets the old
ones. Pictures that were added meanwhile by the old service are taken by a second, short run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from index.catalogue_file import CATALOGUE_NAME, open_prepared, register_fingerprint
from index.collection import Vector
from index.errors import CollectionError, StorageError, storage_error
from index.locking import LOCK_NAME, FolderLock
from index.originals import original_path

Embed: TypeAlias = Callable[[Sequence[tuple[str, bytes]]], Sequence[tuple[Vector, Vector] | None]]


@dataclass(frozen=True, slots=True)
class ReembedOutcome:
    """What one run did.

    Attributes:
        num_embedded: Pictures that have vectors of the new model now and had none before.
        failed: Ids of pictures that could not be embedded, or whose original is missing.
    """

    num_embedded: int
    failed: tuple[str, ...]


def reembed(
    directory: Path,
    *,
    dimension: int,
    fingerprint: str,
    embed: Embed,
    progress: Callable[[int, int], None],
    batch_size: int = 32,
) -> ReembedOutcome:
    """Add vectors of a model for every picture that has none of it.

    Args:
        directory: Of the collection; a service may have it open.
        dimension: Of the new vectors; may differ from the old one.
        fingerprint: Of the new model.
        embed: Takes ids with original files, returns (appearance, structure) for each, ``None`` where it fails.
        progress: Called with pictures done and pictures in total.
        batch_size: Pictures embedded and committed together.

    Raises:
        StorageError: If there is no collection, or the disk fails.
    """
    with closing(_open(directory)) as connection:
        try:
            key = register_fingerprint(connection, fingerprint, dimension)
            return _Run(connection, directory, key, dimension, embed, progress, batch_size).finish()
        except sqlite3.Error as error:
            raise storage_error(error, "adding vectors to the catalogue") from error


def prune_vectors(directory: Path, *, keep: str) -> int:
    """Forget the vectors of every model but one.

    Args:
        directory: Of the collection; nothing may have it open.
        keep: The fingerprint of the model that is kept.

    Returns:
        The number of pictures' vectors that were forgotten.

    Raises:
        CollectionLockedError: If a process has the collection open: it may be searching those vectors.
        CollectionError: If some picture has no vectors of that model; run `reembed` first.
    """
    with closing(_open(directory)) as connection, FolderLock(directory / LOCK_NAME):
        try:
            connection.execute("BEGIN IMMEDIATE")
            sql = (
                "SELECT count(*) FROM images WHERE id NOT IN (SELECT image FROM vectors WHERE fingerprint = "
                "(SELECT id FROM fingerprints WHERE name = ?))"
            )
            (num_missing,) = connection.execute(sql, (keep,)).fetchone()
            if num_missing:
                raise CollectionError(
                    f"{num_missing} pictures have no vectors of {keep!r}; "
                    "run `structxlip reindex` with that model first"
                )
            forget = "DELETE FROM vectors WHERE fingerprint <> (SELECT id FROM fingerprints WHERE name = ?)"
            num_forgotten = connection.execute(forget, (keep,)).rowcount
            connection.execute("DELETE FROM fingerprints WHERE name <> ?", (keep,))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise storage_error(error, "removing vectors from the catalogue") from error
    return num_forgotten


class _Run:
    """Walks the pictures without vectors by ascending number, so that a failed one is not met twice."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        directory: Path,
        key: int,
        dimension: int,
        embed: Embed,
        progress: Callable[[int, int], None],
        batch_size: int,
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._key = key
        self._dimension = dimension
        self._embed = embed
        self._progress = progress
        self._batch_size = batch_size
        self._num_embedded = 0
        self._failed: list[str] = []

    def finish(self) -> ReembedOutcome:
        last = 0
        while rows := self._next(last):
            self._take(rows)
            last = rows[-1][0]
            num_done = self._num_embedded + len(self._failed)
            self._progress(num_done, num_done + self._num_missing(last))
        return ReembedOutcome(self._num_embedded, tuple(self._failed))

    def _next(self, last: int) -> list[tuple[int, str, str]]:
        sql = (
            "SELECT id, name, content_hash FROM images WHERE id > ? AND NOT EXISTS "
            "(SELECT 1 FROM vectors WHERE fingerprint = ? AND image = images.id) ORDER BY id LIMIT ?"
        )
        return self._connection.execute(sql, (last, self._key, self._batch_size)).fetchall()

    def _num_missing(self, last: int) -> int:
        sql = (
            "SELECT count(*) FROM images WHERE id > ? AND NOT EXISTS "
            "(SELECT 1 FROM vectors WHERE fingerprint = ? AND image = images.id)"
        )
        return int(self._connection.execute(sql, (last, self._key)).fetchone()[0])

    def _take(self, rows: Sequence[tuple[int, str, str]]) -> None:
        there: list[tuple[int, str, bytes]] = []
        for number, name, content_hash in rows:
            content = self._original(content_hash)
            if content is not None:
                there.append((number, name, content))
            elif self._is_stored(number):
                self._failed.append(name)
        if not there:
            return
        vectors = self._embed([(name, content) for _, name, content in there])
        if len(vectors) != len(there):
            raise ValueError(f"embed returned {len(vectors)} results for {len(there)} pictures")
        pairs: list[tuple[int, bytes]] = []
        for (number, name, _), views in zip(there, vectors, strict=True):
            if views is None:
                self._failed.append(name)
            else:
                pairs.append((number, self._pair(name, views)))
        self._store(pairs)

    def _original(self, content_hash: str) -> bytes | None:
        try:
            return original_path(self._directory / "originals", content_hash).read_bytes()
        except FileNotFoundError:
            return None  # replaced or deleted by the service since we looked, or truly missing
        except OSError as error:
            raise storage_error(error, f"reading the original {content_hash}") from error

    def _is_stored(self, number: int) -> bool:
        return self._connection.execute("SELECT 1 FROM images WHERE id = ?", (number,)).fetchone() is not None

    def _pair(self, name: str, views: tuple[Vector, Vector]) -> bytes:
        for view in views:
            if view.shape != (self._dimension,) or not np.isfinite(view).all():
                raise ValueError(f"{name!r}: expected finite vectors of shape ({self._dimension},); got {view.shape}")
        return np.concatenate(views).astype("<f4").tobytes()

    def _store(self, pairs: Sequence[tuple[int, bytes]]) -> None:
        # A picture that the service has removed or replaced since has another number, or none: nothing to store.
        sql = "INSERT OR IGNORE INTO vectors(fingerprint, image, pair) SELECT ?, id, ? FROM images WHERE id = ?"
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for number, pair in pairs:
                self._num_embedded += self._connection.execute(sql, (self._key, pair, number)).rowcount
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _open(directory: Path) -> sqlite3.Connection:
    path = directory / CATALOGUE_NAME
    if not path.is_file():
        raise StorageError(f"there is no collection in {directory}")
    return open_prepared(path)
