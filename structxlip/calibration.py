"""Whether a hit is a match: how far its score stands above what the same query scores on pictures it does not mean.

Scores of different queries cannot be compared: one sentence scores 0.3 on everything, another 0.1 on its own picture.
So each query is also scored on a fixed *background* of pictures, kept with the checkpoint. From the mean `μ` and the
spread `σ` of these scores follows what the best of `M` pictures without a match should score,

    expected = a·k + b·μ + c·σ + d·k·(q − 1)/s,     surprise t = (score − expected) / (r·q·k),     q = (M/M₀)^s

with coefficients fitted on validation queries whose own picture was taken away (`M₀` pictures each). A larger
collection holds better chance hits, but ever less so: the best of many draws from scores that have an upper end moves
up and draws together by the same power `s < 0` of their number (the extreme-value law; `s = 0` is its limit, in which
the best rises by `d` with each unit of `log M`). `k` is the length of the query, 1 for a single term. A query *has a
match* when its best hit reaches the level that a stated share of the queries without one reach, and a hit's
*confidence* is a logistic function of `t`, fitted to how often a best hit was the right one. Coefficients are kept for
each kind of query at several structure weights and interpolated between them.

Shapes: `N` background pictures, `D` embedding, `Q` queries.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
Numbers = NDArray[np.float64]

KIND = "background-2"
# Kept the best of so many background pictures instead of a law.
FORMER_KIND = "background-1"
# Of a law that is read off the background: the increments over so many doublings of its size.
NUM_DOUBLINGS = 4
LEAST_SHAPE = -0.5
# A spread below this is rounding: every background picture scores the same.
LEAST_SPREAD = 1e-6
EULER = 0.5772156649


class QueryKind(StrEnum):
    """What a query is: their scores are distributed differently."""

    TEXT = "text"
    PICTURE = "picture"
    SKETCH = "sketch"


@dataclass(frozen=True)
class Background:
    """Pictures that stand for everything that a query does not mean.

    Attributes:
        appearance: Unit rows `(N, D)`.
        structure: Unit rows `(N, D)`.
    """

    appearance: Matrix
    structure: Matrix

    def __post_init__(self) -> None:
        if self.appearance.ndim != 2 or self.appearance.shape != self.structure.shape or len(self.appearance) < 2:
            raise ValueError(
                "a background has two views of at least 2 pictures, of one shape (N, D); "
                f"got {self.appearance.shape} and {self.structure.shape}"
            )

    def scores(self, appearance: Matrix, structure: Matrix, structure_weight: float) -> Matrix:
        """Return the scores `(Q, N)` of queries, whose views have the shape `(Q, D)`."""
        w = np.float32(structure_weight)
        found = (1 - w) * appearance @ self.appearance.T + w * structure @ self.structure.T
        return np.asarray(found, dtype=np.float32)

    def spread_of(self, appearance: Vector, structure: Vector, structure_weight: float) -> tuple[float, float]:
        """Return mean and standard deviation of one query's scores, its views of the shape `(D,)`."""
        scores = self.scores(appearance[None], structure[None], structure_weight)[0].astype(np.float64)
        mean = float(np.add.reduce(scores)) / len(scores)
        scores -= mean
        return mean, math.sqrt(float(scores @ scores) / len(scores))

    def rounded(self) -> Background:
        """Return the rows as they are after they were stored in half precision."""
        return Background(*(rows.astype(np.float16).astype(np.float32) for rows in (self.appearance, self.structure)))

    def digest(self) -> str:
        """Return a digest of the rows in half precision, 64 hexadecimal digits."""
        told = hashlib.sha256()
        for rows in (self.appearance, self.structure):
            told.update(np.ascontiguousarray(rows, dtype="<f2").tobytes())
        return told.hexdigest()


@dataclass(frozen=True)
class MatchLevel:
    """The coefficients for one kind of query at one structure weight; see the module's docstring.

    Attributes:
        offset: `a`.
        per_mean: `b`.
        per_spread: `c`.
        per_growth: `d`.
        shape: `s`, at most 0.
        residual: `r`, the spread of what the fit leaves.
        num_images: `M₀`.
        level: The surprise that a best hit must reach.
        slope: Of the logistic function.
        intercept: Of the logistic function.
    """

    offset: float
    per_mean: float
    per_spread: float
    per_growth: float
    shape: float
    residual: float
    num_images: float
    level: float
    slope: float
    intercept: float

    def expected(
        self, mean: Numbers | float, spread: Numbers | float, *, num_images: float, length: float = 1.0
    ) -> Numbers:
        """Return what the best of `M` pictures without a match should score, for each query."""
        grown = self.per_growth * growth(num_images / self.num_images, self.shape)
        return np.asarray(length * (self.offset + grown) + self.per_mean * mean + self.per_spread * spread)

    def scale(self, num_images: float) -> float:
        """Return the score of one unit of surprise, `r·q`."""
        return float(self.residual * (num_images / self.num_images) ** self.shape)

    def confidence(self, surprise: float) -> float:
        """Return the logistic function of a surprise, 0 to 1."""
        return _logistic(self.slope * surprise + self.intercept)


@dataclass(frozen=True)
class Judgement:
    """Tells the matches of one query, at one collection size.

    Attributes:
        expected: What the best of so many pictures without a match should score.
        scale: Score for one unit of surprise.
        level: The surprise that the best hit must reach.
        slope: Of the logistic function.
        intercept: Of the logistic function.
    """

    expected: float
    scale: float
    level: float
    slope: float
    intercept: float

    @property
    def min_score(self) -> float:
        """The score at the level: a hit from here on is a match."""
        return self.expected + self.level * self.scale

    def surprise(self, score: float) -> float:
        """Return how far a score stands above expectation, in residual spreads."""
        return (score - self.expected) / self.scale

    def confidence(self, score: float) -> float:
        """Return the probability that a best hit with this score is the right one, 0 to 1; rises with the score."""
        return _logistic(self.slope * self.surprise(score) + self.intercept)

    def is_match(self, score: float) -> bool:
        """Tell whether a score reaches the level."""
        return score >= self.min_score


@dataclass(frozen=True)
class MatchCalibration:
    """Judges queries against a background.

    Attributes:
        background: Kept with the checkpoint.
        false_accept_rate: Share of the queries without a match whose best hit reaches the level, 0 to 1.
        levels: For each kind of query: structure weights, ascending, with their coefficients.
    """

    background: Background
    false_accept_rate: float
    levels: Mapping[QueryKind, Sequence[tuple[float, MatchLevel]]]

    def judge(
        self,
        appearance: Vector,
        structure: Vector,
        *,
        structure_weight: float,
        kind: QueryKind,
        num_images: int,
        false_accept_rate: float | None = None,
    ) -> Judgement:
        """Return the judgement of one query.

        Args:
            appearance: `(D,)`; zeros for a query that has no colours.
            structure: `(D,)`.
            structure_weight: How much structure counts, 0 to 1.
            kind: Of the query.
            num_images: Pictures that are searched.
            false_accept_rate: Another rate than the calibrated one. Its level comes from a Gumbel distribution, whose
                tail is longer than any that was measured: it is kept rather than exceeded.
        """
        w = structure_weight
        # Without colours the score is w times the structural one, whatever w is: judged as at w = 1.
        is_colourless = not appearance.any() and w > 0
        coefficients = self.level_at(kind, 1.0 if is_colourless else w)
        length = w if is_colourless else _length(appearance, structure, w)
        mean, spread = self.background.spread_of(appearance, structure, w)
        expected = coefficients.expected(mean, max(spread, LEAST_SPREAD), num_images=max(1, num_images), length=length)
        rate = self.false_accept_rate if false_accept_rate is None else false_accept_rate
        scale = coefficients.scale(max(1, num_images))
        level = coefficients.level
        if rate != self.false_accept_rate:
            # In spreads of the whole validation collection at any size: spread wider over few pictures, a tail that is
            # too long already would refuse true copies.
            level = gumbel_level(rate) * coefficients.residual / scale
        return Judgement(
            expected=float(expected),
            scale=max(scale * length, LEAST_SPREAD),
            level=level,
            slope=coefficients.slope,
            intercept=coefficients.intercept,
        )

    def level_at(self, kind: QueryKind, structure_weight: float) -> MatchLevel:
        """Return the coefficients at any structure weight, linear between the calibrated ones."""
        known = self.levels[kind]
        weights = [weight for weight, _ in known]
        place = int(np.searchsorted(weights, structure_weight))
        if place == 0:
            return known[0][1]
        if place == len(known):
            return known[-1][1]
        (below, first), (above, second) = known[place - 1], known[place]
        return _between(first, second, (structure_weight - below) / (above - below))

    def statistics(self) -> dict[str, JsonValue]:
        """Return everything but the background's rows, as JSON."""
        levels: list[JsonValue] = [
            {"kind": kind.value, "structure_weight": weight, **_plain(level)}
            for kind, of_kind in self.levels.items()
            for weight, level in of_kind
        ]
        return {
            "background": self.background.digest(),
            "num_background": len(self.background.appearance),
            "levels": levels,
        }

    @classmethod
    def from_statistics(
        cls, statistics: Mapping[str, Any], *, background: Background, false_accept_rate: float
    ) -> MatchCalibration:
        """Read back what `statistics` gave, or gave when it was of the former kind.

        Raises:
            ValueError: If it is something else, or belongs to another background.
        """
        if statistics.get("background") != background.digest():
            raise ValueError("the background's rows are not the ones that the statistics were made with")
        levels: dict[QueryKind, list[tuple[float, MatchLevel]]] = {}
        try:
            for row in statistics["levels"]:
                row = _with_law(row) if "growth" in row else row
                level = MatchLevel(**{part.name: row[part.name] for part in fields(MatchLevel)})
                levels.setdefault(QueryKind(row["kind"]), []).append((float(row["structure_weight"]), level))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the calibration's statistics lack {error}") from error
        if set(levels) != set(QueryKind):
            raise ValueError(f"the calibration has levels for {sorted(levels)}, expected {sorted(QueryKind)}")
        ordered = {kind: sorted(of_kind, key=lambda item: item[0]) for kind, of_kind in levels.items()}
        return cls(background, false_accept_rate, ordered)


def gumbel_level(rate: float) -> float:
    """Return what a Gumbel variable of mean 0 and variance 1 exceeds with a probability: 1.866 for 0.05."""
    scale = math.sqrt(6) / math.pi
    return scale * (-math.log(-math.log1p(-rate)) - EULER)


def growth(times: float, shape: float) -> float:
    """Return `(times^shape − 1) / shape`, and its limit `log(times)` where the shape is 0."""
    rise = math.log(times)
    return math.expm1(shape * rise) / shape if abs(shape * rise) > 1e-9 else rise


def _length(appearance: Vector, structure: Vector, weight: float) -> float:
    """Return how long the weighted pair is beside one of unit vectors: 1 for a single term."""
    squares = (1 - weight) ** 2 * float(appearance @ appearance) + weight**2 * float(structure @ structure)
    return math.sqrt(squares / ((1 - weight) ** 2 + weight**2))


def _between(first: MatchLevel, second: MatchLevel, share: float) -> MatchLevel:
    return MatchLevel(
        **{
            part.name: (1 - share) * getattr(first, part.name) + share * getattr(second, part.name)
            for part in fields(MatchLevel)
        }
    )


def _with_law(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return coefficients of the former kind with the law that its heights follow.

    They are those of the best of 1, 2, 4, … background pictures, in spreads: the last steps give the rise with each
    unit of `log M`, and how it lessens from one doubling to the next gives the shape.
    """
    steps = np.diff(np.asarray(row["growth"], dtype=np.float64))[-NUM_DOUBLINGS:]
    shape = 0.0
    if len(steps) > 1 and steps[0] > 0 and steps[-1] > 0:
        shape = min(0.0, max(LEAST_SHAPE, math.log2(steps[-1] / steps[0]) / (len(steps) - 1)))
    # The last step ends at the background's size; it lessens or grows from there to the size that the fit was made at.
    doublings = math.log2(max(1.0, row["num_images"])) - (len(row["growth"]) - 1.5)
    rise = float(steps[-1]) * 2 ** (shape * doublings) / math.log(2) if len(steps) else 0.0
    return {**row, "per_growth": row["per_growth"] * rise, "shape": shape}


def _plain(level: MatchLevel) -> dict[str, JsonValue]:
    return {name: round(value, 6) for name, value in asdict(level).items()}


def _logistic(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(max(value, -700.0))
    return grown / (1 + grown)
