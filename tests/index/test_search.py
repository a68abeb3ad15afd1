"""Which candidates are scored exactly, and their order."""

from __future__ import annotations

import numpy as np
import pytest

from index.cursors import SearchPosition
from index.engine import Candidates
from index.scoring import Scored
from index.search import SearchRequest, _hopeful, _rank


@pytest.mark.parametrize(
    ("tolerance", "after", "expected"),
    [
        (0.0, None, [4, 7, 2]),
        (0.006, None, [4, 7, 2, 9]),  # both scores may be off
        (1.0, None, [4, 7, 2, 9, 1, 3]),
        (float("inf"), None, [4, 7, 2, 9, 1, 3]),
        (0.0, SearchPosition(0.95, "a", 3), [4, 7, 2, 9, 1, 3]),  # who knows how many of them were seen
    ],
)
def test_only_what_may_be_among_the_best_is_scored(
    tolerance: float, after: SearchPosition | None, expected: list[int]
) -> None:
    request = SearchRequest(np.ones(4, np.float32), 2, after, None, None)
    scores = np.array([0.9, 0.8, 0.8, 0.79, 0.7, 0.6], np.float32)
    found = _hopeful(request, Candidates(np.array([4, 7, 2, 9, 1, 3]), scores), tolerance)
    assert found.numbers.tolist() == expected


class Names:
    """What ranking asks of a catalogue."""

    def names(self, numbers: list[int]) -> dict[int, str]:
        return {number: chr(ord("z") - number) for number in numbers}


@pytest.mark.parametrize(("num_wanted", "expected"), [(1, [2]), (2, [2, 5]), (3, [2, 5, 3]), (9, [2, 5, 3, 1])])
def test_names_decide_between_equal_scores_also_at_the_edge(num_wanted: int, expected: list[int]) -> None:
    scores = np.array([0.5, 0.9, 0.7, 0.7], np.float32)
    scored = Scored(np.array([1, 2, 3, 5]), np.zeros((4, 4), np.float32), scores)
    request = SearchRequest(np.ones(4, np.float32), num_wanted, None, None, None)
    assert _rank(request, scored, Names()).numbers.tolist() == expected  # type: ignore[arg-type]
