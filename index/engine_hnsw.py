"""Approximate search with FAISS: a navigable graph over exact vectors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.engine import Candidates, EngineKind, EngineState

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

NUM_LINKS = 32
_MAX_DEAD_SHARE = 0.25


def new_graph(width: int) -> Any:
    """Return an empty FAISS graph."""
    index = faiss.IndexHNSWFlat(width, NUM_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    return index


class HnswEngine:
    """A graph that only grows: a removed vector stays as a way through, and is left out of results."""

    kind = EngineKind.HNSW
    is_exact = False
    over_fetch = 1  # its scores are exact; what it misses, it never met

    def __init__(self, index: Any, *, ef_search: int, slots: Numbers) -> None:
        """Wrap a graph.

        Args:
            index: A FAISS HNSW index.
            ef_search: Candidates kept while walking the graph.
            slots: The number in each place of the graph, -1 where it was removed.
        """
        self._index = index
        self.ef_search = ef_search
        self._slots = slots
        self._places = {int(number): place for place, number in enumerate(slots) if number >= 0}
        self._plain: Any = None

    @property
    def parameters(self) -> Mapping[str, float]:
        """Candidates kept while walking."""
        return {"ef_search": self.ef_search}

    @property
    def needs_rebuild(self) -> bool:
        """Too much of the graph is dead."""
        num_dead = len(self._slots) - len(self._places)
        return num_dead > 64 and num_dead > _MAX_DEAD_SHARE * len(self._slots)

    def __len__(self) -> int:
        return len(self._places)

    def numbers(self) -> Numbers:
        """Return what it holds."""
        return np.array(sorted(self._places), dtype=np.int64)

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Link these into the graph."""
        is_new = np.array([number not in self._places for number in numbers.tolist()], dtype=bool)
        numbers = numbers[is_new]
        if not len(numbers):
            return
        start = len(self._slots)
        self._index.add(np.ascontiguousarray(vectors[is_new]))
        self._slots = np.concatenate([self._slots, numbers])
        self._places.update(zip(numbers.tolist(), range(start, start + len(numbers)), strict=True))

    def remove(self, numbers: Numbers) -> None:
        """Mark these as dead."""
        for number in numbers.tolist():
            place = self._places.pop(number, None)
            if place is not None:
                self._slots[place] = -1

    def search(self, query: Vector, k: int, allowed: Numbers | None = None) -> Candidates:
        """Walk the graph."""
        if not self._places:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        selector, bits = None, None
        if allowed is not None or len(self._places) < len(self._slots):
            is_wanted = self._slots >= 0 if allowed is None else np.isin(self._slots, allowed)
            bits = np.packbits(is_wanted, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        k = min(k, len(self))
        ef_search = max(self.ef_search, k)
        if selector is None:
            parameters = self._plain_parameters(ef_search)
        else:
            parameters = faiss.SearchParametersHNSW(efSearch=ef_search, sel=selector)
        scores, places = self._index.search(query[None], k, params=parameters)
        is_found = places[0] >= 0
        return Candidates(self._slots[places[0][is_found]], scores[0][is_found])

    def _plain_parameters(self, ef_search: int) -> Any:
        """Return parameters without a selector; making them anew is a tenth of a search."""
        parameters = self._plain
        if parameters is None or parameters.efSearch != ef_search:
            self._plain = parameters = faiss.SearchParametersHNSW(efSearch=ef_search)
        return parameters

    def vectors(self, numbers: Numbers) -> Matrix:
        """Return a copy of these vectors."""
        places = [self._places[number] for number in numbers.tolist() if number in self._places]
        if not places:
            return np.empty((0, self._index.d), dtype=np.float32)
        rows: Matrix = self._index.reconstruct_batch(np.array(places, dtype=np.int64))
        return rows

    def state(self) -> EngineState:
        """Copy itself out."""
        arrays: dict[str, NDArray[Any]] = {
            "index": faiss.serialize_index(self._index),
            "slots": self._slots.copy(),
        }
        return EngineState(self.kind, {"ef_search": self.ef_search}, arrays)
