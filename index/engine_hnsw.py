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
from index.effort import Effort
from index.engine import Candidates, EngineKind, EngineState, best_of, places_of
from index.huge_pages import use_huge_pages
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
_KEPT_PARAMETERS = 64
# Candidates for a page of ten hits.
_A_PAGE = 26


def new_graph(width: int) -> Any:
    """Return an empty FAISS graph."""
    index = faiss.IndexHNSWFlat(width, NUM_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 120
    return index


class _Standing(NamedTuple):
    """Where what a filter lets through stands in the graph.

    Attributes:
        places: Ascending.
        is_allowed: For each place.
    """

    places: Numbers
    is_allowed: NDArray[np.bool_]


class _Places:
    """Where each number stands in the graph: sorted, so that many are looked up at once."""

    def __init__(self, slots: Numbers) -> None:
        places = np.flatnonzero(slots >= 0)
        order = np.argsort(slots[places], kind="stable")
        self._places: Numbers = places[order]
        self.numbers: Numbers = slots[self._places]

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, numbers: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
        """Return the places of those that are there, in their order, and for each number whether it is there."""
        if not len(self.numbers):
            return np.empty(0, dtype=np.int64), np.zeros(len(numbers), dtype=bool)
        rows = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        is_there = self.numbers[rows] == numbers
        return self._places[rows[is_there]], is_there


class HnswEngine:
    """A graph that only grows: a removed vector stays as a way through, and is left out of results."""

    kind = EngineKind.HNSW
    is_exact = False
    has_exact_scores = True
    over_fetch = 1  # what it misses, it never met

    def __init__(self, index: Any, *, ef_search: Effort, slots: Numbers) -> None:
        """Wrap a graph.

        Args:
            index: A FAISS HNSW index.
            ef_search: Candidates kept while walking the graph.
            slots: The number in each place of the graph, -1 where it was removed.
        """
        self._index = index
        self.ef_search = ef_search
        self._slots = slots
        self._changed()

    @property
    def parameters(self) -> Mapping[str, float]:
        """Candidates kept while walking, at most."""
        return {"ef_search": self.ef_search.largest}

    @property
    def needs_rebuild(self) -> bool:
        """Too much of the graph is dead."""
        num_dead = len(self._slots) - len(self._places)
        return num_dead > 64 and num_dead > _MAX_DEAD_SHARE * len(self._slots)

    def __len__(self) -> int:
        return len(self._places)

    def numbers(self) -> Numbers:
        """Return what it holds."""
        return self._places.numbers.copy()

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Link these into the graph."""
        is_new = ~self._places.where(numbers)[1]
        if not is_new.any():
            return
        self._index.add(np.ascontiguousarray(vectors[is_new]))
        self._slots = np.concatenate([self._slots, numbers[is_new]])
        self._changed()

    def remove(self, numbers: Numbers) -> None:
        """Mark these as dead."""
        places, _ = self._places.where(numbers)
        if len(places):
            self._slots[places] = -1
            self._changed()

    def settle(self) -> None:
        """Put vectors and links into huge pages, where there are such."""
        if not self._index.ntotal:
            return
        storage, links = faiss.downcast_index(self._index.storage), self._index.hnsw.neighbors
        use_huge_pages(int(storage.get_xb()), 4 * storage.ntotal * storage.d)
        use_huge_pages(int(links.data()), 4 * links.size())

    def _changed(self) -> None:
        self._state = object()
        self._places = _Places(self._slots)
        self._held: Matrix | None = None
        self._parameters: dict[int, Any] = {}
        self._alive = np.packbits(self._slots >= 0, bitorder="little")  # FAISS keeps no reference to it

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Few vectors are all scanned: that costs less than the walk that would find them."""
        if num_allowed is None:
            return False
        ef_search = self._wide_ef(self.ef_search.largest, _A_PAGE, num_allowed)
        return num_allowed <= max(_SCANNED_ANYWAY, _SCANNED_A_CANDIDATE * ef_search)

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Walk the graph; among few allowed vectors, or where the walk meets too few of them, scan those."""
        k = min(k, len(self) if allowed is None else len(allowed))
        if not self._places or k == 0:
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        if allowed is None:
            places, scores = self._walk(query, k, max(self.ef_search.at(query), k))
            return Candidates(self._slots[places], scores, self._block(), places)
        standing = allowed.made(self._state, self._standing)
        if not self.is_exact_among(len(allowed)):
            # Everything around the query is looked at and what is not allowed is left out afterwards. So enough found
            # means that nothing nearer was passed by, also where the filter goes with what the vectors show.
            ef_search = self._wide_ef(self.ef_search.at(query), k, len(allowed))
            places, scores = self._walk(query, min(ef_search, len(self)), ef_search)
            which = np.flatnonzero(standing.is_allowed[places])[:k]
            if len(which) == k:
                places = places[which]
                return Candidates(self._slots[places], scores[which], self._block(), places)
        return self._scan(query, k, standing.places)

    def _wide_ef(self, ef_search: int, k: int, num_allowed: int) -> int:
        share = min(1.0, num_allowed / max(1, len(self)))
        wider = max(1.0, _WIDER + _WIDER_BY_SHARE / share)
        return math.ceil(max(ef_search * wider, (k + 2 * math.sqrt(k)) / share))

    def _walk(self, query: Vector, k: int, ef_search: int) -> tuple[Numbers, NDArray[np.float32]]:
        """Return places in the graph and scores, best first."""
        parameters = self._walk_parameters(ef_search)
        scores, places = self._index.search(query[None], k, params=parameters)
        is_found = places[0] >= 0
        return places[0][is_found], scores[0][is_found]

    def _scan(self, query: Vector, k: int, places: Numbers) -> Candidates:
        """Score the vectors at these places where the graph keeps them."""
        rows, scores = best_of(inner_products_at(self._block(), places, query), k)
        return Candidates(self._slots[places[rows]], scores, self._block(), places[rows])

    def _standing(self, allowed: Numbers) -> _Standing:
        places = places_of(allowed, self._slots)
        is_allowed = np.zeros(len(self._slots), dtype=bool)
        is_allowed[places] = True
        return _Standing(places, is_allowed)

    def _block(self) -> Matrix:
        """The vectors in the graph's own memory, which moves when it grows."""
        if self._held is None:
            storage = faiss.downcast_index(self._index.storage)
            rows = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
            self._held = rows.reshape(-1, storage.d)
        return self._held

    def _walk_parameters(self, ef_search: int) -> Any:
        """Return parameters that pass over the dead; making them anew is a tenth of a search."""
        parameters = self._parameters.get(ef_search)
        if parameters is None:
            parameters = faiss.SearchParametersHNSW(efSearch=ef_search)
            if len(self._places) < len(self._slots):
                parameters.sel = faiss.IDSelectorBitmap(self._alive)
            if len(self._parameters) >= _KEPT_PARAMETERS:  # every filter wants its own
                self._parameters.clear()
            self._parameters[ef_search] = parameters
        return parameters

    def vectors(self, numbers: Numbers) -> Matrix:
        """Return a copy of these vectors."""
        return self._block()[self._places.where(numbers)[0]]

    def state(self) -> EngineState:
        """Copy itself out."""
        arrays: dict[str, NDArray[Any]] = {
            "index": faiss.serialize_index(self._index),
            "slots": self._slots.copy(),
        }
        return EngineState(self.kind, {"ef_search": list(self.ef_search.values)}, arrays)
