"""What takes all cores for long gives way to what a person waits for."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from structxlip.backends.selection import Execution
from structxlip.models import load_encoder
from structxlip.priority import NICENESS, give_way
from tests.support.tiny_open_clip import write_tiny_open_clip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a priority of each thread")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def all_niceness() -> dict[int, int]:
    """Return that of every thread of this process."""
    threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    return {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


def test_a_thread_gives_way_alone() -> None:
    before, seen = niceness(), []

    def work() -> None:
        give_way()
        seen.append(niceness())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [min(19, before + NICENESS)]
    assert niceness() == before


def niceness_around_loading(folder: str) -> tuple[set[int], set[int]]:
    before = set(all_niceness().values())
    encoder = load_encoder(f"local-dir:{folder}", device="cpu", execution=Execution("openvino"))
    encoder.towers.images(np.zeros((4, encoder.image_size, encoder.image_size, 3), np.uint8))
    return before, set(all_niceness().values())


def test_pictures_are_embedded_on_threads_that_give_way(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = write_tiny_open_clip(tmp_path / "tiny")
    # In a process of its own: others may have loaded a model in this one.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        before, after = process.submit(niceness_around_loading, str(folder)).result()
    assert niceness() + NICENESS in after
    assert niceness() + NICENESS not in before
