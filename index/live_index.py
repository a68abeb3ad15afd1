"""The engine in use, always at a known point of the history.

A search sees one committed state: it takes the lock that holds off changes to the engine, opens a
transaction on the catalogue, and checks that both stand at the same sequence number. When a commit has just
happened and the engine does not hold it yet, the search steps back and waits for it. So a search never
waits for the disk, and never sees a picture half-changed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Condition

import numpy as np

from index.catalogue import Catalogue, CatalogueReader, Matrix, Numbers
from index.catalogue_writes import VectorChange
from index.engine import Engine, EngineKind
from index.errors import NotReadyError, WouldWaitError
from index.locking import SharedLock

_logger = logging.getLogger(__name__)
_WAIT_SECONDS = 5.0
# Instead of a sequence number: the log of changes no longer goes back far enough.
_LOST = -1


@dataclass(frozen=True, slots=True)
class View:
    """An engine and a catalogue state that agree.

    Attributes:
        engine: Not to be used after `release`.
        reader: One state of the catalogue.
        release: Lets changes to the engine go on; the catalogue state stays.
    """

    engine: Engine
    reader: CatalogueReader
    release: Callable[[], None]


class LiveIndex:
    """Holds the engine, lets searches look at it, and brings changes into it."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = SharedLock()
        self._moved = Condition()
        self._engine: Engine | None = None
        self._sequence = -1

    @property
    def is_ready(self) -> bool:
        """An engine is there."""
        return self._engine is not None

    @property
    def kind(self) -> EngineKind | None:
        """The engine in use."""
        engine = self._engine
        return engine.kind if engine else None

    @property
    def parameters(self) -> Mapping[str, float]:
        """What was tuned."""
        engine = self._engine
        return engine.parameters if engine else {}

    @property
    def num_images(self) -> int:
        """What the engine holds."""
        engine = self._engine
        return len(engine) if engine else 0

    @property
    def needs_rebuild(self) -> bool:
        """The engine asks for it."""
        engine = self._engine
        return engine is not None and engine.needs_rebuild

    @property
    def sequence(self) -> int:
        """The last change that searches see."""
        return self._sequence

    @contextmanager
    def view(self, *, wait: bool = True) -> Iterator[View]:
        """Look at the engine and the catalogue in one state.

        Args:
            wait: For a change that is being brought in, if there is one.

        Raises:
            NotReadyError: If the index is still being loaded.
            WouldWaitError: If there is such a change, and it is not waited for.
        """
        while True:
            hold = self._lock.shared() if wait else self._lock.shared_now()
            if hold is None:
                raise WouldWaitError("the engine is being changed")
            with hold as held:
                if self._engine is None:
                    raise NotReadyError("the index is still being loaded; see /readyz for progress")
                with self._catalogue.read() as reader:
                    wanted = reader.sequence()
                    if wanted == self._sequence:
                        yield View(self._engine, reader, held.release)
                        return
            if not wait:
                raise WouldWaitError("the engine does not hold yet what was committed")
            with self._moved:
                self._moved.wait_for(partial(self._has_reached, wanted), timeout=_WAIT_SECONDS)

    def apply(self, sequence: int, changes: Sequence[VectorChange]) -> bool:
        """Bring committed changes into the engine.

        Returns:
            ``False`` when the engine failed and has to be made anew.
        """
        added, removed = _net(changes)
        with self._lock.exclusive():
            try:
                if self._engine is not None:
                    self._engine.remove(removed)
                    if len(added[0]):
                        self._engine.add(*added)
            except Exception:
                _logger.exception("the engine failed on a change and is made anew from the catalogue")
                self._engine = None
            self._move_to(sequence)
            return self._engine is not None

    def install(self, engine: Engine, sequence: int, *, verify: bool = False) -> bool:
        """Put an engine in place that holds everything up to a sequence number, after catching up.

        Args:
            engine: Not in use yet.
            sequence: What it holds.
            verify: Also compare what it holds then with the catalogue.

        Returns:
            ``False`` when the log of changes no longer goes back that far, or the comparison fails; nothing is
            changed then.
        """
        reached = sequence
        for _ in range(3):  # most of the way while searches and writes go on
            reached = self._catch_up(engine, reached)
        with self._lock.exclusive():
            reached = self._catch_up(engine, reached)
            if reached == _LOST or (verify and not self._holds_everything(engine)):
                return False
            self._engine = engine
            # A commit that is not applied yet may be in already; applying it again changes nothing.
            self._move_to(max(reached, self._sequence))
        return True

    def _has_reached(self, sequence: int) -> bool:
        return self._sequence >= sequence

    def _catch_up(self, engine: Engine, sequence: int) -> int:
        if sequence == _LOST:
            return _LOST
        with self._catalogue.read() as reader:
            changes = reader.changes_after(sequence)
            if changes is None:
                return _LOST
            engine.remove(changes.removed)
            if len(changes.added):
                engine.add(*reader.pairs(changes.added.tolist()))
            return changes.sequence

    def _holds_everything(self, engine: Engine) -> bool:
        with self._catalogue.read() as reader:
            return bool(np.array_equal(np.sort(engine.numbers()), reader.numbers()))

    def _move_to(self, sequence: int) -> None:
        with self._moved:
            self._sequence = max(sequence, self._sequence)
            self._moved.notify_all()


def _net(changes: Sequence[VectorChange]) -> tuple[tuple[Numbers, Matrix], Numbers]:
    """Leave out what was added and removed again within the group."""
    removed = {change.removed for change in changes if change.removed is not None}
    added = [change.added for change in changes if change.added is not None and change.added[0] not in removed]
    numbers = np.array([number for number, _ in added], dtype=np.int64)
    vectors = np.stack([vector for _, vector in added]) if added else np.empty((0, 0), np.float32)
    return (numbers, vectors), np.array(sorted(removed), dtype=np.int64)
