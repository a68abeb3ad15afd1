"""The SQLite catalogue, the source of truth: its connections, and everything that is read from it.

Inside, a picture is known by its *number*. A number stands for one content for ever: replacing the content
gives the picture a new number, and numbers are never used again. So a nearest-neighbour engine that holds a
number can be behind the catalogue, but never hold a wrong vector.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from index.catalogue_file import connect, open_prepared, register_fingerprint
from index.collection import ImageRecord
from index.errors import CollectionClosedError, storage_error
from index.filter_sql import SqlValue, leaf_test, to_sql
from index.filters import All, AnyOf, Filter, Not
from index.metadata_summary import FieldSummary, summarise_counts

_BATCH_ROWS = 2048

Numbers = NDArray[np.int64]
Matrix = NDArray[np.float32]

_RECORD_COLUMNS = (
    "images.id, name, content_hash, media_type, width, height, num_bytes, metadata, caption, sequence, "
    "created_at, updated_at"
)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A record with the number that the engines know the picture by."""

    number: int
    record: ImageRecord


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the vectors after some sequence number, each picture once, in its present state."""

    sequence: int
    added: Numbers
    removed: Numbers


class Catalogue:
    """The catalogue of one folder, read as one model sees it."""

    def __init__(self, path: Path, *, fingerprint: str, dimension: int) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.dimension = dimension
        self._free: list[sqlite3.Connection] = []
        self._lock = Lock()
        self._is_closed = False
        self.writer = open_prepared(path)
        with ExitStack() as undo:
            undo.callback(self.writer.close)
            try:
                self.fingerprint_key = register_fingerprint(self.writer, fingerprint, dimension)
            except sqlite3.Error as error:
                raise storage_error(error, f"opening {path}") from error
            undo.pop_all()

    @contextmanager
    def read(self) -> Iterator[CatalogueReader]:
        """Look at one committed state of the catalogue for as long as the block lasts."""
        connection = self._take()
        try:
            connection.execute("BEGIN")
            yield self.reader_on(connection)
        except sqlite3.Error as error:
            raise storage_error(error, "reading the catalogue") from error
        finally:
            if connection.in_transaction:
                connection.rollback()
            self._give_back(connection)

    def reader_on(self, connection: sqlite3.Connection) -> CatalogueReader:
        """Read through a given connection, for example inside a transaction that writes."""
        return CatalogueReader(connection, self.fingerprint, self.fingerprint_key, self.dimension)

    def close(self) -> None:
        """Close every connection; reads in progress finish."""
        with self._lock:
            self._is_closed = True
            free, self._free = self._free, []
        for connection in free:
            connection.close()
        self.writer.close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._is_closed:
                raise CollectionClosedError("the collection is closed")
            if self._free:
                return self._free.pop()
        try:
            connection = connect(self.path)
            connection.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            raise storage_error(error, f"opening {self.path}") from error
        return connection

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._is_closed:
                self._free.append(connection)
                return
        connection.close()


class CatalogueReader:
    """One committed state of the catalogue."""

    def __init__(self, connection: sqlite3.Connection, fingerprint: str, fingerprint_key: int, dimension: int) -> None:
        self._connection = connection
        self._fingerprint = fingerprint
        self._key = fingerprint_key
        self._width = 2 * dimension

    def sequence(self) -> int:
        """Return the last committed change."""
        return int(self._meta("sequence"))

    def identity(self) -> str:
        """Return the random name of this collection."""
        return str(self._meta("identity"))

    def mark(self, sequence: int) -> int:
        """Return the random number drawn for a change, 0 when it is unknown: two histories differ in it."""
        row = self._connection.execute("SELECT mark FROM changes WHERE sequence = ?", (sequence,)).fetchone()
        return int(row[0]) if row else 0

    def find(self, name: str) -> StoredImage | None:
        """Return the picture with this id."""
        sql = f"SELECT {_RECORD_COLUMNS} FROM images WHERE name = ?"  # noqa: S608 - constants
        row = self._connection.execute(sql, (name,)).fetchone()
        return self._stored(row) if row else None

    def find_content(self, content_hash: str) -> StoredImage | None:
        """Return the oldest picture with this content."""
        sql = f"SELECT {_RECORD_COLUMNS} FROM images WHERE content_hash = ? ORDER BY id LIMIT 1"  # noqa: S608
        row = self._connection.execute(sql, (content_hash,)).fetchone()
        return self._stored(row) if row else None

    def records(self, numbers: Sequence[int]) -> list[StoredImage]:
        """Return those of these pictures that are there, in no order."""
        found: list[StoredImage] = []
        for chunk in _chunks(numbers):
            sql = f"SELECT {_RECORD_COLUMNS} FROM images WHERE id IN ({_marks(chunk)})"  # noqa: S608
            found += [self._stored(row) for row in self._connection.execute(sql, chunk)]
        return found

    def names(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return the ids of those of these pictures that are there."""
        found: dict[int, str] = {}
        for chunk in _chunks(numbers):
            sql = f"SELECT id, name FROM images WHERE id IN ({_marks(chunk)})"  # noqa: S608
            found.update(self._connection.execute(sql, chunk).fetchall())
        return found

    def page(self, condition: Filter | None, *, below: int | None, limit: int) -> list[ImageRecord]:
        """Return records from the newest change to the oldest, starting below a sequence number."""
        where, parameters = _where(condition)
        if below is not None:
            where, parameters = f"{where} AND sequence < ?", [*parameters, below]
        sql = f"SELECT {_RECORD_COLUMNS} FROM images WHERE {where} ORDER BY sequence DESC LIMIT ?"  # noqa: S608
        return [self._stored(row).record for row in self._connection.execute(sql, [*parameters, limit])]

    def matching(self, condition: Filter) -> Numbers:
        """Return the numbers of the pictures that meet a condition, ascending."""
        match condition:
            case All(conditions):
                return reduce(partial(np.intersect1d, assume_unique=True), map(self.matching, conditions))
            case AnyOf(conditions):
                return reduce(np.union1d, map(self.matching, conditions))
            case Not(inner):
                return np.setdiff1d(self._ids("id", "images", "1", []), self.matching(inner), assume_unique=True)
            case _:
                return self._ids("image", "fields", *leaf_test(condition))

    def _ids(self, column: str, table: str, where: str, parameters: Sequence[SqlValue]) -> Numbers:
        # As one text: rows that each become a tuple and a number of Python take ten times as long.
        sql = f"SELECT group_concat({column}) FROM {table} WHERE {where}"  # noqa: S608 - parameters are bound
        text = self._connection.execute(sql, parameters).fetchone()[0]
        return np.unique(np.fromstring(text or "", dtype=np.int64, sep=","))

    def count(self) -> int:
        """Count all pictures."""
        return int(self._connection.execute("SELECT count(*) FROM images").fetchone()[0])

    def fields(self, max_pictures: int) -> tuple[FieldSummary, ...]:
        """Summarise the metadata of the pictures added last."""
        newest = "SELECT id FROM images ORDER BY id DESC LIMIT 1 OFFSET ?"
        row = self._connection.execute(newest, (max_pictures,)).fetchone()
        after = row[0] if row else 0
        values = self._connection.execute(
            "SELECT path, kind, value, count(*) FROM fields WHERE image > ? GROUP BY path, kind, value", (after,)
        )
        num_images = self._connection.execute(
            "SELECT path, count(DISTINCT image) FROM fields WHERE image > ? GROUP BY path", (after,)
        )
        return summarise_counts(values.fetchall(), dict(num_images.fetchall()))

    def count_vectors(self) -> int:
        """Count the pictures that have vectors of this model."""
        sql = "SELECT count(*) FROM vectors WHERE fingerprint = ?"
        return int(self._connection.execute(sql, (self._key,)).fetchone()[0])

    def other_fingerprints(self) -> tuple[str, ...]:
        """List the models, other than this one, that some stored vectors are of."""
        sql = (
            "SELECT name FROM fingerprints WHERE id <> ? AND EXISTS "
            "(SELECT 1 FROM vectors WHERE fingerprint = fingerprints.id) ORDER BY id"
        )
        return tuple(name for (name,) in self._connection.execute(sql, (self._key,)))

    def numbers(self) -> Numbers:
        """Return the numbers of all pictures that have vectors of this model, ascending."""
        rows = self._connection.execute("SELECT image FROM vectors WHERE fingerprint = ? ORDER BY image", (self._key,))
        return np.fromiter((row[0] for row in rows), dtype=np.int64)

    def pairs(self, numbers: Sequence[int]) -> tuple[Numbers, Matrix]:
        """Return the vectors of those of these pictures that are there, in no order."""
        rows: list[tuple[int, bytes]] = []
        for chunk in _chunks(numbers):
            sql = f"SELECT image, pair FROM vectors WHERE fingerprint = ? AND image IN ({_marks(chunk)})"  # noqa: S608
            rows += self._connection.execute(sql, [self._key, *chunk]).fetchall()
        return self._arrays(rows)

    def pair(self, name: str) -> NDArray[np.float32] | None:
        """Return the vectors of the picture with this id, ``None`` when there is none."""
        sql = "SELECT pair FROM images JOIN vectors ON image = images.id WHERE name = ? AND fingerprint = ?"
        row = self._connection.execute(sql, (name, self._key)).fetchone()
        return self._pairs_of([row[0]])[0] if row else None

    def all_pairs(self) -> Iterator[tuple[Numbers, Matrix]]:
        """Yield all vectors of this model in batches, by ascending number."""
        rows = self._connection.execute(
            "SELECT image, pair FROM vectors WHERE fingerprint = ? ORDER BY image", (self._key,)
        )
        while batch := rows.fetchmany(_BATCH_ROWS):
            yield self._arrays(batch)

    def changes_after(self, sequence: int) -> Changes | None:
        """Return what changed after a sequence number, or ``None`` when the log no longer goes back that far."""
        if sequence < int(self._meta("pruned")):
            return None
        log = self._connection.execute("SELECT added, removed FROM changes WHERE sequence > ?", (sequence,)).fetchall()
        touched = {number for row in log for number in row if number is not None}
        present: set[int] = set()
        for chunk in _chunks(sorted(touched)):
            sql = f"SELECT image FROM vectors WHERE fingerprint = ? AND image IN ({_marks(chunk)})"  # noqa: S608
            present.update(number for (number,) in self._connection.execute(sql, [self._key, *chunk]))
        return Changes(self.sequence(), _int64(sorted(present)), _int64(sorted(touched - present)))

    def referenced(self, content_hashes: Sequence[str]) -> set[str]:
        """Return those of these contents that some picture has."""
        found: set[str] = set()
        for start in range(0, len(content_hashes), 500):
            chunk = content_hashes[start : start + 500]
            sql = f"SELECT content_hash FROM images WHERE content_hash IN ({_marks(chunk)})"  # noqa: S608
            found.update(each for (each,) in self._connection.execute(sql, chunk))
        return found

    def _meta(self, key: str) -> int | str:
        value: int | str = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]
        return value

    def _stored(self, row: tuple[int, str, str, str, int, int, int, str, str | None, int, float, float]) -> StoredImage:
        number, name, content_hash, media_type, width, height, num_bytes, metadata, caption, *rest = row
        sequence, created_at, updated_at = rest
        record = ImageRecord(
            id=name,
            content_hash=content_hash,
            media_type=media_type,
            width=width,
            height=height,
            num_bytes=num_bytes,
            metadata=from_json(metadata),
            caption=caption,
            fingerprint=self._fingerprint,
            sequence=int(sequence),
            created_at=float(created_at),
            updated_at=float(updated_at),
        )
        return StoredImage(number, record)

    def _arrays(self, rows: Sequence[tuple[int, bytes]]) -> tuple[Numbers, Matrix]:
        numbers = _int64([number for number, _ in rows])
        return numbers, self._pairs_of([pair for _, pair in rows])

    def _pairs_of(self, stored: Sequence[bytes]) -> Matrix:
        pairs = np.frombuffer(b"".join(stored), dtype="<f4").astype(np.float32, copy=False)
        return pairs.reshape(len(stored), self._width)


def _where(condition: Filter | None) -> tuple[str, list[str | int | float | None]]:
    return ("1", []) if condition is None else to_sql(condition)


def _chunks(numbers: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), 500):
        yield [int(number) for number in numbers[start : start + 500]]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _int64(values: Sequence[int]) -> Numbers:
    return np.array(values, dtype=np.int64)
