"""The file of the catalogue: its tables, and opening it durably."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import ExitStack
from pathlib import Path

from index.errors import SchemaVersionError, StorageError, storage_error

SCHEMA_VERSION = 1
CATALOGUE_NAME = "catalogue.sqlite"
_BUSY_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE images(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    content_hash TEXT NOT NULL,
    media_type TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    caption TEXT,
    sequence INTEGER NOT NULL UNIQUE,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
CREATE INDEX images_by_content ON images(content_hash);
CREATE TABLE fingerprints(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dimension INTEGER NOT NULL);
CREATE TABLE vectors(
    fingerprint INTEGER NOT NULL REFERENCES fingerprints(id),
    image INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    pair BLOB NOT NULL,
    PRIMARY KEY(fingerprint, image)
);
CREATE INDEX vectors_by_image ON vectors(image);
CREATE TABLE fields(
    image INTEGER NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    path TEXT NOT NULL,
    kind TEXT NOT NULL,
    value
);
CREATE INDEX fields_by_value ON fields(path, kind, value, image);
CREATE INDEX fields_by_image ON fields(image);
CREATE TABLE changes(sequence INTEGER PRIMARY KEY, added INTEGER, removed INTEGER, mark INTEGER NOT NULL);
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the catalogue file durably: write-ahead log, every commit flushed to the disk."""
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    with ExitStack() as undo:
        undo.callback(connection.close)
        connection.execute("PRAGMA page_size = 8192")  # only a new file listens; holds a row with a pair of vectors
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        undo.pop_all()
    return connection


def prepare_schema(connection: sqlite3.Connection) -> None:
    """Make the tables in a new file, and refuse a file of a newer version.

    Raises:
        SchemaVersionError: If a newer version of this program wrote the file.
        StorageError: If it is not a catalogue.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise SchemaVersionError(
            f"the catalogue has schema version {version}, this program knows up to {SCHEMA_VERSION}; "
            "use the version of the program that wrote it, or a newer one"
        )
    if version == SCHEMA_VERSION:
        return
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise StorageError("the file is an SQLite database, but not a catalogue of ours; choose another folder")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
    meta = [("sequence", 0), ("pruned", 0), ("identity", secrets.token_hex(16))]
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    connection.execute("COMMIT")


def open_prepared(path: Path) -> sqlite3.Connection:
    """Open the catalogue file, making its tables when it is new.

    Raises:
        SchemaVersionError: If a newer version of this program wrote the file.
        StorageError: If it is not a catalogue, or the disk fails.
    """
    with ExitStack() as undo:
        try:
            connection = connect(path)
            undo.callback(connection.close)
            prepare_schema(connection)
        except sqlite3.Error as error:
            raise storage_error(error, f"opening {path}") from error
        undo.pop_all()
    return connection


def register_fingerprint(connection: sqlite3.Connection, fingerprint: str, dimension: int) -> int:
    """Return the key of a model in the catalogue, making one when it is new.

    Raises:
        StorageError: If the model is known with another dimension.
    """
    find = "SELECT id, dimension FROM fingerprints WHERE name = ?"
    row = connection.execute(find, (fingerprint,)).fetchone()
    if row is None:
        connection.execute(
            "INSERT OR IGNORE INTO fingerprints(name, dimension) VALUES (?, ?)", (fingerprint, dimension)
        )
        row = connection.execute(find, (fingerprint,)).fetchone()
    key, stored = row
    if stored != dimension:
        raise StorageError(
            f"the collection holds vectors of {fingerprint!r} with dimension {stored}; asked for dimension {dimension}"
        )
    return int(key)
