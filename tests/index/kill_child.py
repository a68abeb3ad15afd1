"""Writes to a collection from several threads, and notes what it is about to do and what was acknowledged.

Started by `test_kill`, and killed by it. The notes go to a pipe-like file, one line per event, each a single write.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from pathlib import Path

from index.settings import LocalSettings
from tests.index.builders import open_local, picture

NAMES_PER_THREAD = 6


def main(folder: Path, notes: Path, seed: int) -> None:
    settings = LocalSettings(self_check_seconds=0, snapshot_changes=20, snapshot_seconds=0.05)
    collection = open_local(folder, settings)
    descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*event: object) -> None:
        os.write(descriptor, (json.dumps(event) + "\n").encode())

    def work(thread: int) -> None:
        chooser = random.Random(seed * 100 + thread)
        for step in range(100_000):
            names = chooser.sample([f"t{thread}n{i}" for i in range(NAMES_PER_THREAD)], chooser.choice([1, 1, 3]))
            content = chooser.randrange(50)
            value = seed * 1_000_000 + step
            if chooser.random() < 0.25:
                note("begin", thread, "delete", names[:1], 0, 0)
                collection.delete(names[0])
                note("end", thread)
            else:
                note("begin", thread, "add", names, content, value)
                collection.add([picture(name, content + i, metadata={"v": value}) for i, name in enumerate(names)])
                note("end", thread)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for each in threads:
        each.start()
    note("ready")
    for each in threads:
        each.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
