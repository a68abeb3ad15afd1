"""Fits what `structxlip.calibration` reads: see there for the formula.

Shapes: `Q` queries, `I` pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from structxlip.calibration import (
    LEAST_SHAPE,
    Background,
    MatchCalibration,
    MatchLevel,
    Matrix,
    Numbers,
    QueryKind,
    growth,
)
from training.calibration.queries import CalibrationSet, QuerySet

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
# Smaller collections that the law of growth is fitted on: parts of the whole, and how many times over.
PARTS = (2, 4, 8)
NUM_DRAWS = 2
NUM_HALVINGS = 5
SHAPES = np.linspace(LEAST_SHAPE, 0, 101)
MIN_PICTURES = 20
# To fit on one half and to measure on the other.
MIN_EXAMPLES = 2 * MIN_PICTURES
LEAST_SPREAD = 1e-6
# A level from few examples is stricter, so that this confident the rate is at most so many times the stated one.
MOST_TIMES_STATED = 1.5
CONFIDENCE = 0.95
# Keeps the logistic function finite where right and wrong hits do not overlap at all.
RIDGE = 0.05
LEAST_SLOPE = 0.05

Half: TypeAlias = tuple[Background, QuerySet]


@dataclass(frozen=True)
class Outcomes:
    """How queries fare with and without their own picture.

    Attributes:
        own: Score of the own picture, `(Q,)`.
        others: Scores of all pictures, and minus infinity for the own one, `(Q, I)`.
        mean: Of the query's background scores, `(Q,)`.
        spread: Of the same, `(Q,)`.
    """

    own: Numbers
    others: Numbers
    mean: Numbers
    spread: Numbers

    @property
    def best_other(self) -> Numbers:
        """Return the best score of all pictures but the own one, `(Q,)`."""
        return _best_of(self.others)

    @property
    def num_others(self) -> float:
        """Return how many pictures each query has besides its own."""
        return float(self.others.shape[1] - 1)


def fit_calibration(
    background: Background,
    examples: CalibrationSet,
    *,
    default_weight: float,
    false_accept_rate: float,
    seed: int = 0,
) -> MatchCalibration:
    """Fit every kind of query at several structure weights.

    Args:
        background: Pictures that no query means.
        examples: Other pictures, with queries that mean them.
        default_weight: The model's structure weight, which gets coefficients of its own.
        false_accept_rate: Share of the queries without a match that may reach the level, 0 to 1.
        seed: Draws the smaller collections that the level is checked on too.

    Raises:
        ValueError: If there are too few pictures to say anything.
    """
    if len(examples) < MIN_PICTURES:
        raise ValueError(f"a calibration needs at least {MIN_PICTURES} pictures with captions, got {len(examples)}")
    weights = sorted({*WEIGHTS, round(default_weight, 4)})
    levels = {
        kind: [
            (weight, fit_level(background, examples.images, queries, weight, false_accept_rate, seed))
            for weight in ([1.0] if kind is QueryKind.SKETCH else weights)
        ]
        for kind, queries in examples.queries.items()
    }
    return MatchCalibration(background, false_accept_rate, levels)


def fit_level(
    background: Background,
    images: Background,
    queries: QuerySet,
    structure_weight: float,
    false_accept_rate: float,
    seed: int = 0,
) -> MatchLevel:
    """Fit the coefficients of one kind of query at one structure weight.

    The level is what surprises reach on pictures that the coefficients were not fitted on: the validation pictures are
    halved several times over, and each half is judged by what the other gave. Judged by their own, queries surprise
    too little, and a collection has pictures of its own that come up for everything. The quantile is the stated rate,
    or less where the examples are too few to trust it: see `cautious_rate`.
    """
    found = _outcomes(background, images, queries, structure_weight)
    fitted = _coefficients(found, seed)
    reached = []
    for halves in _halvings(images, queries, seed):
        first, second = (_outcomes(background, *half, structure_weight) for half in halves)
        reached += [_surprises(_coefficients(first, seed), second), _surprises(_coefficients(second, seed), first)]
    level = float(np.quantile(np.concatenate(reached), 1 - cautious_rate(false_accept_rate, queries.num_pictures)))
    slope, intercept = fit_logistic(*_best_hits(fitted, found))
    return replace(
        fitted,
        level=level,
        slope=slope,
        intercept=intercept,
        # No larger collection may have a lower level.
        per_growth=max(fitted.per_growth, -fitted.shape * level * fitted.residual),
    )


def cautious_rate(stated: float, num_pictures: int) -> float:
    """Return the share of validation queries that may reach a level, so that few of those to come do.

    The rate beyond the value that `k` of `n` draws exceed has a distribution of its own, whatever that of the draws
    (Wilks 1941): it is above `p` with the probability that a binomial of `n` and `p` is at most `k`. The largest `k`
    for which that is at most `1 − CONFIDENCE`, at `p = MOST_TIMES_STATED · stated`, and never more than the stated
    share: 320 pictures are enough for 5 %.

    Args:
        stated: The rate that is stated, 0 to 1.
        num_pictures: `n`; several queries of one picture are no draws of their own.
    """
    largest = min(MOST_TIMES_STATED * stated, 1.0)
    at_most, k = 0.0, 0
    while k <= stated * num_pictures:
        at_most += _binomial(k, num_pictures, largest)
        if at_most > 1 - CONFIDENCE:
            return max(0, k - 1) / num_pictures
        k += 1
    return stated


def fit_growth(samples: Sequence[tuple[float, Numbers]], *, residual: float) -> tuple[float, float]:
    """Fit how the best chance hit rises, and how its spread shrinks, with the size of a collection.

    Least squares of both in residual spreads over `mean = d·growth(times, s)` and `spread = r·times^s`: one shape `s`
    for the two, as the law has it.

    Args:
        samples: Sizes beside the whole collection's, 0 to 1, and what the prediction for the whole one leaves, `(Q,)`.
        residual: `r`, the spread that it leaves in the whole one.

    Returns:
        `d` and `s`.
    """
    times = np.array([time for time, _ in samples])
    means = np.array([left.mean() for _, left in samples]) / residual
    spreads = np.array([left.std() for _, left in samples]) / residual
    best = (np.inf, 0.0, 0.0)
    for shape in SHAPES:
        rises = np.array([growth(float(time), float(shape)) for time in times])
        rise = max(0.0, float(rises @ means / (rises @ rises)))
        error = float(((means - rise * rises) ** 2).sum() + ((spreads - times**shape) ** 2).sum())
        best = min(best, (error, rise * residual, float(shape)))
    return best[1], best[2]


def fit_logistic(surprise: Numbers, is_right: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of the likeliest logistic function, by Newton's method with a small ridge."""
    centre, scale = float(surprise.mean()), max(float(surprise.std()), LEAST_SPREAD)
    design = np.stack([(surprise - centre) / scale, np.ones_like(surprise)], axis=1)
    coefficients = np.zeros(2)
    ridge = RIDGE * np.eye(2)
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (is_right - probability) - ridge @ coefficients
        hessian = (design * (probability * (1 - probability))[:, None]).T @ design + ridge
        step = np.linalg.solve(hessian, gradient)
        coefficients += np.clip(step, -2, 2)
        if float(np.abs(step).max()) < 1e-9:
            break
    slope = max(float(coefficients[0]), LEAST_SLOPE) / scale
    return slope, float(coefficients[1]) - slope * centre


def _binomial(k: int, n: int, p: float) -> float:
    """Return the probability of `k` of `n`, by logarithms: the coefficients of large `n` are no floats."""
    if p >= 1:
        return float(k == n)
    of_n = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(of_n + k * math.log(p) + (n - k) * math.log1p(-p))


def _least_squares(predictors: Matrix | Numbers, wanted: Numbers) -> tuple[float, float, float]:
    found, *_ = np.linalg.lstsq(predictors, wanted, rcond=1e-6)
    return float(found[0]), float(found[1]), float(found[2])


def _outcomes(background: Background, images: Background, queries: QuerySet, structure_weight: float) -> Outcomes:
    background_scores = queries.scores(background, structure_weight).astype(np.float64)
    others = queries.scores(images, structure_weight).astype(np.float64)
    own = others[np.arange(len(queries)), queries.owner]
    others[np.arange(len(queries)), queries.owner] = -np.inf
    spread = np.maximum(background_scores.std(axis=1), LEAST_SPREAD)
    return Outcomes(own, others, background_scores.mean(axis=1), spread)


def _coefficients(found: Outcomes, seed: int) -> MatchLevel:
    """Fit what the best of the other pictures should score; the level and the logistic function are still to come."""
    predictors = np.stack([np.ones_like(found.mean), found.mean, found.spread], axis=1)
    offset, per_mean, per_spread = _least_squares(predictors, found.best_other)
    predicted = predictors @ np.array([offset, per_mean, per_spread])
    residual = max(float((found.best_other - predicted).std()), LEAST_SPREAD)
    smaller = [(num / found.num_others, best - predicted) for num, best in _smaller_collections(found.others, seed)]
    per_growth, shape = fit_growth(smaller, residual=residual)
    return MatchLevel(
        offset=offset,
        per_mean=per_mean,
        per_spread=per_spread,
        per_growth=per_growth,
        shape=shape,
        residual=residual,
        num_images=found.num_others,
        level=0.0,
        slope=1.0,
        intercept=0.0,
    )


def _halvings(images: Background, queries: QuerySet, seed: int) -> Iterator[tuple[Half, Half]]:
    """Yield the pictures in two random halves, each with the queries that mean one of them, several times over."""
    num = len(images.appearance)
    for number in range(NUM_HALVINGS):
        order = np.random.default_rng([seed, number]).permutation(num)
        first, second = (
            (Background(images.appearance[rows], images.structure[rows]), queries.meaning(rows, num))
            for rows in map(np.sort, np.array_split(order, 2))
        )
        yield first, second


def _surprises(level: MatchLevel, found: Outcomes) -> Numbers:
    """Return how far the best of the other pictures stands above expectation, `(Q,)`."""
    return _surprise(level, found, found.best_other, found.num_others)


def _surprise(level: MatchLevel, found: Outcomes, scores: Numbers, num_images: float) -> Numbers:
    expected = level.expected(found.mean, found.spread, num_images=num_images)
    return np.asarray((scores - expected) / level.scale(num_images))


def _smaller_collections(others: Numbers, seed: int) -> list[tuple[float, Numbers]]:
    """Return sizes of random parts of the collection, and the best scores `(Q,)` in each."""
    random, num = np.random.default_rng(seed), others.shape[1]
    rows = [
        part for share in PARTS for _ in range(NUM_DRAWS) for part in np.array_split(random.permutation(num), share)
    ]
    # A query's own picture is in one of the parts, and does not count: alone it would leave none.
    return [(len(part) * (num - 1) / num, _best_of(others[:, part])) for part in rows if len(part) > 1]


def _best_of(scores: Numbers) -> Numbers:
    return np.asarray(scores.max(axis=1))


def _best_hits(level: MatchLevel, found: Outcomes) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return the best hit of each query twice: with its picture in the collection, and without."""
    with_own = _surprise(level, found, np.maximum(found.own, found.best_other), level.num_images + 1)
    without = _surprises(level, found)
    is_right = found.own > found.best_other
    return np.concatenate([with_own, without]), np.concatenate([is_right, np.zeros_like(is_right)])


def weights_of(calibration: MatchCalibration, kind: QueryKind) -> Sequence[float]:
    """Return the structure weights at which a kind was fitted."""
    return [weight for weight, _ in calibration.levels[kind]]
