"""What can go wrong with a collection.

CollectionError
├── FilterError (ValueError)            a metadata condition that cannot be read
├── InvalidCursorError (ValueError)     a cursor that is damaged or belongs to another query
├── InvalidImageError (ValueError)      a picture, id or metadata that cannot be stored
├── InvalidQueryError (ValueError)      a query vector or limit that cannot be searched with
├── NotReadyError                       the index is still being loaded
├── WouldWaitError                      a search that may not wait would have to
├── CollectionClosedError               the collection was closed
├── CollectionLockedError               another process has the collection open
├── FingerprintMismatchError            stored vectors were made by another model
├── NotSupportedError                   this kind of collection cannot do that
├── BackupError                         a backup cannot be written or restored
└── StorageError                        the disk or the catalogue failed
    ├── StorageFullError                no space left
    ├── SchemaVersionError              the catalogue was written by a newer version
    └── SnapshotError                   a snapshot of the index is missing, damaged or foreign
"""

from __future__ import annotations

import errno
import sqlite3


class CollectionError(Exception):
    """Anything that a collection refuses or fails to do."""


class FilterError(CollectionError, ValueError):
    """A metadata condition that cannot be read; the message begins with the JSON path of the fault."""


class InvalidCursorError(CollectionError, ValueError):
    """A cursor that is damaged, or that belongs to another query or filter."""


class InvalidImageError(CollectionError, ValueError):
    """A picture whose id, vectors or metadata cannot be stored."""


class InvalidQueryError(CollectionError, ValueError):
    """A query vector or limit that cannot be searched with."""


class NotReadyError(CollectionError):
    """The index is still being loaded; try again soon."""


class WouldWaitError(CollectionError):
    """A change is being brought in, and the search was not to wait for it."""


class CollectionClosedError(CollectionError):
    """The collection was closed."""


class CollectionLockedError(CollectionError):
    """Another process has the collection open."""


class FingerprintMismatchError(CollectionError):
    """Some stored pictures have no vectors of the model that is asked for.

    Attributes:
        num_missing: Pictures without vectors of the asked model.
        asked: Fingerprint asked for.
        stored: Fingerprints that the stored vectors have.
    """

    def __init__(self, message: str, *, num_missing: int, asked: str, stored: tuple[str, ...]) -> None:
        super().__init__(message)
        self.num_missing = num_missing
        self.asked = asked
        self.stored = stored


class NotSupportedError(CollectionError):
    """This kind of collection cannot do that."""


class BackupError(CollectionError):
    """A backup cannot be written, or does not hold what it should."""


class StorageError(CollectionError):
    """The disk or the catalogue failed; what was being written is not stored."""


class StorageFullError(StorageError):
    """No space is left; what was being written is not stored, and writing works again once there is space."""


class SchemaVersionError(StorageError):
    """The catalogue was written by a newer version of this program."""


class SnapshotError(StorageError):
    """A snapshot of the index is missing, damaged, or of another collection."""


_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_error(error: OSError | sqlite3.Error, doing: str) -> StorageError:
    """Translate what the system said into our error.

    Args:
        error: From a file operation or from SQLite.
        doing: What was being done, for example ``writing the original``.
    """
    name = getattr(error, "sqlite_errorname", "")
    is_full = name == "SQLITE_FULL" or getattr(error, "errno", None) in _FULL_ERRNOS
    if is_full:
        return StorageFullError(f"no space left while {doing} ({error}); free some space and try again")
    return StorageError(f"the storage failed while {doing}: {error}" + (f" ({name})" if name else ""))
