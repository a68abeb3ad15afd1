"""What a local collection does by itself: loading, rebuilding, snapshots, self-checks; one thread for all of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, cast

from index.allowed import USES_FOR_A_COPY, CopyCost, FilterMemory
from index.catalogue import Catalogue, CatalogueReader, Matrix, Numbers
from index.engine import Engine, EngineKind, EngineState
from index.engine_building import EngineBuilder
from index.engine_choice import Machine, choose_engine, first_engine
from index.engine_tuning import (
    Trial,
    find_candidates,
    find_efforts,
    lowest_recall,
    queries_for,
    set_efforts,
    tenth_scores,
    tune,
    twin_of,
)
from index.errors import CollectionClosedError, CollectionError, SnapshotError
from index.live_index import LiveIndex
from index.settings import LocalSettings
from index.snapshots import Lineage, Snapshot, SnapshotFolder, read_snapshot

if TYPE_CHECKING:  # they need FAISS
    from index.engine_fast_scan import FastScanEngine
    from index.filtered_lists import FilteredLists
    from index.half_copy import HalfCopy

_logger = logging.getLogger(__name__)
_FLAT_KINDS = (EngineKind.NUMPY, EngineKind.FLAT, EngineKind.GPU_FLAT)
_MAX_POLL_SECONDS = 0.5
# So many vectors in half precision are scanned in the time in which a graph or lists find the best of them: 0.3 ms at
# width 512.
_ALWAYS_SCANNED = 16_384
# So few are scored sooner where they stand, if the engine scores them all: 1,000 of width 512 in 85 instead of 124
# microseconds, 10,000 in 534 instead of 308 (AMD, 2026-11-30).
_LEAST_COPIED = 2_300
# Writes wait for it: some 2 ms.
_COPIED_AT_ONCE = 1024
# Of 102,000 pictures that had become 200,000, an engine found 95.6 % of the nearest where it had found 98.
_GROWN = 1.25


class Maintenance:
    """Loads the index in the background and keeps it in shape until it is stopped.

    Attributes:
        activity: ``None``, ``loading``, ``replaying``, ``rebuilding`` or ``tuning``.
        progress: Of the activity, 0 to 1.
        self_check_recall: The newest result.
        failure: Why the index could not be loaded.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        live: LiveIndex,
        filters: FilterMemory,
        snapshots: SnapshotFolder,
        settings: LocalSettings,
        machine: Machine,
        prune_log: Callable[[int], None],
        collect_orphans: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._live = live
        self._filters = filters
        self._snapshots = snapshots
        self._settings = settings
        self._machine = machine
        self._prune_log = prune_log
        self._collect_orphans = collect_orphans
        self._builder = EngineBuilder(2 * catalogue.dimension, settings)
        self._poll_seconds = min(_MAX_POLL_SECONDS, max(0.01, settings.snapshot_seconds))
        self._wake = Event()
        self._stopping = Event()
        self._loaded = Event()
        self._busy = Lock()
        self._snapshot_sequence = -1
        self._snapshot_time = time.monotonic()
        self._check_time = time.monotonic()
        self._num_tuned = 0
        self.activity: str | None = "loading"
        self.progress = 0.0
        self.self_check_recall: float | None = None
        self.failure: Exception | None = None
        self._thread = Thread(target=self._run, name="collection-maintenance", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def wait_until_loaded(self) -> None:
        """Wait for the index.

        Raises:
            CollectionError: If it could not be loaded.
        """
        self._loaded.wait()
        if self.failure is not None:
            raise self.failure

    def wake(self) -> None:
        """Have another look at what is due."""
        self._wake.set()

    def stop(self) -> None:
        """Finish what is being done and stop."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()

    def snapshot(self) -> None:
        """Write a snapshot of the engine, unless the newest one holds everything.

        Raises:
            StorageError: If the disk fails or is full.
            NotReadyError: If there is no index yet.
        """
        with self._busy:
            if self._live.sequence == self._snapshot_sequence and self._snapshots.newest_first():
                return
            with self._live.view() as view:
                lineage = self._lineage(view.reader)
                state = view.engine.state()
            self._snapshots.write(Snapshot(lineage, state))
            self._snapshot_sequence = lineage.sequence
            self._snapshot_time = time.monotonic()

    def self_check(self) -> float:
        """Return the recall@10 of the engine near a few stored vectors, of the structure weight that fares worst."""
        with self._live.view() as view:
            seed = int(time.time())
            queries = queries_for(view.engine, view.reader, max(1, self._settings.num_tuning_queries // 4), seed)
            candidates = find_candidates(view.engine, queries, self._settings.over_fetch)
            view.release()
            tenths = tenth_scores(queries, view.reader)
            self.self_check_recall = lowest_recall(queries, tenths, candidates, view.reader)
        self._check_time = time.monotonic()
        if self.self_check_recall < self._settings.recall_target:
            _logger.warning("the self-check found recall %.3f, below the target", self.self_check_recall)
        return self.self_check_recall

    def _run(self) -> None:
        try:
            self._load()
        except CollectionClosedError as error:
            self.failure = error
            return
        except Exception as error:
            _logger.exception("the index could not be loaded")
            self.failure = error
            return
        finally:
            self._loaded.set()
        self._attempt(self._collect_orphans)
        while not self._stopping.is_set():
            self._wake.wait(self._poll_seconds)
            self._wake.clear()
            for task in (
                self._rebuild_when_due,
                self._tune_when_grown,
                self._copy_when_due,
                self._snapshot_when_due,
                self._check_when_due,
            ):
                if self._stopping.is_set():
                    break
                self._attempt(task)

    def _attempt(self, task: Callable[[], None]) -> None:
        try:
            task()
        except CollectionClosedError:
            return
        except Exception:
            _logger.exception("background work on the index failed; it is tried again later")
            self._done()
            self._stopping.wait(_MAX_POLL_SECONDS)

    def _load(self) -> None:
        for path in self._snapshots.newest_first():
            try:
                self._load_snapshot(path)
            except SnapshotError as error:
                _logger.warning("snapshot %s is not used: %s", path.name, error)
            else:
                self._done()
                return
        # Exact search is ready in a fraction of the time; what is due instead is made while it serves.
        num_vectors = self._count()
        wanted = self._wanted(num_vectors, None)
        is_free = self._settings.engine == "auto"
        self._rebuild(first_engine(wanted, num_vectors, self._builder.width, self._machine) if is_free else wanted)
        self._done()

    def _load_snapshot(self, path: Path) -> None:
        self._doing("loading")
        snapshot = read_snapshot(path)
        with self._catalogue.read() as reader:
            self._check_lineage(snapshot.lineage, reader)
            num_vectors = reader.count_vectors()
        wanted = self._wanted(num_vectors, snapshot.state.kind)
        engine = self._builder.restore(_as_kind(snapshot.state, wanted, self._machine))
        self._doing("replaying", 0.9)
        if not self._live.install(engine, snapshot.lineage.sequence, verify=True):
            raise SnapshotError("it does not lead to the state of the catalogue")
        self._num_tuned = num_vectors
        self._snapshot_sequence = snapshot.lineage.sequence

    def _check_lineage(self, lineage: Lineage, reader: CatalogueReader) -> None:
        here = self._lineage(reader, lineage.sequence)
        if lineage.sequence > reader.sequence():
            raise SnapshotError(f"it is newer than the catalogue ({lineage.sequence} > {reader.sequence()})")
        if lineage != here:
            raise SnapshotError("it belongs to another collection, model or history")

    def _lineage(self, reader: CatalogueReader, sequence: int | None = None) -> Lineage:
        number = reader.sequence() if sequence is None else sequence
        return Lineage(reader.identity(), self._catalogue.fingerprint, number, reader.mark(number))

    def _rebuild_when_due(self) -> None:
        current = self._live.kind
        wanted = self._wanted(self._live.num_images, current)
        if current is not wanted or self._live.needs_rebuild:
            self._rebuild()
            self._done()

    def _wanted(self, num_vectors: int, current: EngineKind | None) -> EngineKind:
        return choose_engine(num_vectors, self._builder.width, self._settings, self._machine, current)

    def _count(self) -> int:
        with self._catalogue.read() as reader:
            return reader.count_vectors()

    def _rebuild(self, kind: EngineKind | None = None) -> None:
        """Make an engine from the catalogue while the present one, if any, goes on serving."""
        self._doing("rebuilding")
        started = time.monotonic()
        with self._catalogue.read() as reader:
            sequence = reader.sequence()
            num_vectors = reader.count_vectors()
            if num_vectors:
                _logger.info("rebuilding the index from %d stored pictures", num_vectors)
            kind = kind or self._wanted(num_vectors, self._live.kind)
            engine = self._builder.build(kind, reader, self._report)
            self._tune(engine, reader)
        if not self._live.install(engine, sequence):
            raise CollectionError("the log of changes was cut while the index was rebuilt")
        self._num_tuned = num_vectors
        self._snapshot_sequence = -1  # those that there are hold another engine
        self._filters.forget_lists()  # they were of the other
        if num_vectors:
            _logger.info("rebuilt the index (%s) in %.1f s", kind, time.monotonic() - started)

    def _tune(self, engine: Engine, reader: CatalogueReader) -> None:
        if engine.is_exact:
            return
        self._doing("tuning", 0.95)
        settings = self._settings
        reached = tune(
            engine,
            reader,
            target=settings.recall_target,
            num_stored=settings.num_tuning_queries,
            over_fetch=settings.over_fetch,
        )
        _logger.info("tuned %s to recall %.3f with %s", engine.kind, reached, dict(engine.parameters))

    def _copy_when_due(self) -> None:
        """Copy what a filter lets through that is used again and again: its vectors, or their codes in lists."""
        self._filters.forget_before(self._live.sequence)
        if not self._machine.has_faiss:
            return
        with self._live.view() as view:
            num_stored = len(view.engine)
            due = self._filters.due(partial(self._cost_of_copy, view.engine), num_stored)
            is_scanned = due is not None and self._is_scanned(len(due), view.engine)
        if due is None:
            return
        if is_scanned:
            self._filters.give(due, num_stored, copy=self._half_copy(due.numbers))
        else:
            self._filters.give(due, num_stored, lists=self._lists(due.numbers))

    def _cost_of_copy(self, engine: Engine, num_vectors: int) -> CopyCost | None:
        """Return what copying so many vectors of an engine takes; ``None`` where it gains nothing."""
        if num_vectors < _LEAST_COPIED and engine.is_exact_among(num_vectors):
            return None
        if self._is_scanned(num_vectors, engine):
            from index.half_copy import bytes_of_half_copy

            return CopyCost(bytes_of_half_copy(num_vectors, self._builder.width), USES_FOR_A_COPY)
        is_of_quick_codes = engine.kind is EngineKind.IVF_PQ4
        return cast("FastScanEngine", engine).cost_of_lists(num_vectors) if is_of_quick_codes else None

    def _is_scanned(self, num_vectors: int, engine: Engine) -> bool:
        """Tell whether a copy of so many vectors is scanned faster than the engine finds the best of them."""
        return num_vectors <= _ALWAYS_SCANNED or engine.is_exact_among(num_vectors)

    def _half_copy(self, numbers: Numbers) -> HalfCopy | None:
        from index.half_copy import HalfCopy

        copy = HalfCopy(self._builder.width, self._vectors(numbers))
        # Else some were removed meanwhile, and nobody asks for these any more.
        return copy if len(copy) == len(numbers) else None

    def _lists(self, numbers: Numbers) -> FilteredLists | None:
        with self._live.view() as view:
            lists = cast("FastScanEngine", view.engine).lists_of(numbers)
        while lists.has_more_to_take and not self._stopping.is_set():
            with self._live.view():
                lists.take_some()
            lists.keep_some()
        return lists if lists.is_complete else None

    def _vectors(self, numbers: Numbers) -> Iterator[tuple[Numbers, Matrix]]:
        """Yield vectors of those of these pictures that are there; changes to the engine come in between."""
        for start in range(0, len(numbers), _COPIED_AT_ONCE):
            wanted = numbers[start : start + _COPIED_AT_ONCE]
            with self._live.view() as view:
                rows = view.engine.vectors(wanted)
                view.release()
                part = view.reader.pairs(wanted.tolist()) if rows is None else (wanted, rows)
            if self._stopping.is_set() or len(part[1]) < len(wanted):
                return
            yield part

    def _snapshot_when_due(self) -> None:
        num_changes = self._live.sequence - self._snapshot_sequence
        age = time.monotonic() - self._snapshot_time
        is_due = num_changes >= self._settings.snapshot_changes or age >= self._settings.snapshot_seconds
        if num_changes > 0 and is_due:
            self._snapshot_time = time.monotonic()  # also when it fails: a full disk is not tried every half second
            self.snapshot()
            self._prune_log(self._snapshots.oldest_sequence())

    def _tune_when_grown(self) -> None:
        """Tune anew a while before the engine is made anew: longer lists want more candidates."""
        if self._live.num_images > _GROWN * self._num_tuned:
            self._tune_again()

    def _check_when_due(self) -> None:
        period = self._settings.self_check_seconds
        if period > 0 and time.monotonic() - self._check_time >= period and self._live.num_images:
            self._check_time = time.monotonic()
            if self.self_check() < self._settings.recall_target:
                self._tune_again()

    def _tune_again(self) -> None:
        """Tune the live engine; searches and writes go on meanwhile."""
        settings = self._settings
        self._num_tuned = self._live.num_images
        with self._live.view() as view:
            if view.engine.is_exact:
                return
        self._doing("tuning", 0.95)
        tuned = find_efforts(
            self._trial,
            target=settings.recall_target,
            num_stored=settings.num_tuning_queries,
            over_fetch=settings.over_fetch,
            seed=int(time.time()),
        )
        self.self_check_recall = tuned.recall
        with self._live.view() as view:
            set_efforts(view.engine, tuned.efforts)
            parameters = dict(view.engine.parameters)
        if tuned.efforts != tuned.before:
            self._snapshot_sequence = -1  # those that there are hold the others
        _logger.info("tuned again to recall %.3f with %s", tuned.recall, parameters)
        self._done()

    @contextmanager
    def _trial(self) -> Iterator[Trial]:
        """Try efforts on a twin of the live engine, which searches do not notice."""
        if self._stopping.is_set():
            raise CollectionClosedError("the collection was closed while its index was being tuned")
        with self._live.view() as view:
            yield Trial(twin_of(view.engine), view.reader, view.release)

    def _doing(self, activity: str, progress: float = 0.0) -> None:
        self.activity, self.progress = activity, progress

    def _report(self, progress: float) -> None:
        if self._stopping.is_set():
            raise CollectionClosedError("the collection was closed while its index was being made")
        before, self.progress = self.progress, 0.95 * progress
        if progress < 1 and int(4 * before / 0.95) < int(4 * progress):
            _logger.info("rebuilding the index: %.0f %% done", 100 * progress)

    def _done(self) -> None:
        self.activity, self.progress = None, 1.0


def _as_kind(state: EngineState, wanted: EngineKind, machine: Machine) -> EngineState:
    """Let a snapshot of one exact engine serve for another; they hold the same arrays."""
    if state.kind in _FLAT_KINDS and wanted in _FLAT_KINDS:
        return EngineState(wanted, state.config, state.arrays)
    if state.kind is EngineKind.GPU_IVF_SQ8 and machine.has_faiss and machine.num_gpus == 0:
        return EngineState(EngineKind.IVF_SQ8, state.config, state.arrays)
    if state.kind not in _FLAT_KINDS and not machine.has_faiss:
        raise SnapshotError(f"its engine {state.kind} needs FAISS, which is not installed")
    return state
