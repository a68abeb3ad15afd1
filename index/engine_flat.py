"""Exact search with FAISS on the CPU."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from index.catalogue import Numbers
from index.collection import Vector
from index.engine import Candidates, EngineKind, NumpyEngine, among

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")


class FlatEngine(NumpyEngine):
    """FAISS's exact inner-product scan, the one behind ``IndexFlatIP``, over a block of vectors that we own.

    ``IndexFlatIP`` moves everything behind a removed vector; our table moves one row.
    """

    kind = EngineKind.FLAT

    def search(self, query: Vector, k: int, allowed: Numbers | None = None) -> Candidates:
        """Return the ``k`` best."""
        rows = self._table.rows
        k = min(k, len(rows))
        if k == 0:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        selector, bits = None, None
        if allowed is not None:
            is_allowed = among(self._table.numbers, allowed)
            k = min(k, int(is_allowed.sum()))
            if k == 0:
                return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
            bits = np.packbits(is_allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
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
            selector,
        )
        is_found = positions >= 0
        return Candidates(self._table.numbers[positions[is_found]], scores[is_found])
