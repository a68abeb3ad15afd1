"""Approximate search with FAISS: inverted lists of vectors held in 8 bits a number, or in 2 (product quantisation)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.effort import Effort
from index.engine import Candidates, EngineKind, EngineState
from index.list_centres import quick_centres

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")


# Of a sub-quantiser: FAISS trains none of 256 centres (or of 16, with 4 bits) on fewer rows.
_MIN_PQ_ROWS = 256
# Where codes are read this quickly, comparing a query with the centres of so many lists one by one takes longer.
_MANY_LISTS = 2048
# By the share of true neighbours among that many times ten candidates: 8 bits round little, 2 bits a lot.
_OVER_FETCH = {EngineKind.IVF_SQ8: 2, EngineKind.IVF_PQ: 8, EngineKind.IVF_PQ4: 1}  # the last ranks them itself

# A filter that keeps a share of the vectors wants nprobe over that share to this power for equal recall: measured on
# 100,000 x 512 at shares of 0.5, 0.1 and 0.01.
FILTER_POWER = 0.65
# Below this share all lists are read: passing over a vector costs a fiftieth of scoring it, and makes sure.
_FEW_ALLOWED = 0.05
# Times as many vectors as chance has it, before what a filter keeps counts as far from the query; or as few of its own.
FAR = 2


def train_ivf(sample: Matrix, num_lists: int, kind: EngineKind = EngineKind.IVF_SQ8) -> Any:
    """Return an empty FAISS index whose lists are the clusters of a sample.

    Args:
        sample: Shape ``(N, 2 D)``.
        num_lists: Clusters.
        kind: How vectors are held: ``ivf_sq8``, ``ivf_pq`` or ``ivf_pq4``.
    """
    width = sample.shape[1]
    centres: Any = faiss.IndexFlatIP(width)
    # No piece of a product code spans both views: a query weighs them differently.
    if kind is EngineKind.IVF_PQ4:
        piece = math.gcd(width // 2, 2)
        if num_lists >= _MANY_LISTS:
            centres = quick_centres(width)
        index = faiss.IndexIVFPQFastScan(centres, width, num_lists, width // piece, 4, faiss.METRIC_INNER_PRODUCT)
        index.quantizer_trains_alone = 2  # clusters are found as ever, whatever finds the nearest afterwards
    elif kind is EngineKind.IVF_PQ:
        piece = math.gcd(width // 2, 4)
        index = faiss.IndexIVFPQ(centres, width, num_lists, width // piece, 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.niter = 10  # of 25; the codes hardly change after, and this is most of the building
    else:
        index = faiss.IndexIVFScalarQuantizer(
            centres, width, num_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
    if kind is not EngineKind.IVF_SQ8:
        index.pq.cp.min_points_per_centroid = 1
        if len(sample) < _MIN_PQ_ROWS:
            sample = np.resize(sample, (_MIN_PQ_ROWS, width))
    index.cp.min_points_per_centroid = 1  # small samples are fine in tests; no warning on standard output
    index.train(sample)
    if kind is not EngineKind.IVF_PQ4:  # whose lists are quick to read
        index.set_direct_map_type(faiss.DirectMap.Hashtable)  # removes one vector without reading every list
    return index


class Selector:
    """Tells FAISS which numbers are allowed; it depends on nothing else."""

    def __init__(self, allowed: Numbers) -> None:
        self._is_allowed = np.zeros(int(allowed[-1]) + 2, dtype=bool)  # nothing beyond them is
        self._is_allowed[allowed] = True
        self._bits = np.packbits(self._is_allowed[:-1], bitorder="little")  # FAISS keeps no reference to it
        self.faiss = faiss.IDSelectorBitmap(self._bits)

    def lets_through(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Tell for each of these whether it is allowed."""
        return self._is_allowed.take(numbers, mode="clip")


class IvfEngine:
    """Inverted lists; ``nprobe`` of them are read for a query."""

    is_exact = False
    has_exact_scores = False

    def __init__(
        self, index: Any, *, kind: EngineKind, nprobe: Effort, num_trained: int, growth: float, numbers: set[int]
    ) -> None:
        """Wrap a trained index.

        Args:
            index: A FAISS IVF index with a hash table as direct map.
            kind: How it holds vectors: ``ivf_sq8`` or ``ivf_pq``.
            nprobe: Lists to read.
            num_trained: Vectors in the collection when the lists were made.
            growth: The lists are due anew when the collection is this many times larger or smaller.
            numbers: What the index already holds.
        """
        self._index = index
        self.kind = kind
        self.over_fetch = _OVER_FETCH[kind]
        self.nprobe = nprobe
        self._num_trained = num_trained
        self._growth = growth
        self._held = numbers
        self._plain: dict[int, Any] = {}

    @property
    def parameters(self) -> Mapping[str, float]:
        """Lists, and how many of them are read at most."""
        return {"nprobe": self.nprobe.largest, "nlist": int(self._index.nlist)}

    @property
    def needs_rebuild(self) -> bool:
        """The collection has outgrown its lists."""
        return len(self) > self._num_trained * self._growth

    def __len__(self) -> int:
        return len(self._held)

    def numbers(self) -> Numbers:
        """Return what it holds."""
        return np.array(sorted(self._held), dtype=np.int64)

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Put these into their lists."""
        is_new = np.array([number not in self._held for number in numbers.tolist()], dtype=bool)
        if is_new.any():
            self._index.add_with_ids(np.ascontiguousarray(vectors[is_new]), numbers[is_new])
            self._held.update(numbers[is_new].tolist())

    def remove(self, numbers: Numbers) -> None:
        """Take these out of their lists."""
        held = np.array([number for number in numbers.tolist() if number in self._held], dtype=np.int64)
        if len(held):
            self._index.remove_ids(held)
            self._held.difference_update(held.tolist())

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Never: what it holds is rounded."""
        return False

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return the best of the lists nearest to the query; with a filter of more lists, or of all of them."""
        if allowed is None:
            return self._nearest(query, k)
        k = min(k, len(allowed))
        if not k or not len(self):
            return Candidates(np.empty(0, np.int64), np.empty(0, np.float32))
        selector = allowed.made(Selector, Selector).faiss
        share, num_lists = min(1.0, len(allowed) / len(self)), int(self._index.nlist)
        nprobe = num_lists
        if share >= _FEW_ALLOWED:
            nprobe = min(num_lists, math.ceil(self.nprobe.at(query) * math.pow(share, -FILTER_POWER)))
        found = self._read(query, k, self._list_parameters(nprobe, sel=selector))
        if nprobe < num_lists and (len(found.numbers) < k or self._is_below_chance(query, found, share)):
            found = self._read(query, k, self._list_parameters(num_lists, sel=selector))
        return found

    def _nearest(self, query: Vector, k: int) -> Candidates:
        """Return the best of the lists nearest to the query."""
        return self._read(query, min(k, len(self)), self._plain_parameters(self.nprobe.at(query)))

    def _is_below_chance(self, query: Vector, found: Candidates, share: float) -> bool:
        """Tell whether many more vectors than chance has it lie nearer than what a filter let through.

        Then it goes with what the vectors show and keeps what is far from the query: in lists that were not read.
        """
        k = len(found.numbers)
        expected = min(len(self), math.ceil(FAR * (k + 2 * math.sqrt(k)) / share))
        nprobe = math.ceil(2 * expected * self._index.nlist / len(self))
        parameters = self._list_parameters(min(nprobe, int(self._index.nlist)))
        # Counted, not ranked: most of a search for so many is keeping them in order.
        limits, _, _ = self._index.range_search(query[None], float(found.scores[-1]), params=parameters)
        return int(limits[1]) >= expected

    def _read(self, query: Vector, k: int, parameters: Any) -> Candidates:
        scores, numbers = self._index.search(query[None], max(1, k), params=parameters)
        if numbers[0, -1] < 0:  # fewer than asked for
            is_found = numbers[0] >= 0
            return Candidates(numbers[0][is_found], scores[0][is_found])
        return Candidates(numbers[0], scores[0])

    def _list_parameters(self, nprobe: int, **options: Any) -> Any:
        return faiss.SearchParametersIVF(nprobe=nprobe, **options)

    def _plain_parameters(self, nprobe: int) -> Any:
        """Return parameters without a selector; making them anew is a part of every search that can be saved."""
        parameters = self._plain.get(nprobe)
        if parameters is None:
            self._plain[nprobe] = parameters = self._list_parameters(nprobe)
        return parameters

    def vectors(self, numbers: Numbers) -> Matrix | None:
        """Keeps none exactly."""
        return None

    def settle(self) -> None:
        """Nothing to arrange: lists are read from end to end."""

    def index_without_map(self) -> Any:
        """Return a copy of the FAISS index for a GPU, which has no use for the table of where vectors are."""
        copy = faiss.clone_index(self._index)
        copy.set_direct_map_type(faiss.DirectMap.NoMap)
        return copy

    def state(self) -> EngineState:
        """Copy itself out."""
        config: dict[str, JsonValue] = {"nprobe": list(self.nprobe.values), "num_trained": self._num_trained}
        arrays: dict[str, NDArray[Any]] = {
            "index": faiss.serialize_index(self._index),
            "numbers": self.numbers(),
        }
        return EngineState(self.kind, config, arrays)
