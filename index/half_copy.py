"""A copy of some vectors, side by side and in half precision: of what a filter lets through, while that is in use.

Scanning it reads a quarter or less of what scoring the vectors takes where an engine keeps them: half the bytes, and no
jumps. It misses nothing, since it tells how far its scores may be off.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.engine import Candidates

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")


class HalfCopy:
    """Numbers with vectors of 16 bits a number; never changed once it is made.

    Attributes:
        error: By how much a score may differ from that of the exact vector, per unit of query length, beside the
            rounding of float32 sums. Some 0.0003 for pairs of unit vectors.
    """

    def __init__(self, width: int, parts: Iterable[tuple[Numbers, Matrix]]) -> None:
        """Copy vectors.

        Args:
            width: Of a vector.
            parts: Numbers and their vectors, each number once.
        """
        self._index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self.error = 0.0
        held = [np.empty(0, dtype=np.int64)]
        for numbers, vectors in parts:
            held.append(numbers)
            self._index.add(np.ascontiguousarray(vectors))
            # |q . x - q . y| <= |q| |x - y|
            halves = self._index.reconstruct_n(len(self) - len(numbers), len(numbers))
            self.error = max(self.error, float(np.linalg.norm(halves - vectors, axis=1).max(initial=0)))
        self._numbers = np.concatenate(held)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return bytes_of_half_copy(len(self), int(self._index.d))

    def search(self, query: Vector, k: int) -> Candidates:
        """Return the ``k`` best, or all where there are fewer."""
        scores, places = self._index.search(query[None], min(k, len(self)))
        return Candidates(self._numbers[places[0]], scores[0])


def bytes_of_half_copy(num_vectors: int, width: int) -> int:
    """Return what a copy of so many vectors takes in memory."""
    return num_vectors * (2 * width + 8)
