"""Approximate search with FAISS: inverted lists of vectors held in 8 bits a number."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.engine import Candidates, EngineKind, EngineState

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")


def train_ivf(sample: Matrix, num_lists: int) -> Any:
    """Return an empty FAISS index whose lists are the clusters of a sample."""
    width = sample.shape[1]
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width), width, num_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid = 1  # small samples are fine in tests; no warning on standard output
    index.train(sample)
    index.set_direct_map_type(faiss.DirectMap.Hashtable)  # removes one vector without reading every list
    return index


class IvfSq8Engine:
    """Inverted lists; ``nprobe`` of them are read for a query."""

    kind = EngineKind.IVF_SQ8
    is_exact = False

    def __init__(self, index: Any, *, nprobe: int, num_trained: int, growth: float, numbers: set[int]) -> None:
        """Wrap a trained index.

        Args:
            index: A FAISS IVF index with a hash table as direct map.
            nprobe: Lists to read.
            num_trained: Vectors in the collection when the lists were made.
            growth: The lists are due anew when the collection is this many times larger or smaller.
            numbers: What the index already holds.
        """
        self._index = index
        self.nprobe = nprobe
        self._num_trained = num_trained
        self._growth = growth
        self._held = numbers

    @property
    def parameters(self) -> Mapping[str, float]:
        """Lists, and how many of them are read."""
        return {"nprobe": self.nprobe, "nlist": int(self._index.nlist)}

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

    def search(self, query: Vector, k: int, allowed: Numbers | None = None) -> Candidates:
        """Return the best of the lists nearest to the query."""
        selector = None if allowed is None else faiss.IDSelectorBatch(allowed)
        parameters = faiss.SearchParametersIVF(nprobe=self.nprobe, sel=selector)
        scores, numbers = self._index.search(query[None], max(1, min(k, len(self))), params=parameters)
        is_found = numbers[0] >= 0
        return Candidates(numbers[0][is_found], scores[0][is_found])

    def vectors(self, numbers: Numbers) -> Matrix | None:
        """Keeps none exactly."""
        return None

    def index_without_map(self) -> Any:
        """Return a copy of the FAISS index for a GPU, which has no use for the table of where vectors are."""
        copy = faiss.clone_index(self._index)
        copy.set_direct_map_type(faiss.DirectMap.NoMap)
        return copy

    def state(self) -> EngineState:
        """Copy itself out."""
        config: dict[str, JsonValue] = {"nprobe": self.nprobe, "num_trained": self._num_trained}
        arrays: dict[str, NDArray[Any]] = {
            "index": faiss.serialize_index(self._index),
            "numbers": self.numbers(),
        }
        return EngineState(self.kind, config, arrays)
