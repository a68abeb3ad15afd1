"""Retrieval measured exactly: several positives a query, ties by their expectation, float32, any number of items.

With equal scores any order is as likely: what is reported is the mean over all of them, never that of a sort's own
order.
With `g` negatives above the best positive and `T` items tied with it, `p` of them positive, a cut at `k` keeps
`m = k − g` of the tied, and holds a positive with probability `1 − C(T − p, m) / C(T, m)`.

Shapes: `Q` queries, `N` items, `P` positives of the query that has most, `D` embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CUTS = (1, 5, 10)
Scorer = Callable[[slice], Tensor]


@dataclass(frozen=True)
class Retrieval:
    """One value a query.

    Attributes:
        hits: For each cut `k`, the probability `(Q,)` that one of the first `k` is a positive.
        rank: Expected rank `(Q,)` of the first positive, from 1.
        reciprocal_rank: Expected reciprocal rank `(Q,)` of the first positive.
        ndcg: Expected normalised discounted cumulative gain `(Q,)` over the whole ranking.
    """

    hits: Mapping[int, NDArray[np.float64]]
    rank: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]
    ndcg: NDArray[np.float64]

    def summary(self) -> dict[str, float]:
        """Return recall@k, MRR and nDCG in percent, and the median rank."""
        recalls = {f"r{cut}": 100 * float(hit.mean()) for cut, hit in self.hits.items()}
        return recalls | {
            "median_rank": float(np.median(self.rank)),
            "mrr": 100 * float(self.reciprocal_rank.mean()),
            "ndcg": 100 * float(self.ndcg.mean()),
        }


def retrieval(
    scores: Scorer, positives: Sequence[Sequence[int]], num_items: int, *, cuts: Sequence[int] = CUTS, chunk: int = 256
) -> Retrieval:
    """Measure a ranking of all items for each query.

    Args:
        scores: Gives the float32 scores `(rows, N)` of a slice of the queries.
        positives: For each query the items that answer it, 1 or more.
        num_items: `N`.
        cuts: The `k` of recall@k.
        chunk: Queries whose scores are held at a time.

    Raises:
        ValueError: If a query has no positive.
    """
    if any(not len(items) for items in positives):
        raise ValueError("every query needs at least one item that answers it")
    tables = _Tables(num_items, max(len(items) for items in positives))
    parts = []
    for first in range(0, len(positives), chunk):
        rows = slice(first, min(first + chunk, len(positives)))
        parts.append(_measure(scores(rows), positives[rows], tables, cuts))
    return Retrieval(
        hits={cut: np.concatenate([part.hits[cut] for part in parts]) for cut in cuts},
        rank=np.concatenate([part.rank for part in parts]),
        reciprocal_rank=np.concatenate([part.reciprocal_rank for part in parts]),
        ndcg=np.concatenate([part.ndcg for part in parts]),
    )


class _Tables:
    """Running sums over ranks, so that a mean over tied ranks is one subtraction."""

    def __init__(self, num_items: int, num_positives: int) -> None:
        rank = np.arange(1, num_items + 1)
        self.discount_sum = np.concatenate([[0.0], np.cumsum(1 / np.log2(rank + 1))])
        self.best_gain = self.discount_sum[: num_positives + 1]


def _measure(scores_QN: Tensor, positives: Sequence[Sequence[int]], tables: _Tables, cuts: Sequence[int]) -> Retrieval:
    if scores_QN.dtype != torch.float32:
        raise ValueError(f"ranks are measured on float32 scores, got {scores_QN.dtype}")
    num_items = scores_QN.shape[1]
    width = max(len(items) for items in positives)
    index_QP = torch.tensor([[*items, *[items[0]] * (width - len(items))] for items in positives])
    is_real_QP = np.array([[place < len(items) for place in range(width)] for items in positives])
    ascending_QN = scores_QN.sort(dim=1).values
    positive_QP = scores_QN.gather(1, index_QP.to(scores_QN.device))
    below_QP = torch.searchsorted(ascending_QN, positive_QP.contiguous()).cpu().numpy()
    up_to_QP = torch.searchsorted(ascending_QN, positive_QP.contiguous(), right=True).cpu().numpy()
    above_QP, tied_QP = num_items - up_to_QP, up_to_QP - below_QP

    discount_QP = (tables.discount_sum[above_QP + tied_QP] - tables.discount_sum[above_QP]) / tied_QP
    gain_Q = np.where(is_real_QP, discount_QP, 0).sum(axis=1)
    ndcg_Q = gain_Q / tables.best_gain[is_real_QP.sum(axis=1)]

    best_Q = np.where(is_real_QP, above_QP, num_items).argmin(axis=1)
    rows = np.arange(len(positives))
    above_Q, tied_Q = above_QP[rows, best_Q], tied_QP[rows, best_Q]
    num_tied_Q = ((above_QP == above_Q[:, None]) & is_real_QP).sum(axis=1)
    return Retrieval(
        hits={
            cut: np.array([_hit_chance(cut - a, t, p) for a, t, p in zip(above_Q, tied_Q, num_tied_Q, strict=True)])
            for cut in cuts
        },
        rank=above_Q + (tied_Q + 1) / (num_tied_Q + 1),
        reciprocal_rank=np.array(
            [_reciprocal_rank(a, t, p) for a, t, p in zip(above_Q, tied_Q, num_tied_Q, strict=True)]
        ),
        ndcg=ndcg_Q,
    )


def _hit_chance(num_kept: int, num_tied: int, num_positives: int) -> float:
    """Return the chance that a random `num_kept` of the tied items hold a positive."""
    if num_kept <= 0:
        return 0.0
    return 1.0 - _miss_chance(min(num_kept, num_tied), num_tied, num_positives)


def _miss_chance(num_kept: int, num_tied: int, num_positives: int) -> float:
    """Return C(T − p, m) / C(T, m), factor by factor over the positives: none of them is among the m kept."""
    chance = 1.0
    for place in range(num_positives):
        chance *= max(num_tied - num_kept - place, 0) / (num_tied - place)
    return chance


def _reciprocal_rank(num_above: int, num_tied: int, num_positives: int) -> float:
    """Return the mean of 1 / rank of the first positive over all orders of the tied items."""
    if num_tied == 1:
        return 1 / (num_above + 1)
    missed = [_miss_chance(kept, num_tied, num_positives) for kept in range(num_tied - num_positives + 2)]
    return float(sum((missed[r] - missed[r + 1]) / (num_above + r + 1) for r in range(len(missed) - 1)))
