"""Exact scores: a search that is continued on another page meets the very same ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from index.scoring import exact_scores

NUM_ROWS, WIDTH = 9000, 96


@pytest.mark.parametrize("size", [1, 3, 4096, 4097, NUM_ROWS])
def test_a_score_is_the_same_to_the_last_bit_however_many_are_computed_with_it(size: int) -> None:
    chance = np.random.default_rng(0)
    pairs = chance.standard_normal((NUM_ROWS, WIDTH)).astype(np.float32)
    query = chance.standard_normal(WIDTH).astype(np.float32)
    expected = [np.float32(math.fsum(pair * query.astype(np.float64))) for pair in pairs[:size]]
    together = exact_scores(query, pairs[:size])
    assert together.dtype == np.float32
    np.testing.assert_array_max_ulp(together, np.array(expected), maxulp=1)
    alone = [exact_scores(query, pairs[place : place + 1])[0] for place in range(0, size, 97)]
    assert together[::97].tolist() == alone


def test_nothing_has_no_scores() -> None:
    assert exact_scores(np.ones(4, np.float32), np.empty((0, 4), np.float32)).shape == (0,)
