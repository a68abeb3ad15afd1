"""Approximate search with FAISS: lists of 4-bit codes that are scored in registers, and the exact vectors beside them.

The codes are so coarse that many more candidates are taken than wanted, and so quick to read that this hardly costs:
the exact vectors, side by side in one block, then tell which are the best.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.effort import Effort
from index.engine import Candidates, EngineKind, EngineState, VectorTable, best_of, places_of
from index.engine_ivf import IvfEngine, Selector
from index.huge_pages import use_huge_pages
from index.products import inner_products_at

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

# So few allowed vectors are scored one and all: that takes no longer than reading lists does.
_SCANNED = 4096
# Taking more than this share of what a filter lets through costs more than scoring it all.
_MUCH = 0.25
# A filter that keeps this share leaves out less than it costs to ask about each vector.
_MOSTLY = 0.25
# Standard deviations of what codes are off by.
_SURE = 2.0
# Candidates by their codes for each one wanted, before tuning.
REFINED = 16


class FastScanEngine(IvfEngine):
    """Lists of 4-bit codes find candidates, a block of exact vectors ranks them."""

    has_exact_scores = True

    def __init__(
        self, index: Any, *, nprobe: Effort, refine: Effort, num_trained: int, growth: float, table: VectorTable
    ) -> None:
        """Wrap a trained index.

        Args:
            index: A FAISS IVF index of 4-bit product codes.
            nprobe: Lists to read.
            refine: Candidates by their codes for each one wanted.
            num_trained: Vectors in the collection when the lists were made.
            growth: The lists are due anew when the collection is this many times larger or smaller.
            table: The exact vectors of what the index holds.
        """
        super().__init__(
            index, kind=EngineKind.IVF_PQ4, nprobe=nprobe, num_trained=num_trained, growth=growth, numbers=set()
        )
        self.refine = refine
        self._table = table
        self._has_graph = isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW)

    @property
    def parameters(self) -> Mapping[str, float]:
        """Lists, how many of them are read, and how many candidates are ranked for each one wanted."""
        return {**super().parameters, "refine": self.refine.largest}

    def __len__(self) -> int:
        return len(self._table)

    def numbers(self) -> Numbers:
        """Return what it holds."""
        return self._table.numbers.copy()

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Put these into their lists."""
        is_new = self._table.add(numbers, vectors)
        if is_new.any():
            self._index.add_with_ids(vectors[is_new], numbers[is_new])

    def remove(self, numbers: Numbers) -> None:
        """Take these out of their lists."""
        held = numbers[self._table.holds(numbers)]
        if len(held):
            self._index.remove_ids(held)
            self._table.remove(held)

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Few vectors are all scored."""
        return num_allowed is not None and num_allowed <= _SCANNED

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Take candidates from the lists nearest to the query and return the best of them by their vectors."""
        if allowed is not None:
            return self._filtered(query, k, allowed)
        numbers = self._candidates(query, self.refine.at(query) * k, None, num_wanted=k).numbers
        return self._best(query, k, self._table.positions(numbers))

    def _filtered(self, query: Vector, k: int, allowed: Allowed) -> Candidates:
        """Sift where a filter keeps much, else ask about each vector; score the few of a narrow filter one and all."""
        if not self.is_exact_among(len(allowed)):
            sifted = self._sifted(query, k, allowed) if len(allowed) >= _MOSTLY * len(self) else None
            found = sifted or self._asked_about(query, k, allowed)
            if found is not None:
                return found
        return self._best(query, k, allowed.made(self._table.state, self._standing))

    def _asked_about(self, query: Vector, k: int, allowed: Allowed) -> Candidates | None:
        """Take more candidates until the codes of the others cannot hide a better one; ``None`` if that is too many.

        What a filter keeps may lie where vectors are dense, far from the query, and codes tell little apart there.
        """
        num_rough = self.refine.at(query) * k
        while num_rough < _MUCH * len(allowed):
            rough = self._candidates(query, num_rough, allowed, num_wanted=k)
            places = self._table.positions(rough.numbers)
            exact = inner_products_at(self._table.rows, places, query)
            rows, scores = best_of(exact, k)
            is_off_by = _SURE * float(np.std(exact - rough.scores))
            if len(rows) == k and scores[-1] >= rough.scores[-1] + is_off_by:
                return self._found(places[rows], scores)
            num_rough *= 4
        return None

    def _sifted(self, query: Vector, k: int, allowed: Allowed) -> Candidates | None:
        """Take as many more candidates as chance leaves out, and drop those: quicker than asking about each vector.

        Where what a filter keeps is far from the query, too few are left, and it returns ``None``.
        """
        share, num_wanted = len(allowed) / len(self), self.refine.at(query) * k
        num_rough = math.ceil((num_wanted + 2 * math.sqrt(num_wanted)) / share)
        parameters = self._plain_parameters(self._filtered_nprobe(query, share))
        numbers = self._read(query, min(num_rough, len(self)), parameters).numbers
        kept = numbers[allowed.made(Selector, Selector).lets_through(numbers)][:num_wanted]
        return self._best(query, k, self._table.positions(kept)) if len(kept) == num_wanted else None

    def _standing(self, allowed: Numbers) -> Numbers:
        return places_of(allowed, self._table.numbers)

    def _best(self, query: Vector, k: int, places: Numbers) -> Candidates:
        """Return the best of what stands at these places."""
        rows, scores = best_of(inner_products_at(self._table.rows, places, query), k)
        return self._found(places.take(rows), scores)

    def _found(self, places: Numbers, scores: NDArray[np.float32]) -> Candidates:
        return Candidates(self._table.numbers.take(places), scores, self._table.rows, places)

    def _list_parameters(self, nprobe: int, **options: Any) -> Any:
        if self._has_graph:
            # As many again as are wanted, or the graph of centres misses some of the nearest.
            options["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=2 * nprobe)
        return super()._list_parameters(nprobe, **options)

    def settle(self) -> None:
        """Put the vectors into huge pages, where there are such: they are read here and there."""
        use_huge_pages(self._table.rows.ctypes.data, self._table.rows.nbytes)

    def vectors(self, numbers: Numbers) -> Matrix:
        """Return a copy of these vectors."""
        return self._table.rows[self._table.positions(numbers)]

    def state(self) -> EngineState:
        """Copy itself out."""
        state = super().state()
        return replace(
            state,
            config={**state.config, "refine": list(self.refine.values)},
            arrays={**state.arrays, "rows": self._table.rows.copy()},
        )
