"""What a calibration is worth on pictures that it was not fitted on: rates of acceptance, and confidence against truth.

Every query is asked twice: with its picture in the collection, and without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from structxlip.calibration import Background, MatchCalibration, MatchLevel, Numbers, QueryKind
from training.calibration.fitting import LEAST_SPREAD, cautious_rate, fit_calibration
from training.calibration.queries import CalibrationSet, QuerySet

NUM_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """One kind of query at one structure weight.

    Attributes:
        kind: Of the queries.
        structure_weight: Of the queries.
        num_queries: Asked, each twice.
        false_accept_rate: Queries without their picture that find a match all the same.
        true_accept_rate: Queries with their picture whose best hit is the picture and reaches the level.
        found: Queries with their picture whose best hit is the picture.
        flat_true_accept_rate: The same with one threshold on the score for all queries, set to the same
            false-accept rate on these very queries: more than it could reach in use.
        confidence: Of the best hit, `(2 Q,)`.
        is_right: Whether it was the picture, `(2 Q,)`.
    """

    kind: QueryKind
    structure_weight: float
    num_queries: int
    false_accept_rate: float
    true_accept_rate: float
    found: float
    flat_true_accept_rate: float
    confidence: Numbers
    is_right: NDArray[np.bool_]

    def bins(self) -> list[tuple[float, float, int]]:
        """Return mean confidence, share of right hits, and number of hits of each tenth that holds any."""
        place = np.minimum((self.confidence * NUM_BINS).astype(int), NUM_BINS - 1)
        return [
            (
                float(self.confidence[place == b].mean()),
                float(self.is_right[place == b].mean()),
                int((place == b).sum()),
            )
            for b in range(NUM_BINS)
            if (place == b).any()
        ]

    def calibration_error(self) -> float:
        """Return the mean distance of confidence from truth over the bins, weighted by their hits."""
        return sum(num * abs(told - right) for told, right, num in self.bins()) / len(self.confidence)


def measure_reliability(
    calibration: MatchCalibration, examples: CalibrationSet, kind: QueryKind, structure_weight: float
) -> Reliability:
    """Measure one kind of query at one structure weight."""
    level, queries = calibration.level_at(kind, structure_weight), examples.queries[kind]
    scores = queries.scores(examples.images, structure_weight).astype(np.float64)
    rows = np.arange(len(queries))
    own = scores[rows, queries.owner]
    scores[rows, queries.owner] = -np.inf
    other, num = scores.max(axis=1), scores.shape[1]
    expect = _Expectation(calibration.background, level, queries, structure_weight)
    with_own, without = expect.surprise(np.maximum(own, other), num), expect.surprise(other, num - 1)
    is_found = own > other
    flat = np.quantile(other, 1 - calibration.false_accept_rate)
    told = level.slope * np.concatenate([with_own, without]) + level.intercept
    return Reliability(
        kind=kind,
        structure_weight=structure_weight,
        num_queries=len(queries),
        false_accept_rate=float((without >= level.level).mean()),
        true_accept_rate=float((is_found & (with_own >= level.level)).mean()),
        found=float(is_found.mean()),
        flat_true_accept_rate=float((is_found & (own > flat)).mean()),
        confidence=1 / (1 + np.exp(-np.clip(told, -500, 500))),
        is_right=np.concatenate([is_found, np.zeros_like(is_found)]),
    )


def measure_all(calibration: MatchCalibration, examples: CalibrationSet, *, default_weight: float) -> list[Reliability]:
    """Measure every kind by appearance, at the default weight and by structure."""
    wanted = {
        QueryKind.TEXT: sorted({0.0, default_weight, 1.0}),
        QueryKind.PICTURE: sorted({0.0, default_weight, 1.0}),
        QueryKind.SKETCH: [1.0],
    }
    return [
        measure_reliability(calibration, examples, kind, weight)
        for kind, weights in wanted.items()
        for weight in weights
    ]


def cross_measured(
    background: Background, examples: CalibrationSet, *, default_weight: float, false_accept_rate: float, seed: int = 0
) -> list[Reliability]:
    """Fit on one half of the pictures and measure on the other, both ways: what there is without a second data set."""
    order = np.random.default_rng(seed).permutation(len(examples))
    halves = [examples.part(np.sort(part)) for part in np.array_split(order, 2)]
    measured = []
    for fitted, held_out in (halves, reversed(halves)):
        calibration = fit_calibration(
            background, fitted, default_weight=default_weight, false_accept_rate=false_accept_rate, seed=seed
        )
        measured.append(measure_all(calibration, held_out, default_weight=default_weight))
    return [_pooled(first, second) for first, second in zip(*measured, strict=True)]


def reliability_table(measured: Sequence[Reliability], *, false_accept_rate: float, num_pictures: int) -> str:
    """Return a table in Markdown; every figure in percent.

    Args:
        measured: The rows.
        false_accept_rate: What the level was set for, 0 to 1.
        num_pictures: That it was fitted on.
    """
    allowed = cautious_rate(false_accept_rate, num_pictures)
    few = f", by {100 * allowed:.1f} % of {num_pictures} pictures, which are few" if allowed < false_accept_rate else ""
    lines = [
        f"Set for {100 * false_accept_rate:.1f} % false accepts{few}; each query asked with its picture and without.",
        "",
        "| query | w | queries | false accepts | true accepts | of found | flat threshold's | calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in measured:
        shares = (row.false_accept_rate, row.true_accept_rate, row.found, row.flat_true_accept_rate)
        told = " | ".join(f"{100 * share:.1f}" for share in (*shares, row.calibration_error()))
        lines.append(f"| {row.kind} | {row.structure_weight:g} | {row.num_queries} | {told} |")
    return "\n".join(lines)


def draw_reliability(measured: Sequence[Reliability], path: Path) -> None:
    """Draw confidence against the share of right hits, one panel for each kind of query."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for place, kind in enumerate(QueryKind):
        axes = figure.add_subplot(1, len(QueryKind), place + 1)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for row in measured:
            if row.kind is kind:
                told, right, _ = zip(*row.bins(), strict=True)
                axes.plot(told, right, marker="o", markersize=3, label=f"w = {row.structure_weight:g}")
        axes.set(title=kind.value, xlabel="confidence", ylabel="share of right hits", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


@dataclass(frozen=True)
class _Expectation:
    background: Background
    level: MatchLevel
    queries: QuerySet
    structure_weight: float

    def surprise(self, scores: Numbers, num_images: float) -> Numbers:
        known = self.queries.scores(self.background, self.structure_weight).astype(np.float64)
        spread = np.maximum(known.std(axis=1), LEAST_SPREAD)
        expected = self.level.expected(known.mean(axis=1), spread, num_images=num_images)
        return np.asarray((scores - expected) / self.level.scale(num_images))


def _pooled(first: Reliability, second: Reliability) -> Reliability:
    share = first.num_queries / (first.num_queries + second.num_queries)

    def mean(name: str) -> float:
        return float(share * getattr(first, name) + (1 - share) * getattr(second, name))

    return Reliability(
        kind=first.kind,
        structure_weight=first.structure_weight,
        num_queries=first.num_queries + second.num_queries,
        false_accept_rate=mean("false_accept_rate"),
        true_accept_rate=mean("true_accept_rate"),
        found=mean("found"),
        flat_true_accept_rate=mean("flat_true_accept_rate"),
        confidence=np.concatenate([first.confidence, second.confidence]),
        is_right=np.concatenate([first.is_right, second.is_right]),
    )
