"""Which engine suits a collection of a given size on this machine."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from index.engine import EngineKind
from index.settings import LocalSettings

# Fastest first, and the most memory first.
_LARGE = (EngineKind.IVF_PQ4, EngineKind.IVF_SQ8, EngineKind.IVF_PQ)
_SLOW_TO_MAKE = (*_LARGE, EngineKind.HNSW)
_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to search with."""

    has_faiss: bool
    num_gpus: int
    memory_bytes: int = 8 << 30


def look_at_machine() -> Machine:
    """Find out whether FAISS is installed, how many GPUs it sees, and how much memory this process may use."""
    memory = _memory_bytes()
    if importlib.util.find_spec("faiss") is None:
        return Machine(has_faiss=False, num_gpus=0, memory_bytes=memory)
    import faiss

    return Machine(has_faiss=True, num_gpus=int(faiss.get_num_gpus()), memory_bytes=memory)


def choose_engine(
    num_vectors: int, width: int, settings: LocalSettings, machine: Machine, current: EngineKind | None = None
) -> EngineKind:
    """Choose the engine for a collection of this size.

    A large engine is kept until the collection falls below half the limit, so that a collection at the limit does not
    swing between two.

    Args:
        num_vectors: Pictures.
        width: Numbers in the pair of vectors of one.
        settings: The limit and the preferences.
        machine: What there is.
        current: The engine in use, if any.
    """
    if not machine.has_faiss:
        return EngineKind.NUMPY
    if settings.engine != "auto":
        return EngineKind(settings.engine)
    is_large_now = current in (*_SLOW_TO_MAKE, EngineKind.GPU_IVF_SQ8)
    is_large = num_vectors > (settings.flat_limit // 2 if is_large_now else settings.flat_limit)
    if settings.use_gpu and machine.num_gpus > 0:
        return EngineKind.GPU_IVF_SQ8 if is_large else EngineKind.GPU_FLAT
    if not is_large:
        return EngineKind.FLAT
    if settings.large_engine != "auto":
        return EngineKind(settings.large_engine)
    return _fastest_that_fits(num_vectors, width, machine, current)


def first_engine(wanted: EngineKind, num_vectors: int, width: int, machine: Machine) -> EngineKind:
    """Return what to begin with where nothing was saved: an exact scan, which is quick to make, if it fits."""
    return (
        EngineKind.FLAT if wanted in _SLOW_TO_MAKE and 4 * width * num_vectors <= machine.memory_bytes // 4 else wanted
    )


def engine_bytes(kind: EngineKind, num_vectors: int, width: int) -> int:
    """Return about what a large engine takes in memory."""
    match kind:
        case EngineKind.HNSW:
            a_vector = 4 * width + 300  # 64 links and their table, the number and the place
        case EngineKind.IVF_PQ4:
            a_vector = 4 * width + width // 4 + 150
        case EngineKind.IVF_SQ8:
            a_vector = width + 150  # its number in the lists, in the direct map and in our set
        case _:
            a_vector = width // 4 + 150
    return num_vectors * a_vector


def _fastest_that_fits(num_vectors: int, width: int, machine: Machine, current: EngineKind | None) -> EngineKind:
    # A new engine is made beside the one in use, and the model wants memory too: hence a quarter. The one in use may
    # grow a third beyond its limit, so that a collection at a limit does not swing between two.
    for kind in _LARGE:
        slack = 4 / 3 if kind is current else 1.0
        if engine_bytes(kind, num_vectors, width) <= slack * machine.memory_bytes / 4:
            return kind
    return _LARGE[-1]


def _memory_bytes() -> int:
    """Return the memory of the machine, or of the container where that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CONTAINER_LIMITS:
        try:
            limit = path.read_text().strip()
        except OSError:
            continue
        if limit.isdecimal():
            return min(total, int(limit))
    return total
