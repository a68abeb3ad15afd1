"""Huge pages for memory that searches read here and there."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from index.effort import Effort
from index.engine_hnsw import HnswEngine, new_graph
from index.huge_pages import use_huge_pages

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _huge_kilobytes(address: int) -> int:
    """Return how much of the mapping that holds an address lies in huge pages."""
    is_here = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_here = int(found[1], 16) <= address < int(found[2], 16)
        elif is_here and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    return 0


@pytest.mark.skipif(not _MODE.exists() or "[never]" in _MODE.read_text(), reason="this system gives no huge pages")
def test_a_graph_is_settled_in_huge_pages_and_finds_the_same() -> None:
    rows = np.random.default_rng(0).standard_normal((20_000, 128)).astype(np.float32)  # 10 MB
    graph = new_graph(128)
    graph.add(rows)
    engine = HnswEngine(graph, ef_search=Effort.even(32), slots=np.arange(len(rows), dtype=np.int64))
    found = engine.search(rows[7], 10)
    engine.settle()
    again = engine.search(rows[7], 10)
    assert again.numbers.tolist() == found.numbers.tolist()
    if _has_collapse():
        assert found.block is not None
        assert _huge_kilobytes(found.block.ctypes.data) >= 8 * 1024


def test_memory_too_small_for_a_huge_page_is_left_alone() -> None:
    block = np.zeros(1000, dtype=np.uint8)
    use_huge_pages(block.ctypes.data, block.nbytes)
    use_huge_pages(0, 0)


def _has_collapse() -> bool:
    """Whether the system gathers memory that is in use already (Linux 6.1 and later, memory permitting)."""
    block = ctypes.create_string_buffer(1 << 25)
    use_huge_pages(ctypes.addressof(block), len(block))
    return _huge_kilobytes(ctypes.addressof(block)) > 0
