"""Exact search on the CPU, with FAISS for filters."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from index.catalogue import Numbers
from index.collection import Vector
from index.engine import MUCH_ALLOWED, Candidates, EngineKind, NumpyEngine, among

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")


class FlatEngine(NumpyEngine):
    """An exact scan over a block of vectors that we own: by `inner_products`, or where a filter leaves few, by FAISS.

    ``IndexFlatIP`` moves everything behind a removed vector; our table moves one row. And for one query it takes the
    inner products one by one on one core.
    """

    kind = EngineKind.FLAT

    def search(self, query: Vector, k: int, allowed: Numbers | None = None) -> Candidates:
        """Return the ``k`` best."""
        rows = self._table.rows
        if allowed is None or len(allowed) > MUCH_ALLOWED * len(rows):
            return super().search(query, k, allowed)
        is_allowed = among(self._table.numbers, allowed)
        k = min(k, int(is_allowed.sum()))
        if k == 0:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        bits = np.packbits(is_allowed, bitorder="little")
        scores = np.empty(k, dtype=np.float32)
        positions = np.empty(k, dtype=np.int64)
        faiss.knn_inner_product(
            faiss.swig_ptr(query),
            faiss.swig_ptr(rows),
            rows.shape[1],
            1,
            len(rows),
            k,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(positions),
            faiss.IDSelectorBitmap(bits),
        )
        return Candidates(self._table.numbers[positions], scores)
