"""Fits what `structxlip.calibration` reads: see there for the formula.

Shapes: `Q` queries, `I` pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structxlip.calibration import Background, MatchCalibration, MatchLevel, Matrix, Numbers, QueryKind, growth_of
from training.calibration.queries import CalibrationSet, QuerySet

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
NUM_HALVES = 4
MIN_PICTURES = 20
# To fit on one half and to measure on the other.
MIN_EXAMPLES = 2 * MIN_PICTURES
LEAST_SPREAD = 1e-6
# Keeps the logistic function finite where right and wrong hits do not overlap at all.
RIDGE = 0.05
LEAST_SLOPE = 0.05


@dataclass(frozen=True)
class Outcomes:
    """How queries fare with and without their own picture.

    Attributes:
        own: Score of the own picture, `(Q,)`.
        best_other: Best score of all the others, `(Q,)`.
        mean: Of the query's background scores, `(Q,)`.
        spread: Of the same, `(Q,)`.
    """

    own: Numbers
    best_other: Numbers
    mean: Numbers
    spread: Numbers


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
    """Fit the coefficients of one kind of query at one structure weight."""
    background_scores = queries.scores(background, structure_weight).astype(np.float64)
    scores = queries.scores(images, structure_weight).astype(np.float64)
    own = scores[np.arange(len(queries)), queries.owner]
    scores[np.arange(len(queries)), queries.owner] = -np.inf
    mean, spread = background_scores.mean(axis=1), np.maximum(background_scores.std(axis=1), LEAST_SPREAD)
    others = scores.max(axis=1)
    predictors = np.stack([np.ones_like(mean), mean, spread], axis=1)
    offset, per_mean, per_spread = _least_squares(predictors, others)
    residual = others - predictors @ np.array([offset, per_mean, per_spread])
    raw = MatchLevel(
        offset=offset,
        per_mean=per_mean,
        per_spread=per_spread,
        per_growth=float(spread.mean()),
        residual=max(float(residual.std()), LEAST_SPREAD),
        num_images=float(scores.shape[1] - 1),
        level=0.0,
        slope=1.0,
        intercept=0.0,
        growth=growth_of(background_scores),
    )
    found = Outcomes(own, others, mean, spread)
    reached = _surprises(raw, found, others, raw.num_images)
    halves = _halves(raw, found, scores, seed)
    slope, intercept = fit_logistic(*_best_hits(raw, found))
    return MatchLevel(
        **vars(raw)
        | {
            "level": float(np.quantile(np.concatenate([reached, *halves]), 1 - false_accept_rate)),
            "slope": slope,
            "intercept": intercept,
        }
    )


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


def _least_squares(predictors: Matrix | Numbers, wanted: Numbers) -> tuple[float, float, float]:
    found, *_ = np.linalg.lstsq(predictors, wanted, rcond=1e-6)
    return float(found[0]), float(found[1]), float(found[2])


def _surprises(level: MatchLevel, found: Outcomes, scores: Numbers, num_images: float) -> Numbers:
    expected = level.expected(found.mean, found.spread, num_images=num_images)
    return np.asarray((scores - expected) / level.residual)


def _halves(level: MatchLevel, found: Outcomes, others: Numbers, seed: int) -> list[Numbers]:
    """Return the surprises in random halves of the collection: more examples, at another size."""
    random, num = np.random.default_rng(seed), others.shape[1]
    kept = [random.permutation(num)[: num // 2] for _ in range(NUM_HALVES)]
    return [_surprises(level, found, others[:, rows].max(axis=1), len(rows)) for rows in kept]


def _best_hits(level: MatchLevel, found: Outcomes) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return the best hit of each query twice: with its picture in the collection, and without."""
    with_own = _surprises(level, found, np.maximum(found.own, found.best_other), level.num_images + 1)
    without = _surprises(level, found, found.best_other, level.num_images)
    is_right = found.own > found.best_other
    return np.concatenate([with_own, without]), np.concatenate([is_right, np.zeros_like(is_right)])


def weights_of(calibration: MatchCalibration, kind: QueryKind) -> Sequence[float]:
    """Return the structure weights at which a kind was fitted."""
    return [weight for weight, _ in calibration.levels[kind]]
