"""What one transaction writes into the catalogue.

Everything here runs in the writer thread, inside a transaction that the writer opens and commits.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from index.catalogue import Matrix
from index.collection import AddStatus, NewImage
from index.filter_sql import field_rows


@dataclass(frozen=True, slots=True)
class VectorChange:
    """What a change means for an engine and for the originals.

    Attributes:
        added: Number and vectors ``[appearance ; structure]`` that are new.
        removed: Number that is gone.
        released: Content that lost a reference, perhaps its last.
    """

    added: tuple[int, Matrix] | None = None
    removed: int | None = None
    released: str | None = None


class CatalogueTransaction:
    """Writes rows and numbers the changes; the changes of a request that failed are rolled back with it."""

    def __init__(
        self, connection: sqlite3.Connection, fingerprint_key: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.connection = connection
        self._key = fingerprint_key
        self._clock = clock
        (self.sequence,) = connection.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()
        self.changes: list[VectorChange] = []

    def put(self, image: NewImage, metadata_text: str) -> AddStatus:
        """Add or replace a picture; one that is already there with the same content keeps its vectors."""
        row = self.connection.execute(
            "SELECT id, content_hash, metadata, caption, created_at FROM images WHERE name = ?", (image.id,)
        ).fetchone()
        if row is None:
            self._insert(image, metadata_text, created_at=self._clock(), replaced=None)
            return AddStatus.CREATED
        number, content_hash, stored_metadata, caption, created_at = row
        if content_hash != image.content_hash:
            self.connection.execute("DELETE FROM images WHERE id = ?", (number,))
            self._insert(image, metadata_text, created_at=created_at, replaced=(number, content_hash))
            return AddStatus.REPLACED
        if stored_metadata == metadata_text and caption == image.caption:
            return AddStatus.UNCHANGED
        self._describe(number, metadata_text, image.caption)
        return AddStatus.REPLACED

    def update(self, name: str, metadata_text: str | None, caption: str | None) -> bool:
        """Replace what is given; ``False`` when there is no such picture."""
        row = self.connection.execute("SELECT id, metadata, caption FROM images WHERE name = ?", (name,)).fetchone()
        if row is None:
            return False
        number, stored_metadata, stored_caption = row
        new_metadata = stored_metadata if metadata_text is None else metadata_text
        new_caption = stored_caption if caption is None else caption
        if (new_metadata, new_caption) != (stored_metadata, stored_caption):
            self._describe(number, new_metadata, new_caption)
        return True

    def delete(self, name: str) -> bool:
        """Remove a picture; ``False`` when there is none."""
        row = self.connection.execute("SELECT id, content_hash FROM images WHERE name = ?", (name,)).fetchone()
        if row is None:
            return False
        number, content_hash = row
        self.connection.execute("DELETE FROM images WHERE id = ?", (number,))
        self._log(VectorChange(removed=number, released=content_hash))
        return True

    def prune_log(self, through: int) -> None:
        """Forget changes that every kept snapshot holds; the newest of them stays as the mark of its history."""
        self.connection.execute("DELETE FROM changes WHERE sequence < ?", (through,))
        self.connection.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'pruned'", (through,))

    def is_referenced(self, content_hash: str) -> bool:
        """Tell whether some picture has this content."""
        sql = "SELECT 1 FROM images WHERE content_hash = ? LIMIT 1"
        return self.connection.execute(sql, (content_hash,)).fetchone() is not None

    def finish(self) -> None:
        """Write the sequence number that the transaction arrived at."""
        self.connection.execute("UPDATE meta SET value = ? WHERE key = 'sequence'", (self.sequence,))

    def _insert(
        self, image: NewImage, metadata_text: str, *, created_at: float, replaced: tuple[int, str] | None
    ) -> None:
        values = (
            image.id,
            image.content_hash,
            image.media_type,
            image.width,
            image.height,
            len(image.content),
            metadata_text,
            image.caption,
            self.sequence + 1,
            created_at,
            self._clock(),
        )
        cursor = self.connection.execute(
            "INSERT INTO images(name, content_hash, media_type, width, height, num_bytes, metadata, caption, "
            "sequence, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        number = cursor.lastrowid
        assert number is not None
        pair = np.concatenate([image.appearance, image.structure]).astype("<f4")
        self.connection.execute(
            "INSERT INTO vectors(fingerprint, image, pair) VALUES (?, ?, ?)",
            (self._key, number, pair.tobytes()),
        )
        self._write_fields(number, metadata_text)
        removed, released = replaced or (None, None)
        added = (number, pair.astype(np.float32, copy=False))
        self._log(VectorChange(added=added, removed=removed, released=released))

    def _describe(self, number: int, metadata_text: str, caption: str | None) -> None:
        self.connection.execute(
            "UPDATE images SET metadata = ?, caption = ?, sequence = ?, updated_at = ? WHERE id = ?",
            (metadata_text, caption, self.sequence + 1, self._clock(), number),
        )
        self.connection.execute("DELETE FROM fields WHERE image = ?", (number,))
        self._write_fields(number, metadata_text)
        self._log(VectorChange())

    def _write_fields(self, number: int, metadata_text: str) -> None:
        rows = [(number, *row) for row in field_rows(json.loads(metadata_text))]
        self.connection.executemany("INSERT INTO fields(image, path, kind, value) VALUES (?, ?, ?, ?)", rows)

    def _log(self, change: VectorChange) -> None:
        self.sequence += 1
        added = change.added[0] if change.added else None
        self.connection.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?)",
            (self.sequence, added, change.removed, secrets.randbits(62) + 1),
        )
        self.changes.append(change)
