"""FAISS on the GPU: an exact scan, and inverted lists.

Indexes on a GPU cannot forget single vectors and have no selectors. So what is removed stays on the device,
marked dead, until so much is dead that the device copy is made anew; and a filtered search goes to the copy
in main memory (flat), or takes more candidates (lists).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.effort import Effort
from index.engine import Candidates, EngineKind, EngineState, VectorTable
from index.engine_flat import FlatEngine
from index.engine_ivf import IvfEngine

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

# FAISS on a GPU returns at most this many results of a query.
MAX_GPU_RESULTS = 2048
_MAX_DEAD_SHARE = 0.1


class GpuFlatEngine(FlatEngine):
    """An exact scan on the GPU beside the same vectors in main memory, from which they are re-scored and saved."""

    kind = EngineKind.GPU_FLAT

    def __init__(self, table: VectorTable) -> None:
        super().__init__(table)
        self._resources = faiss.StandardGpuResources()
        self._slots: Numbers = np.empty(0, np.int64)
        self._device: Any = None
        self._upload()

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Hold these too."""
        num_before = len(self._table)
        super().add(numbers, vectors)
        rows, added = self._table.rows[num_before:], self._table.numbers[num_before:]
        if len(added):
            self._device.add(np.ascontiguousarray(rows))
            self._slots = np.concatenate([self._slots, added])

    def remove(self, numbers: Numbers) -> None:
        """Forget these."""
        super().remove(numbers)
        self._slots[np.isin(self._slots, numbers)] = -1
        num_dead = int((self._slots < 0).sum())
        if num_dead > max(256, _MAX_DEAD_SHARE * len(self._slots)):
            self._upload()

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return the ``k`` best; filtered and very long searches run on the CPU."""
        num_dead = len(self._slots) - len(self._table)
        k = min(k, len(self._table))
        if allowed is not None or not 0 < k + num_dead <= MAX_GPU_RESULTS:
            return super().search(query, k, allowed)
        scores, places = self._device.search(query[None], k + num_dead)
        return _alive(scores[0], places[0], self._slots, k)

    def _upload(self) -> None:
        self._device = faiss.GpuIndexFlatIP(self._resources, self._table.rows.shape[1])
        self._slots = self._table.numbers.copy()
        if len(self._slots):
            self._device.add(np.ascontiguousarray(self._table.rows))


class GpuIvfEngine:
    """Inverted lists on the GPU, trained on the CPU."""

    kind = EngineKind.GPU_IVF_SQ8
    is_exact = False
    has_exact_scores = False

    def __init__(self, engine: IvfEngine) -> None:
        """Move the lists of a CPU engine to the GPU; the CPU engine stays the one that adds, removes and is saved."""
        self._host = engine
        self._resources = faiss.StandardGpuResources()
        self._device: Any = None
        self._dead: set[int] = set()
        self._upload()

    @property
    def host(self) -> IvfEngine:
        """The CPU engine whose lists these are."""
        return self._host

    @property
    def nprobe(self) -> Effort:
        """Lists that are read; the card reads as many for every query."""
        return self._host.nprobe

    @nprobe.setter
    def nprobe(self, value: Effort) -> None:
        self._host.nprobe = value
        self._device.nprobe = value.largest

    @property
    def over_fetch(self) -> int:
        """Candidates for each hit wanted."""
        return self._host.over_fetch

    @property
    def parameters(self) -> Mapping[str, float]:
        """Lists, and how many of them are read."""
        return self._host.parameters

    @property
    def needs_rebuild(self) -> bool:
        """The collection has outgrown its lists."""
        return self._host.needs_rebuild

    def __len__(self) -> int:
        return len(self._host)

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Never: what it holds is rounded."""
        return self._host.is_exact_among(num_allowed)

    def numbers(self) -> Numbers:
        """Return what it holds."""
        return self._host.numbers()

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Put these into their lists."""
        is_new = ~np.isin(numbers, self._host.numbers())
        self._host.add(numbers, vectors)
        if is_new.any():
            self._device.add_with_ids(np.ascontiguousarray(vectors[is_new]), numbers[is_new])

    def remove(self, numbers: Numbers) -> None:
        """Forget these."""
        held = numbers[np.isin(numbers, self._host.numbers())]
        self._host.remove(numbers)
        self._dead.update(held.tolist())
        if len(self._dead) > max(256, _MAX_DEAD_SHARE * len(self)):
            self._upload()

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return the best of the lists nearest to the query; filtered and very long searches run on the CPU."""
        k = min(k, len(self))
        num_asked = k + len(self._dead)
        if allowed is not None or not 0 < num_asked <= MAX_GPU_RESULTS:
            return self._host.search(query, k, allowed)
        scores, numbers = self._device.search(query[None], num_asked)
        is_alive = (numbers[0] >= 0) & ~np.isin(numbers[0], np.fromiter(self._dead, np.int64))
        return Candidates(numbers[0][is_alive][:k], scores[0][is_alive][:k])

    def vectors(self, numbers: Numbers) -> Matrix | None:
        """Keeps none exactly."""
        return None

    def settle(self) -> None:
        """Nothing to arrange: the card searches."""

    def state(self) -> EngineState:
        """Copy itself out."""
        state = self._host.state()
        return EngineState(self.kind, state.config, state.arrays)

    def _upload(self) -> None:
        self._device = faiss.index_cpu_to_gpu(self._resources, 0, self._host.index_without_map())
        self._device.nprobe = self._host.nprobe.largest
        self._dead = set()


def _alive(scores: NDArray[np.float32], places: Numbers, slots: Numbers, k: int) -> Candidates:
    numbers = np.where(places >= 0, slots[places], -1)
    is_alive = numbers >= 0
    return Candidates(numbers[is_alive][:k], scores[is_alive][:k])
