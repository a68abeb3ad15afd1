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

from index.allowed import Allowed, CopyCost
from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.effort import Effort, among, as_list, structure_weight
from index.engine import Candidates, EngineKind, EngineState, VectorTable, best_of, places_of
from index.engine_ivf import FAR, FILTER_POWER, IvfEngine, Selector
from index.filtered_lists import FilteredLists, cost_of_lists
from index.huge_pages import use_huge_pages
from index.list_centres import are_quick, centre_parameters
from index.products import NUM_QUICKLY_RANKED, best_at, inner_products_at

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

# So few allowed vectors are scored one and all: that takes no longer than reading lists does.
_SCANNED = 4096
# Nanoseconds at width 512, of a million vectors, on an AMD EPYC with AVX2: finding a list, a code of it, a candidate by
# its code, its vector scored; and a vector scored of many, which stand in order.
_LIST, _CODE, _CANDIDATE, _SCORED, _SCORED_OF_MANY = 1000, 25, 80, 530, 130
# What a filter keeps of less than this share lies so far from most queries that codes miss it: scored one and all. Of
# less than the other, where tuning has not shown how a tenth of the vectors is found.
_LEAST_SIFTED, _LEAST_SIFTED_UNTUNED = 0.03, 0.25
# Times as many lists, and candidates, where too few are left of the candidates of some lists.
_WIDER = 4
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
        self.nprobe_among_tenth: Effort | None = None
        self.refine_among_tenth: Effort | None = None
        self._table = table
        self._has_quick_centres = are_quick(index.quantizer)

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
        weight = structure_weight(query)
        num_rough = min(self.refine.for_weight(weight) * k, len(self))
        numbers = self._read_numbers(query, num_rough, self._plain_parameters(self.nprobe.for_weight(weight)))
        return self._best(query, k, self._table.positions(numbers))

    def cost_of_list(self) -> float:
        """Return about what reading another list adds to a search, in nanoseconds."""
        return _LIST + self._of_width(_CODE) * len(self) / int(self._index.nlist)

    def cost_of_candidate(self, share: float = 1) -> float:
        """Return what another candidate adds, where a filter keeps a share and others have to be dropped for it."""
        return _CANDIDATE / share + self._of_width(_SCORED)

    def cost_of_all(self, num_allowed: int) -> float:
        """Return what scoring so many takes, one and all."""
        return self._of_width(_SCORED_OF_MANY) * num_allowed

    @property
    def _least_sifted(self) -> float:
        return _LEAST_SIFTED_UNTUNED if self.nprobe_among_tenth is None else _LEAST_SIFTED

    def _of_width(self, nanoseconds: float) -> float:
        return nanoseconds * int(self._index.d) / 512

    def _filtered(self, query: Vector, k: int, allowed: Allowed) -> Candidates:
        """Drop what a filter leaves out of more candidates, or score one and all that it keeps: what takes less."""
        found = None
        if not self.is_exact_among(len(allowed)):
            lists = allowed.lists  # read once: they may be taken away meanwhile
            if lists is not None and lists.basis is self._index:
                found = self._listed(query, k, lists)
            else:
                found = self.sifted(query, k, allowed)
        return found or self._best(query, k, allowed.made(self._table.state, self._standing))

    def sifted(self, query: Vector, k: int, allowed: Allowed) -> Candidates | None:
        """Take as many more candidates as chance leaves out, and drop those: quicker than asking about each vector.

        Returns:
            ``None`` where scoring all that the filter keeps takes less, and where that lies far from the query, so that
            too few are left.
        """
        share = len(allowed) / len(self)
        if share < self._least_sifted:
            return None
        nprobe, refine = self._filtered_efforts(structure_weight(query), share)
        num_wanted = refine * k
        cost = nprobe * self.cost_of_list() + num_wanted * self.cost_of_candidate(share)
        if cost >= self.cost_of_all(len(allowed)):
            return None
        num_rough = math.ceil((num_wanted + 2 * math.sqrt(num_wanted)) / share)
        selector = allowed.made(Selector, Selector)
        for wider in (1, _WIDER):
            parameters = self._plain_parameters(min(wider * nprobe, int(self._index.nlist)))
            numbers = self._read_numbers(query, min(wider * num_rough, len(self)), parameters)
            kept = numbers[selector.lets_through(numbers)]
            by_chance = share * len(numbers)
            enough = min(num_wanted, by_chance)
            if len(kept) >= max(k, by_chance / FAR, enough - 2 * math.sqrt(enough)):
                return self._best(query, k, self._table.positions(kept[: wider * num_wanted]))
        return None

    def cost_of_lists(self, num_allowed: int) -> CopyCost | None:
        """Return what lists of what a filter keeps would take; ``None`` where they gain nothing."""
        share = num_allowed / max(1, len(self))
        return cost_of_lists(self._index, num_allowed) if share >= self._least_sifted else None

    def lists_of(self, allowed: Numbers) -> FilteredLists:
        """Begin with lists of these alone."""
        return FilteredLists(self._index, allowed)

    def _listed(self, query: Vector, k: int, lists: FilteredLists) -> Candidates | None:
        """Take candidates from lists of what a filter keeps alone; ``None`` where that lies far from the query."""
        nprobe, refine = self._filtered_efforts(structure_weight(query), len(lists) / len(self))
        for wider in (1, _WIDER):
            parameters = self._plain_parameters(min(wider * nprobe, int(self._index.nlist)))
            numbers = lists.search(query, min(wider * refine * k, len(lists)), parameters)
            if numbers is not None and len(numbers) >= k:
                return self._best(query, k, self._table.positions(numbers))
        return None

    def _filtered_efforts(self, weight: float, share: float) -> tuple[int, int]:
        """Return nprobe and refine where a filter keeps a share."""
        nprobe, refine = self.nprobe.for_weight(weight), self.refine.for_weight(weight)
        if self.nprobe_among_tenth is None or self.refine_among_tenth is None:
            nprobe = math.ceil(nprobe * math.pow(share, -FILTER_POWER))
        else:
            nprobe = among(share, nprobe, self.nprobe_among_tenth.for_weight(weight), FILTER_POWER)
            refine = among(share, refine, self.refine_among_tenth.for_weight(weight))
        return min(int(self._index.nlist), nprobe), refine

    def _standing(self, allowed: Numbers) -> Numbers:
        return places_of(allowed, self._table.numbers)

    def _read_numbers(self, query: Vector, k: int, parameters: Any) -> Numbers:
        numbers: Numbers = self._index.search(query[None], max(1, k), params=parameters)[1][0]
        return numbers if numbers[-1] >= 0 else numbers[numbers >= 0]

    def _best(self, query: Vector, k: int, places: Numbers) -> Candidates:
        """Return the best of what stands at these places."""
        if 0 < len(places) <= NUM_QUICKLY_RANKED:
            places, scores = best_at(self._table.rows, places, query, min(k, len(places)))
        else:
            which, scores = best_of(inner_products_at(self._table.rows, places, query), k)
            places = places.take(which)
        return Candidates(self._table.numbers.take(places), scores, self._table.rows, places)

    def _list_parameters(self, nprobe: int, **options: Any) -> Any:
        if self._has_quick_centres:
            options["quantizer_params"] = centre_parameters(nprobe, int(self._index.nlist))
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
            config={
                **state.config,
                "refine": list(self.refine.values),
                "nprobe_among_tenth": as_list(self.nprobe_among_tenth),
                "refine_among_tenth": as_list(self.refine_among_tenth),
            },
            arrays={**state.arrays, "rows": self._table.rows.copy()},
        )
