"""Opaque cursors: where the next page starts, bound to the question that the page before answered."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.errors import InvalidCursorError
from index.filters import Filter

_MAX_CHARS = 4096
_CHECK_BYTES = 6


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """The last hit of the page before.

    Attributes:
        score: Its score.
        id: Its id.
        num_seen: Hits on all pages before; only a hint of how many candidates to ask an engine for.
    """

    score: float
    id: str
    num_seen: int


def list_question(condition: Filter | None) -> str:
    """Name a listing, so that its cursor is refused elsewhere."""
    return _digest(b"list", repr(condition).encode())


def search_question(query: NDArray[np.float32], condition: Filter | None, min_score: float | None) -> str:
    """Name a search, so that its cursor is refused elsewhere."""
    return _digest(b"search", query.tobytes(), repr(condition).encode(), repr(min_score).encode())


def list_cursor(question: str, sequence: int) -> str:
    """Point behind the record with this sequence number."""
    return _encode([question, sequence])


def read_list_cursor(cursor: str, question: str) -> int:
    """Return the sequence number to list below.

    Raises:
        InvalidCursorError: If the cursor is damaged or of another listing.
    """
    match _decode(cursor, question):
        case [int(sequence)] if not isinstance(sequence, bool):
            return sequence
    raise InvalidCursorError("the cursor is not one of a listing; list again without a cursor")


def search_cursor(question: str, position: SearchPosition) -> str:
    """Point behind this hit."""
    return _encode([question, position.score, position.id, position.num_seen])


def read_search_cursor(cursor: str, question: str) -> SearchPosition:
    """Return the last hit of the page before.

    Raises:
        InvalidCursorError: If the cursor is damaged or of another search.
    """
    match _decode(cursor, question):
        case [float(score), str(name), int(num_seen)] if math.isfinite(score) and 0 <= num_seen < 2**40:
            return SearchPosition(score, name, num_seen)
    raise InvalidCursorError("the cursor is not one of a search; search again without a cursor")


def _encode(content: list[JsonValue]) -> str:
    text = json.dumps(content, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_check(text) + text).decode().rstrip("=")


def _decode(cursor: str, question: str) -> list[JsonValue]:
    damaged = InvalidCursorError("the cursor is damaged; pass the one from the page before unchanged, or none")
    if len(cursor) > _MAX_CHARS:
        raise damaged
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        if _check(raw[_CHECK_BYTES:]) != raw[:_CHECK_BYTES]:
            raise damaged
        content = json.loads(raw[_CHECK_BYTES:])
    except ValueError as error:
        raise damaged from error
    if not isinstance(content, list) or not content:
        raise damaged
    if content[0] != question:
        raise InvalidCursorError(
            "the cursor belongs to another query, filter or min_score; repeat the query that it came from, or pass none"
        )
    return content[1:]


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()[:_CHECK_BYTES]


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return base64.urlsafe_b64encode(digest.digest()[:12]).decode()
