"""What a hit must not look like: a penalty in the query, and a filter on the hits.

A text tower does not hear "without": it finds what it is told to leave out. So negatives are measured on their own.
Each is subtracted from the query with a share of its weight, which moves pictures that look like it down; and a hit
whose score for the negative stands clearly above chance is left out altogether (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.search.queries import Term, TwoViewQuery, Vector, combine
from structxlip.calibration import MatchCalibration

# A first guess each: benchmarks/negatives.py measures what they do (docs/decisions/0012).
PENALTY = 0.5
CLEAR_STANDING = 1.5


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One negative, ready to be held against hits.

    Attributes:
        negative: As a query of its own.
        wanted: What was looked for, without penalty.
        threshold: The negative's score from which a hit is left out; ``None`` without a calibration: a hit is then left
            out when it is nearer to the negative than to what was looked for.
    """

    negative: TwoViewQuery
    wanted: TwoViewQuery
    threshold: float | None

    def excludes(self, appearance: Vector, structure: Vector) -> bool:
        """Tell whether a hit with these vectors is left out."""
        pair = np.concatenate([appearance, structure])
        found = float(self.negative.vector() @ pair)
        return found >= self.threshold if self.threshold is not None else found > float(self.wanted.vector() @ pair)


def make_exclusions(
    negatives: Sequence[Term],
    wanted: TwoViewQuery,
    *,
    structure_weight: float | None,
    default_weight: float,
    calibration: MatchCalibration | None,
) -> tuple[Exclusion, ...]:
    """Return what leaves hits out, one for each negative.

    Args:
        negatives: Embedded.
        wanted: What is looked for, without penalty.
        structure_weight: The caller's choice for the whole query.
        default_weight: The model's.
        calibration: Says how high scores of the negative stand that mean nothing.
    """
    found = []
    for term in negatives:
        query = combine([term], structure_weight=structure_weight, default_weight=default_weight)
        found.append(Exclusion(query, wanted, None if calibration is None else _threshold(query, calibration)))
    return tuple(found)


def with_penalty(query: TwoViewQuery, negatives: Sequence[Term]) -> TwoViewQuery:
    """Return the query less a share of its negatives: ``q − PENALTY · Σ n / number of negatives``, in both views.

    A view that the query or a negative does not have is left as it is.
    """
    if not negatives:
        return query
    away = combine(negatives, structure_weight=0.5, default_weight=0.5)
    appearance = query.appearance - PENALTY * away.appearance if query.appearance.any() else query.appearance
    return replace(
        query,
        appearance=np.asarray(appearance, dtype=np.float32),
        structure=np.asarray(query.structure - PENALTY * away.structure, dtype=np.float32),
    )


def _threshold(query: TwoViewQuery, calibration: MatchCalibration) -> float:
    scores = calibration.background.scores(query.appearance[None], query.structure[None], query.structure_weight)[0]
    return float(scores.mean() + CLEAR_STANDING * scores.std())
