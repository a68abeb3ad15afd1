"""Exact search on the CPU where FAISS is installed."""

from __future__ import annotations

from index.engine import EngineKind, NumpyEngine


class FlatEngine(NumpyEngine):
    """An exact scan over a block of vectors that we own; what a filter lets through, FAISS scores where it lies.

    ``IndexFlatIP`` moves everything behind a removed vector; our table moves one row. And for one query it takes the
    inner products one by one on one core.
    """

    kind = EngineKind.FLAT
