"""Which engine suits a collection of a given size on this machine."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from index.engine import EngineKind
from index.settings import LocalSettings


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to search with."""

    has_faiss: bool
    num_gpus: int


def look_at_machine() -> Machine:
    """Find out whether FAISS is installed and how many GPUs it sees."""
    if importlib.util.find_spec("faiss") is None:
        return Machine(has_faiss=False, num_gpus=0)
    import faiss

    return Machine(has_faiss=True, num_gpus=int(faiss.get_num_gpus()))


def choose_engine(
    num_vectors: int, settings: LocalSettings, machine: Machine, current: EngineKind | None = None
) -> EngineKind:
    """Choose the engine for a collection of this size.

    A large engine is kept until the collection falls below half the limit, so that a collection at the limit does not
    swing between two.

    Args:
        num_vectors: Pictures.
        settings: The limit and the preferences.
        machine: What there is.
        current: The engine in use, if any.
    """
    if not machine.has_faiss:
        return EngineKind.NUMPY
    if settings.engine != "auto":
        return EngineKind(settings.engine)
    is_large_now = current in (EngineKind.IVF_SQ8, EngineKind.HNSW, EngineKind.GPU_IVF_SQ8)
    is_large = num_vectors > (settings.flat_limit // 2 if is_large_now else settings.flat_limit)
    if settings.use_gpu and machine.num_gpus > 0:
        return EngineKind.GPU_IVF_SQ8 if is_large else EngineKind.GPU_FLAT
    return EngineKind(settings.large_engine) if is_large else EngineKind.FLAT
