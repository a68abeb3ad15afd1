"""What can be set about a local collection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How a local collection searches and looks after itself.

    Attributes:
        engine: ``auto`` chooses by size and by what is installed; the others are for tests and experts.
        large_engine: What ``auto`` takes above ``flat_limit``; itself ``auto``, the fastest that fits in memory.
        flat_limit: Pictures up to which search is exact.
        use_gpu: Use a GPU where FAISS finds one.
        recall_target: Share of the exact 10 best that a tuned engine must find among its candidates.
        num_tuning_queries: Stored vectors near which tuning searches, each with three structure weights; self-checks
            take a quarter of them.
        over_fetch: Candidates taken from an approximate engine for each hit wanted, which are re-scored exactly; by
            default what the engine asks for.
        exact_filter_limit: Where a filter leaves at most this many pictures, all of them are scored exactly.
        retrain_growth: An engine with trained parts is made anew when the collection has grown this many times.
        snapshot_changes: Changes after which a snapshot is due.
        snapshot_seconds: Time after which a snapshot is due when there was any change.
        num_snapshots: Snapshots kept.
        self_check_seconds: Time between self-checks; 0 switches them off.
        max_group: Most write requests in one commit.
    """

    engine: Literal["auto", "numpy", "flat", "ivf_sq8", "ivf_pq", "ivf_pq4", "hnsw"] = "auto"
    large_engine: Literal["auto", "ivf_sq8", "ivf_pq", "ivf_pq4", "hnsw"] = "auto"
    flat_limit: int = 100_000
    use_gpu: bool = True
    recall_target: float = 0.98
    num_tuning_queries: int = 256
    over_fetch: int | None = None
    exact_filter_limit: int = 500
    retrain_growth: float = 2.0
    snapshot_changes: int = 10_000
    snapshot_seconds: float = 600.0
    num_snapshots: int = 2
    self_check_seconds: float = 900.0
    max_group: int = 256
