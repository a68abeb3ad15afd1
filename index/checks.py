"""What every collection refuses to store or to search with, with the reason."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import JsonValue

from index.collection import Metadata, NewImage, Vector
from index.errors import InvalidImageError, InvalidQueryError

MAX_ID_BYTES = 512
MAX_METADATA_LEVELS = 32
_UNIT_TOLERANCE = 1e-2


def check_images(images: Sequence[NewImage], dimension: int) -> None:
    """Refuse pictures that cannot be stored.

    Raises:
        InvalidImageError: With the id, what was received and what was expected.
    """
    for image in images:
        check_text(image.id, "id")
        num_bytes = len(image.id.encode())
        if not 1 <= num_bytes <= MAX_ID_BYTES:
            raise InvalidImageError(f"expected an id of 1 to {MAX_ID_BYTES} bytes; got {num_bytes}")
        actual = hashlib.sha256(image.content).hexdigest()
        if actual != image.content_hash:
            raise InvalidImageError(
                f"{image.id!r}: the content has SHA-256 {actual}; its content_hash is {image.content_hash!r}"
            )
        if image.caption is not None:
            check_text(image.caption, f"{image.id!r}: caption")
        _check_vector(image.appearance, f"{image.id!r}: appearance", dimension)
        _check_vector(image.structure, f"{image.id!r}: structure", dimension)


def check_text(text: str, what: str) -> None:
    """Refuse text that is not valid Unicode or holds U+0000.

    Raises:
        InvalidImageError: With what the text is.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidImageError(f"{what}: the text is not valid Unicode (a lone surrogate)") from None
    if "\x00" in text:
        raise InvalidImageError(f"{what}: the text cannot hold the character U+0000")


def encode_metadata(metadata: Metadata) -> str:
    """Write metadata as JSON text, keys in order, so that equal metadata gives equal text.

    Raises:
        InvalidImageError: If it is not a JSON object of finite numbers, or is nested too deeply.
    """
    _check_json(metadata, "metadata", 0)
    try:
        return json.dumps(
            metadata, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=dict
        )
    except (ValueError, TypeError) as error:
        raise InvalidImageError(f"metadata: {error}; expected a JSON object") from error


def check_query(query: Vector, dimension: int, limit: int) -> Vector:
    """Return the query as a contiguous float32 array, or refuse it.

    Raises:
        InvalidQueryError: If its shape is not ``(2 D,)``, a number is not finite, or ``limit`` is below 1.
    """
    if query.shape != (2 * dimension,):
        raise InvalidQueryError(f"expected a query of shape ({2 * dimension},); got {query.shape}")
    if not np.isfinite(query).all():
        raise InvalidQueryError("expected a query of finite numbers; got NaN or infinity")
    check_limit(limit)
    return np.ascontiguousarray(query, dtype=np.float32)


def check_limit(limit: int) -> None:
    """Refuse a page of no items.

    Raises:
        InvalidQueryError: If ``limit`` is below 1.
    """
    if limit < 1:
        raise InvalidQueryError(f"expected a limit of at least 1; got {limit}")


def _check_vector(vector: Vector, what: str, dimension: int) -> None:
    if vector.shape != (dimension,):
        raise InvalidImageError(f"{what}: expected a vector of shape ({dimension},); got {vector.shape}")
    norm = float(np.linalg.norm(vector))
    if not abs(norm - 1.0) <= _UNIT_TOLERANCE:  # written so that NaN is refused too
        raise InvalidImageError(f"{what}: expected a unit vector; got one of length {norm:.4g}")


def _check_json(value: JsonValue | Metadata, where: str, level: int) -> None:
    if level > MAX_METADATA_LEVELS:
        raise InvalidImageError(f"{where}: nested more than {MAX_METADATA_LEVELS} levels deep")
    match value:
        case str():
            check_text(value, where)
        case float():
            if not math.isfinite(value):
                raise InvalidImageError(f"{where}: expected a finite number; got {value}")
        case Mapping():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise InvalidImageError(f"{where}: expected string keys; got {key!r}")
                check_text(key, where)
                _check_json(inner, f"{where}.{key}"[:120], level + 1)
        case list():
            for inner in value:
                _check_json(inner, where, level + 1)
        case None | bool() | int():
            pass
        case _:
            raise InvalidImageError(f"{where}: expected JSON; got {type(value).__name__}")
