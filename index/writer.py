"""The one thread that writes: requests wait in a queue, and many of them share one commit.

A flush to the disk costs the same for one request as for a hundred, so the thread takes everything that is
waiting into one transaction. Each request stands in a savepoint of its own: one that fails is undone and
told so, the others go on.
"""

from __future__ import annotations

import queue
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any, TypeVar

from index.catalogue_writes import CatalogueTransaction, VectorChange
from index.errors import CollectionClosedError, CollectionError, StorageError, storage_error

ResultT = TypeVar("ResultT")
Operation = Callable[[CatalogueTransaction], ResultT]
Committed = Callable[[int, Sequence[VectorChange]], None]


@dataclass(slots=True)
class _Request:
    operation: Operation[Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None


class Writer:
    """Runs operations in transactions, in the order they came.

    Args:
        connection: Used by this thread alone from now on.
        fingerprint_key: The model whose vectors are written.
        committed: Called in the writer thread after each commit, before the requests are answered.
        max_group: Most requests in one transaction.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        fingerprint_key: int,
        committed: Committed,
        *,
        max_group: int = 256,
    ) -> None:
        self._connection = connection
        self._key = fingerprint_key
        self._committed = committed
        self._max_group = max_group
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lock = Lock()
        self._is_closed = False
        self._thread = Thread(target=self._run, name="collection-writer", daemon=True)
        self._thread.start()

    def run(self, operation: Operation[ResultT]) -> ResultT:
        """Run an operation in a transaction and return its result once that is durable and applied.

        Raises:
            StorageError: If the disk fails or is full; nothing of the operation is stored.
        """
        request = _Request(operation)
        with self._lock:
            if self._is_closed:
                raise CollectionClosedError("the collection is closed")
            self._queue.put(request)
        result: ResultT = request.future.result()
        return result

    def close(self) -> None:
        """Finish what is waiting and stop."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group: list[_Request] = []
            item = self._queue.get()
            while item is not None:
                group.append(item)
                if len(group) >= self._max_group or self._queue.empty():
                    break
                item = self._queue.get()
            is_open = item is not None
            if group:
                self._write(group)

    def _write(self, group: list[_Request]) -> None:
        try:
            transaction, done = self._transact(group)
        except (sqlite3.Error, OSError) as error:
            self._roll_back()
            self._fail(group, storage_error(error, "writing to the catalogue"))
            return
        except BaseException as error:  # noqa: BLE001 - whatever happens, nobody may wait for ever
            self._roll_back()
            self._fail(group, StorageError(f"the writer failed: {error!r}"))
            return
        self._committed(transaction.sequence, transaction.changes)
        for request in done:
            request.future.set_result(request.result)

    def _transact(self, group: list[_Request]) -> tuple[CatalogueTransaction, list[_Request]]:
        self._connection.execute("BEGIN IMMEDIATE")
        transaction = CatalogueTransaction(self._connection, self._key)
        done = [request for request in group if self._attempt(request, transaction)]
        transaction.finish()
        self._connection.execute("COMMIT")
        return transaction, done

    def _attempt(self, request: _Request, transaction: CatalogueTransaction) -> bool:
        sequence, num_changes = transaction.sequence, len(transaction.changes)
        self._connection.execute("SAVEPOINT request")
        try:
            request.result = request.operation(transaction)
        except Exception as error:
            if not self._connection.in_transaction:
                raise  # SQLite has undone the whole transaction: the disk failed
            self._connection.execute("ROLLBACK TO request")
            self._connection.execute("RELEASE request")
            transaction.sequence = sequence
            del transaction.changes[num_changes:]
            self._fail([request], _typed(error))
            return False
        self._connection.execute("RELEASE request")
        return True

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                return  # the next BEGIN says what is wrong

    def _fail(self, group: Sequence[_Request], error: CollectionError) -> None:
        for request in group:
            if not request.future.done():
                request.future.set_exception(error)


def _typed(error: Exception) -> CollectionError:
    if isinstance(error, CollectionError):
        return error
    if isinstance(error, sqlite3.Error | OSError):
        return storage_error(error, "writing to the catalogue")
    return StorageError(f"the request could not be written: {error!r}")
