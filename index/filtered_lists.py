"""Lists of 4-bit codes of what a filter lets through and of nothing else, while that filter is in use.

They are the engine's own lists without the rest: as many of them, about the same centres. A search reads half of the
codes where a filter keeps half, and drops nothing afterwards.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.allowed import CopyCost
from index.catalogue import Numbers
from index.collection import Vector
from index.engine_ivf import FAR, Selector

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

# Copied in one step, which writes wait for: some 0.5 ms of a million vectors in 4,000 lists.
_LISTS_AT_ONCE = 64
# FAISS rounds the memory of each list up to a power of two.
_ROUNDED_UP = 1.5
# Making them takes a microsecond for each vector stored, and saves some 60 at each search (AMD, 2026-11-30).
_VECTORS_FOR_A_USE = 60


def cost_of_lists(index: Any, num_allowed: int) -> CopyCost:
    """Return what lists of so many of its vectors take.

    Args:
        index: A FAISS IVF index of 4-bit product codes.
        num_allowed: How many a filter lets through.
    """
    half_empty = index.nlist * index.bbs // 2  # the last block of each list
    num_bytes = (num_allowed + half_empty) * index.code_size + 8 * num_allowed
    return CopyCost(int(_ROUNDED_UP * num_bytes), index.ntotal // _VECTORS_FOR_A_USE)


class FilteredLists:
    """A part of an engine's lists; once all of it is copied it never changes.

    Attributes:
        basis: The FAISS index whose lists they are.
        num_bytes: What they take in memory, about.
    """

    def __init__(self, index: Any, allowed: Numbers) -> None:
        """Begin without any codes.

        Args:
            index: A FAISS IVF index of 4-bit product codes.
            allowed: Which of its numbers to copy, ascending.
        """
        self.basis = index
        self.num_bytes = cost_of_lists(index, len(allowed)).num_bytes
        self._num_wanted = len(allowed)
        self._selector: Any = Selector(allowed)  # FAISS keeps no reference to it
        self._others: Any = faiss.IDSelectorNot(self._selector.faiss)
        self._index = faiss.IndexIVFPQFastScan(
            index.quantizer, index.d, index.nlist, index.pq.M, index.pq.nbits, index.metric_type, index.bbs
        )
        self._index.own_fields = False  # the centres are those of `basis`
        self._index.pq, self._index.by_residual, self._index.is_trained = index.pq, index.by_residual, True
        # Whole lists come here first, and lose what the filter leaves out.
        packer = index.get_CodePacker()
        self._taken: Any = faiss.BlockInvertedLists(_LISTS_AT_ONCE, packer)
        packer.this.disown()
        self._num_taken = 0
        # Of each list: vectors that the filter keeps, less as few as count as far from a query.
        self._surplus: NDArray[np.float64] = np.zeros(index.nlist)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def is_complete(self) -> bool:
        """Everything wanted was in the lists."""
        return len(self) == self._num_wanted

    @property
    def has_more_to_take(self) -> bool:
        """Not all lists were copied yet."""
        return self._num_taken < int(self._index.nlist)

    def take_some(self) -> None:
        """Copy the next lists, whole; nothing may be added to them or removed meanwhile."""
        lists = faiss.downcast_InvertedLists(self.basis.invlists)
        for place, number in enumerate(self._next()):
            self._taken.resize(place, 0)
            if size := lists.list_size(number):
                self._taken.add_entries(place, size, lists.get_ids(number), lists.get_codes(number))

    def keep_some(self) -> None:
        """Keep of the lists that were copied last what the filter lets through."""
        lists = faiss.downcast_InvertedLists(self._index.invlists)
        by_chance = self._num_wanted / self.basis.ntotal
        sizes = [self._taken.list_size(place) for place in range(len(self._next()))]
        self._taken.remove_ids(self._others)
        for place, number in enumerate(self._next()):
            size = self._taken.list_size(place)
            self._surplus[number] = size - by_chance * sizes[place] / FAR
            if size:
                lists.add_entries(number, size, self._taken.get_ids(place), self._taken.get_codes(place))
                self._index.ntotal += size
        self._num_taken += len(self._next())
        if not self.has_more_to_take:
            self._taken = self._others = self._selector = None

    def search(self, query: Vector, k: int, parameters: Any) -> Numbers | None:
        """Return at most ``k`` numbers by their codes, best first; ``None`` where what the filter keeps lies elsewhere.

        Args:
            query: Shape ``(W,)``.
            k: How many.
            parameters: Of FAISS: how many lists to read, and how to find them.
        """
        pointer, nprobe = faiss.swig_ptr, parameters.nprobe
        nearest, distances = np.empty(nprobe, dtype=np.int64), np.empty(nprobe, dtype=np.float32)
        self._index.quantizer.search_c(
            1, pointer(query), nprobe, pointer(distances), pointer(nearest), parameters.quantizer_params
        )
        if self._surplus.take(nearest).sum() < 0:
            return None
        numbers, scores = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
        self._index.search_preassigned_c(
            1,
            pointer(query),
            k,
            pointer(nearest),
            pointer(distances),
            pointer(scores),
            pointer(numbers),
            False,
            parameters,
            None,
        )
        return numbers if numbers[-1] >= 0 else numbers[numbers >= 0]

    def _next(self) -> range:
        return range(self._num_taken, min(self._num_taken + _LISTS_AT_ONCE, int(self._index.nlist)))
