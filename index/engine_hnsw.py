"""Approximate search with FAISS: a navigable graph over exact vectors."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.engine import Candidates, EngineKind, EngineState, best_of, places_of
from index.products import inner_products_at

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

NUM_LINKS = 32
_MAX_DEAD_SHARE = 0.25
# So few allowed vectors are scanned whatever the graph costs: half a millisecond at width 512.
_SCANNED_ANYWAY = 4096
# Vectors scanned in the time in which a walk takes one more candidate (0.08 and 2.8 microseconds at width 512).
_SCANNED_A_CANDIDATE = 32
# A filter that keeps a share of the vectors wants ef_search times this, for equal recall. On 100,000 x 512 with 24 to
# 256 for it, shares of 0.75, 0.5, 0.25 and 0.1 wanted about 1, 1.1, 2 and 5 times as much (2026-11-29).
_WIDER, _WIDER_BY_SHARE = 0.2, 0.55
# Candidates for a page of ten hits.
_A_PAGE = 26


def new_graph(width: int) -> Any:
    """Return an empty FAISS graph."""
    index = faiss.IndexHNSWFlat(width, NUM_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    return index


class _Standing(NamedTuple):
    """Where what a filter lets through stands in the graph.

    Attributes:
        places: Ascending.
        is_allowed: For each place.
    """

    places: Numbers
    is_allowed: NDArray[np.bool_]


class HnswEngine:
    """A graph that only grows: a removed vector stays as a way through, and is left out of results."""

    kind = EngineKind.HNSW
    is_exact = False
    has_exact_scores = True
    over_fetch = 1  # what it misses, it never met

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
        self._state = object()  # replaced with every change
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
        self._state = object()
        start = len(self._slots)
        self._index.add(np.ascontiguousarray(vectors[is_new]))
        self._slots = np.concatenate([self._slots, numbers])
        self._places.update(zip(numbers.tolist(), range(start, start + len(numbers)), strict=True))

    def remove(self, numbers: Numbers) -> None:
        """Mark these as dead."""
        self._state = object()
        for number in numbers.tolist():
            place = self._places.pop(number, None)
            if place is not None:
                self._slots[place] = -1

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Few vectors are all scanned: that costs less than the walk that would find them."""
        if num_allowed is None:
            return False
        return num_allowed <= max(_SCANNED_ANYWAY, _SCANNED_A_CANDIDATE * self._wide_ef(_A_PAGE, num_allowed))

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Walk the graph; among few allowed vectors, or where the walk meets too few of them, scan those."""
        k = min(k, len(self) if allowed is None else len(allowed))
        if not self._places or k == 0:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        if allowed is None:
            places, scores = self._walk(query, k, max(self.ef_search, k))
            return Candidates(self._slots[places], scores)
        standing = allowed.made(self._state, self._standing)
        if not self.is_exact_among(len(allowed)):
            # Everything around the query is looked at and what is not allowed is left out afterwards. So enough found
            # means that nothing nearer was passed by, also where the filter goes with what the vectors show.
            ef_search = self._wide_ef(k, len(allowed))
            places, scores = self._walk(query, min(ef_search, len(self)), ef_search)
            which = np.flatnonzero(standing.is_allowed[places])[:k]
            if len(which) == k:
                return Candidates(self._slots[places[which]], scores[which])
        return self._scan(query, k, standing.places)

    def _wide_ef(self, k: int, num_allowed: int) -> int:
        share = min(1.0, num_allowed / max(1, len(self)))
        wider = max(1.0, _WIDER + _WIDER_BY_SHARE / share)
        return math.ceil(max(self.ef_search * wider, (k + 2 * math.sqrt(k)) / share))

    def _walk(self, query: Vector, k: int, ef_search: int) -> tuple[Numbers, NDArray[np.float32]]:
        """Return places in the graph and scores, best first."""
        if len(self._places) == len(self._slots):
            parameters = self._plain_parameters(ef_search)
        else:
            bits = np.packbits(self._slots >= 0, bitorder="little")
            parameters = faiss.SearchParametersHNSW(efSearch=ef_search, sel=faiss.IDSelectorBitmap(bits))
        scores, places = self._index.search(query[None], k, params=parameters)
        is_found = places[0] >= 0
        return places[0][is_found], scores[0][is_found]

    def _scan(self, query: Vector, k: int, places: Numbers) -> Candidates:
        """Score the vectors at these places where the graph keeps them."""
        return best_of(self._slots[places], inner_products_at(self._rows(), places, query), k)

    def _standing(self, allowed: Numbers) -> _Standing:
        places = places_of(allowed, self._slots)
        is_allowed = np.zeros(len(self._slots), dtype=bool)
        is_allowed[places] = True
        return _Standing(places, is_allowed)

    def _rows(self) -> Matrix:
        """The vectors in the graph's own memory, which moves when it grows."""
        storage = faiss.downcast_index(self._index.storage)
        rows: Matrix = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d).reshape(-1, storage.d)
        return rows

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
