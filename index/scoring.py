"""Scores computed exactly from stored vectors, the same to the last bit wherever and however often they are
computed.

A matrix product rounds differently with the number of rows it is given, so two pages of one search could
disagree about the score on which a cursor stands. Here each row is summed by itself, in float64, and
rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Matrix, Numbers
from index.collection import Vector

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Scored:
    """Pictures with their exact scores; arrays of one length."""

    numbers: Numbers
    vectors: Matrix
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, which: NDArray[np.bool_]) -> Scored:
        """Return those that a mask keeps."""
        return Scored(self.numbers[which], self.vectors[which], self.scores[which])

    def first(self, num: int) -> Scored:
        """Return as many from the beginning."""
        if num >= len(self):
            return self
        return Scored(self.numbers[:num], self.vectors[:num], self.scores[:num])

    def at(self, places: Numbers) -> Scored:
        """Return those at these places, in their order."""
        return Scored(self.numbers.take(places), self.vectors.take(places, axis=0), self.scores.take(places))


def exact_scores(query: Vector, pairs: Matrix) -> NDArray[np.float32]:
    """Return ``query . pair`` for each row of ``pairs``, shape ``(N, 2 D)``, summed in float64."""
    if len(pairs) <= _ROWS_AT_ONCE:
        scores: NDArray[np.float32] = np.vecdot(pairs, query, dtype=np.float64).astype(np.float32)
        return scores
    starts = range(0, len(pairs), _ROWS_AT_ONCE)
    return np.concatenate([exact_scores(query, pairs[start : start + _ROWS_AT_ONCE]) for start in starts])


def best(scored: Scored, num_wanted: int) -> Scored:
    """Return the ``num_wanted`` best and whatever ties with the last of them, in no order."""
    if len(scored) <= num_wanted:
        return scored
    threshold = np.partition(scored.scores, len(scored) - num_wanted)[len(scored) - num_wanted]
    return scored.take(scored.scores >= threshold)


def join(parts: list[Scored]) -> Scored:
    """Put several together."""
    return Scored(
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )
