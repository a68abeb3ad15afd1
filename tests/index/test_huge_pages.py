"""Huge pages for memory that searches read here and there."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from index.engine_hnsw import HnswEngine, new_graph
from index.huge_pages import use_huge_pages

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _huge_kilobytes() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) if found else 0


@pytest.mark.skipif(not _MODE.exists() or "[never]" in _MODE.read_text(), reason="this system gives no huge pages")
def test_a_graph_is_settled_in_huge_pages_and_finds_the_same() -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 128)).astype(np.float32)  # 10 MB
    graph = new_graph(128)
    graph.add(rows)
    engine = HnswEngine(graph, ef_search=32, slots=np.arange(len(rows), dtype=np.int64))
    before, found = _huge_kilobytes(), engine.search(rows[7], 10)
    engine.settle()
    again = engine.search(rows[7], 10)
    assert again.numbers.tolist() == found.numbers.tolist()
    if sys.platform == "linux" and _has_collapse():
        assert _huge_kilobytes() - before >= 8 * 1024


def test_memory_too_small_for_a_huge_page_is_left_alone() -> None:
    block = np.zeros(1000, dtype=np.uint8)
    use_huge_pages(block.ctypes.data, block.nbytes)
    use_huge_pages(0, 0)


def _has_collapse() -> bool:
    """Whether the system gathers memory that is in use already (Linux 6.1 and later, memory permitting)."""
    block = ctypes.create_string_buffer(1 << 23)
    before = _huge_kilobytes()
    use_huge_pages(ctypes.addressof(block), len(block))
    return _huge_kilobytes() > before
