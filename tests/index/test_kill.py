"""SIGKILL at random moments: what was acknowledged is there, what was not is there as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from index.collection import NewImage
from index.exact import ExactCollection
from index.local import LocalCollection
from tests.index.builders import DIMENSION, FINGERPRINT, open_local, picture, query_vector, shown, wait_until

ROOT = Path(__file__).parents[2]
NUM_ROUNDS = 20
State = dict[str, tuple[int, int]]


@dataclass
class Ledger:
    """What every name must hold: content seed and metadata value. Each thread owns its names."""

    sure: State = field(default_factory=dict)

    def read(self, notes: Path) -> tuple[list[State], int]:
        """Return, for each write that was not acknowledged, the state it would make of its names, and the acks."""
        pending: dict[int, list[object]] = {}
        num_acknowledged = 0
        for line in notes.read_text().splitlines():
            event = json.loads(line)
            if event[0] == "begin":
                pending[event[1]] = event
            elif event[0] == "end":
                self._apply(pending.pop(event[1]))
                num_acknowledged += 1
        return [outcome(event) for event in pending.values()], num_acknowledged

    def _apply(self, event: list[object]) -> None:
        for name, value in outcome(event).items():
            if value == (-1, -1):
                self.sure.pop(name, None)
            else:
                self.sure[name] = value


def outcome(event: list[object]) -> State:
    _, _, kind, names, content, value = event
    assert isinstance(names, list)
    assert isinstance(content, int)
    assert isinstance(value, int)
    if kind == "delete":
        return {names[0]: (-1, -1)}
    return {name: (content + i, value) for i, name in enumerate(names)}


def run_and_kill(folder: Path, notes: Path, seed: int, seconds: float) -> None:
    command = [sys.executable, "-m", "tests.index.kill_child", str(folder), str(notes), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as child:
        end = time.monotonic() + 60
        while not (notes.exists() and '"ready"' in notes.read_text()):
            assert child.poll() is None, "the child ended by itself"
            assert time.monotonic() < end
            time.sleep(0.005)
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def stored(collection: LocalCollection) -> State:
    found: State = {}
    by_hash = {picture("x", seed).content_hash: seed for seed in range(60)}
    for record in collection.list_images(limit=1000).items:
        value = record.metadata["v"]
        assert isinstance(value, int)
        found[record.id] = (by_hash[record.content_hash], value)
    return found


def settle(ledger: Ledger, unsure: list[State], found: State) -> None:
    """Each unacknowledged write happened as a whole or not at all; take over which."""
    for write in unsure:
        now = {name: found.get(name, (-1, -1)) for name in write}
        before = {name: ledger.sure.get(name, (-1, -1)) for name in write}
        assert now in (write, before), f"half a write: {now}, expected {write} or {before}"
        for name, value in now.items():
            if value == (-1, -1):
                ledger.sure.pop(name, None)
            else:
                ledger.sure[name] = value


def check_everything(collection: LocalCollection, ledger: Ledger) -> None:
    oracle = ExactCollection(dimension=DIMENSION, fingerprint=FINGERPRINT)
    images: list[NewImage] = [
        picture(name, content, metadata={"v": value}) for name, (content, value) in ledger.sure.items()
    ]
    oracle.add(images)
    for image in images:
        content = collection.original(image.id)
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == image.content_hash
        vectors = collection.vectors(image.id)
        assert vectors is not None
        np.testing.assert_array_equal(vectors[0], image.appearance)
    for seed in range(3):
        query = query_vector(seed)
        assert shown(collection.search(query, limit=50)) == shown(oracle.search(query, limit=50))


def originals_kept(folder: Path) -> set[str]:
    return {path.name for path in (folder / "originals").glob("??/*")}


def originals_wanted(ledger: Ledger) -> set[str]:
    return {picture("x", content).content_hash for content, _ in ledger.sure.values()}


def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    folder, ledger = tmp_path / "collection", Ledger()
    chooser = random.Random(7)
    num_acknowledged = 0
    for number in range(NUM_ROUNDS):
        notes = tmp_path / f"notes{number}"
        run_and_kill(folder, notes, number, chooser.uniform(0.0, 0.3))
        unsure, num = ledger.read(notes)
        num_acknowledged += num
        with open_local(folder) as collection:
            found = stored(collection)
            settle(ledger, unsure, found)
            assert found == ledger.sure
            check_everything(collection, ledger)
            wait_until(lambda: originals_kept(folder) == originals_wanted(ledger))
        assert list((folder / "originals" / "incoming").iterdir()) == []
    assert num_acknowledged >= NUM_ROUNDS, "the children were killed before they did anything"
