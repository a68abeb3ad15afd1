from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.recall import retrieval


def measure(scores: Tensor, positives: Sequence[Sequence[int]], chunk: int = 256) -> dict[str, float]:
    return retrieval(lambda rows: scores[rows], positives, scores.shape[1], chunk=chunk).summary()


def over_all_orders(scores: Sequence[float], positives: Sequence[int]) -> dict[str, float]:
    """The slow twin: the mean of every measure over all orders that the scores allow."""
    found: list[dict[str, float]] = []
    for order in itertools.permutations(range(len(scores))):
        if any(scores[a] < scores[b] for a, b in itertools.pairwise(order)):
            continue
        ranks = sorted(order.index(item) + 1 for item in positives)
        gain = sum(1 / math.log2(rank + 1) for rank in ranks)
        best = sum(1 / math.log2(rank + 1) for rank in range(1, len(positives) + 1))
        found.append(
            {f"r{k}": 100.0 * (ranks[0] <= k) for k in (1, 5, 10)}
            | {"median_rank": float(ranks[0]), "mrr": 100 / ranks[0], "ndcg": 100 * gain / best}
        )
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


@pytest.mark.parametrize("number", [2, 7, 100])
def test_constant_similarity_gives_one_in_n_whatever_the_sort_order(number: int) -> None:
    found = measure(torch.full((number, number), 0.3), [[i] for i in range(number)])
    assert found["r1"] == pytest.approx(100 / number)
    assert found["r5"] == pytest.approx(100 * min(5, number) / number)
    assert found["median_rank"] == pytest.approx((number + 1) / 2)


def test_a_perfect_ranking_is_100() -> None:
    found = measure(torch.eye(20), [[i] for i in range(20)])
    assert found == {"r1": 100, "r5": 100, "r10": 100, "median_rank": 1, "mrr": 100, "ndcg": 100}


def test_of_several_captions_any_one_answers_a_picture() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    assert measure(scores, [[0, 1]])["r1"] == 100
    assert measure(scores, [[0]])["r1"] == 0


def test_each_caption_looks_for_its_picture_on_its_own() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    assert measure(scores, [[0], [0], [1]])["r1"] == pytest.approx(100 * 2 / 3)


def test_chunks_do_not_change_the_result() -> None:
    scores = torch.rand(37, 53, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    positives = [[i, (i * 7) % 53] for i in range(37)]
    assert measure(scores, positives, chunk=5) == measure(scores, positives, chunk=1000)


def test_half_precision_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        measure(torch.eye(3, dtype=torch.bfloat16), [[0], [1], [2]])


def test_a_query_without_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        measure(torch.eye(2), [[0], []])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_measures_are_the_mean_over_all_orders_of_tied_items(data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6))
    items = st.integers(0, len(scores) - 1)
    positives = data.draw(st.lists(items, min_size=1, max_size=len(scores), unique=True))
    assert measure(torch.tensor([scores]), [positives]) == pytest.approx(over_all_orders(scores, positives))
