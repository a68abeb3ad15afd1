"""Making an engine from stored vectors, and bringing one back from a snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from index.catalogue import Matrix, Numbers
from index.effort import Effort
from index.engine import Engine, EngineKind, EngineState, NumpyEngine, VectorTable
from index.errors import SnapshotError
from index.settings import LocalSettings

Progress = Callable[[float], None]
_TRAINING_ROWS_PER_LIST = 64
_MAX_TRAINING_ROWS = 200_000
_FEW = 256
_LEAST_LISTS_OF_QUICK_CODES = 2500


class VectorSource(Protocol):
    """Where the vectors come from, in one consistent state."""

    def numbers(self) -> Numbers:
        """Return all numbers."""
        ...

    def pairs(self, numbers: list[int]) -> tuple[Numbers, Matrix]:
        """Return some vectors."""
        ...

    def all_pairs(self) -> Iterator[tuple[Numbers, Matrix]]:
        """Yield all vectors in batches."""
        ...


@dataclass(frozen=True, slots=True)
class EngineBuilder:
    """Makes engines of vectors of one width."""

    width: int
    settings: LocalSettings
    seed: int = 0

    def build(self, kind: EngineKind, source: VectorSource, progress: Progress) -> Engine:
        """Make an engine of everything in the source; parameters are still to be tuned."""
        num_vectors = len(source.numbers())
        engine = self._empty(kind, source, num_vectors)
        num_added = 0
        for numbers, vectors in source.all_pairs():
            engine.add(numbers, vectors)
            num_added += len(numbers)
            progress(num_added / max(1, num_vectors))
        engine.settle()
        return engine

    def restore(self, state: EngineState) -> Engine:
        """Make an engine from its copied-out state.

        Raises:
            SnapshotError: If the state is not one of an engine of this width.
        """
        try:
            engine = self._restored(state)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise SnapshotError(f"the engine cannot be restored: {error}") from error
        engine.settle()
        return engine

    def _empty(self, kind: EngineKind, source: VectorSource, num_vectors: int) -> Engine:
        if kind is EngineKind.NUMPY:
            return NumpyEngine(VectorTable(self.width))
        from index import engine_fast_scan, engine_flat, engine_gpu, engine_hnsw, engine_ivf

        match kind:
            case EngineKind.FLAT:
                return engine_flat.FlatEngine(VectorTable(self.width))
            case EngineKind.HNSW:
                graph = engine_hnsw.new_graph(self.width)
                return engine_hnsw.HnswEngine(graph, ef_search=Effort.even(64), slots=np.empty(0, np.int64))
            case EngineKind.GPU_FLAT:
                return engine_gpu.GpuFlatEngine(VectorTable(self.width))
            case _:
                on_host = _on_host(kind)
                lists = num_lists(num_vectors, on_host)
                index = engine_ivf.train_ivf(self._sample(source, num_vectors, lists), lists, on_host)
                if kind is EngineKind.IVF_PQ4:
                    return engine_fast_scan.FastScanEngine(
                        index,
                        nprobe=Effort.even(8),
                        refine=Effort.even(engine_fast_scan.REFINED),
                        num_trained=num_vectors,
                        growth=self.settings.retrain_growth,
                        table=VectorTable(self.width),
                    )
                engine = engine_ivf.IvfEngine(
                    index,
                    kind=on_host,
                    nprobe=Effort.even(8),
                    num_trained=num_vectors,
                    growth=self.settings.retrain_growth,
                    numbers=set(),
                )
                return engine_gpu.GpuIvfEngine(engine) if kind is EngineKind.GPU_IVF_SQ8 else engine

    def _sample(self, source: VectorSource, num_vectors: int, lists: int) -> Matrix:
        if num_vectors == 0:
            return self._bounds()
        num_rows = min(num_vectors, lists * _TRAINING_ROWS_PER_LIST, _MAX_TRAINING_ROWS)
        chosen = np.random.default_rng(self.seed).choice(source.numbers(), size=num_rows, replace=False)
        rows = source.pairs(np.sort(chosen).tolist())[1]
        return np.concatenate([rows, self._bounds()]) if num_vectors < _FEW else rows

    def _bounds(self) -> Matrix:
        """Return rows that span what numbers in unit vectors can be, so that 8 bits cover what few rows do not show."""
        return np.stack([np.full(self.width, sign, dtype=np.float32) for sign in (-1, 1)])

    def _restored(self, state: EngineState) -> Engine:
        if state.kind in (EngineKind.NUMPY, EngineKind.FLAT, EngineKind.GPU_FLAT):
            return self._restored_flat(state)
        import faiss

        from index import engine_fast_scan, engine_gpu, engine_hnsw, engine_ivf, list_centres

        index = faiss.deserialize_index(state.arrays["index"])
        if index.d != self.width:
            raise ValueError(f"expected vectors of width {self.width}; got {index.d}")
        if state.kind is EngineKind.HNSW:
            slots = state.arrays["slots"]
            return engine_hnsw.HnswEngine(index, ef_search=_effort(state, "ef_search"), slots=slots)
        if state.kind is EngineKind.IVF_PQ4:
            if list_centres.has_graph_of_centres(index):
                raise ValueError("its lists are found by a graph, as ours were until 2026-11-30")
            quick = engine_fast_scan.FastScanEngine(
                index,
                nprobe=_effort(state, "nprobe"),
                refine=_effort(state, "refine"),
                num_trained=_whole(state, "num_trained"),
                growth=self.settings.retrain_growth,
                table=self._table(state),
            )
            quick.nprobe_among_tenth = _effort_if_tuned(state, "nprobe_among_tenth")
            quick.refine_among_tenth = _effort_if_tuned(state, "refine_among_tenth")
            return quick
        engine = engine_ivf.IvfEngine(
            index,
            kind=_on_host(state.kind),
            nprobe=_effort(state, "nprobe"),
            num_trained=_whole(state, "num_trained"),
            growth=self.settings.retrain_growth,
            numbers=set(state.arrays["numbers"].tolist()),
        )
        return engine_gpu.GpuIvfEngine(engine) if state.kind is EngineKind.GPU_IVF_SQ8 else engine

    def _restored_flat(self, state: EngineState) -> Engine:
        table = self._table(state)
        if state.kind is EngineKind.NUMPY:
            return NumpyEngine(table)
        from index import engine_flat, engine_gpu

        return engine_flat.FlatEngine(table) if state.kind is EngineKind.FLAT else engine_gpu.GpuFlatEngine(table)

    def _table(self, state: EngineState) -> VectorTable:
        rows, numbers = state.arrays["rows"], state.arrays["numbers"]
        if rows.ndim != 2 or rows.shape != (len(numbers), self.width):
            raise ValueError(f"expected {len(numbers)} vectors of width {self.width}; got shape {rows.shape}")
        return VectorTable.of(numbers, rows)


def num_lists(num_vectors: int, kind: EngineKind = EngineKind.IVF_SQ8) -> int:
    """Return how many inverted lists suit a collection: ``4 sqrt(N)``, with at least 39 vectors in each on average.

    The nearest lists of 4-bit codes are found quickly, so that more of them cost little and less is read. On
    100,000 x 512, a search took 94, 70 and 67 microseconds with 1,264, 2,500 and 3,500 lists; on ten times as many
    vectors 154 and 174 with 4,000 and 8,000 (2026-11-30).
    """
    wanted = int(4 * math.sqrt(num_vectors))
    if kind is EngineKind.IVF_PQ4:
        wanted = max(wanted, _LEAST_LISTS_OF_QUICK_CODES)
    return max(1, min(wanted, num_vectors // 39))


def _on_host(kind: EngineKind) -> EngineKind:
    """Return the kind of the lists behind those on a GPU; others are their own."""
    return EngineKind.IVF_SQ8 if kind is EngineKind.GPU_IVF_SQ8 else kind


def _effort_if_tuned(state: EngineState, name: str) -> Effort | None:
    return None if state.config.get(name) is None else _effort(state, name)


def _effort(state: EngineState, name: str) -> Effort:
    match state.config[name]:
        case int(value):  # as snapshots were before 2026-11-30
            return Effort.even(value)
        case [int(first), int(second), int(third)]:
            return Effort((first, second, third))
        case other:
            raise TypeError(f"expected {name} to be three whole numbers; got {other!r}")


def _whole(state: EngineState, name: str) -> int:
    value = state.config[name]
    if not isinstance(value, int):
        raise TypeError(f"expected {name} to be a whole number; got {value!r}")
    return value
