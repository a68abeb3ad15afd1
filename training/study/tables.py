"""Results of many runs as tables: mean ± sd, and paired bootstrap intervals of the differences from a reference.

Runs are paired at equal seed and fold, query by query. The bootstrap draws seeds and queries anew, both with
replacement: an interval that holds 0 may be the luck of either.

Shapes: `S` seeds, `Q` queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.study.plan import StudyConfig
from training.study.results import RunResult

NUM_DRAWS = 10_000
CUTS = (1, 5, 10)


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds, in percent; with a single seed there is no deviation."""

    mean: float
    deviation: float | None

    def told(self) -> str:
        """Return both as text."""
        return f"{self.mean:.1f}" if self.deviation is None else f"{self.mean:.1f} ± {self.deviation:.1f}"


@dataclass(frozen=True)
class Difference:
    """How far an arm is from another, in points of recall@1, with its 95 % interval and the seeds it rests on."""

    mean: float
    low: float
    high: float
    num_seeds: int

    def told(self) -> str:
        """Return it as text."""
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


@dataclass(frozen=True)
class ArmResults:
    """All runs of an arm in one part: ranks `(S, Q)`, the folds of a seed one after another."""

    runs: tuple[RunResult, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that have all their folds."""
        folds = {run.key.fold for run in self.runs}
        by_seed: dict[int, set[int]] = {}
        for run in self.runs:
            by_seed.setdefault(run.key.seed, set()).add(run.key.fold)
        return tuple(sorted(seed for seed, found in by_seed.items() if found == folds))

    def ranks(self, view: str, direction: str, seeds: Sequence[int]) -> NDArray[np.float64]:
        """Return the ranks `(S, Q)` of some seeds."""
        rows = []
        for seed in seeds:
            runs = sorted((run for run in self.runs if run.key.seed == seed), key=lambda run: run.key.fold)
            rows.append(np.concatenate([run.ranks[view][direction] for run in runs]))
        return np.array(rows, dtype=np.float64)

    def recall(self, view: str, direction: str, cut: int) -> Spread:
        """Return recall@cut over the seeds."""
        return _spread(100 * (self.ranks(view, direction, self.seeds) <= cut).mean(axis=1))

    def mrr(self, view: str, direction: str) -> Spread:
        """Return the mean reciprocal rank over the seeds."""
        return _spread(100 * (1 / self.ranks(view, direction, self.seeds)).mean(axis=1))


def by_arm(results: Iterable[RunResult], part: str) -> dict[str, ArmResults]:
    """Return the runs of a part, by arm; of runs that differ only in rate or configuration the last that was made."""
    found: dict[str, dict[tuple[int, int], RunResult]] = {}
    for result in results:
        if result.key.part == part:
            found.setdefault(result.key.arm, {})[result.key.seed, result.key.fold] = result
    return {arm: ArmResults(tuple(runs.values())) for arm, runs in found.items()}


def difference(
    arm: ArmResults,
    other: ArmResults,
    *,
    view: str = "appearance",
    other_view: str | None = None,
    direction: str = "text_to_image",
    cut: int = 1,
    num_draws: int = NUM_DRAWS,
) -> Difference | None:
    """Compare two arms where both have the same seeds and queries; none where they share no seed.

    Args:
        arm: One.
        other: What it is compared with.
        view: Of `arm`.
        other_view: Of `other`, where it differs.
        direction: Of the search.
        cut: Of the recall.
        num_draws: Of the bootstrap.
    """
    seeds = [seed for seed in arm.seeds if seed in other.seeds and _queries(arm, seed) == _queries(other, seed)]
    if not seeds:
        return None
    hit_SQ = arm.ranks(view, direction, seeds) <= cut
    other_SQ = other.ranks(other_view or view, direction, seeds) <= cut
    gain_SQ = 100 * (hit_SQ.astype(np.float64) - other_SQ)
    random = np.random.default_rng(0)
    drawn = np.array([_drawn_mean(gain_SQ, random) for _ in range(num_draws)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float(gain_SQ.mean()), float(low), float(high), len(seeds))


def markdown(study: StudyConfig, results: Sequence[RunResult]) -> str:
    """Return a table for each part that has results."""
    parts = []
    for name in study.parts:
        arms = by_arm(results, name)
        if arms:
            is_tuning = bool(study.parts[name].learning_rates)
            of_part = [result for result in results if result.key.part == name]
            table = (
                _tuning(of_part)
                if is_tuning
                else _table(study.reference_of(name), arms, reference_for(study, results, name))
            )
            parts.append(f"## {name}\n\n{table}\n")
    return f"# {study.name}\n\n" + "\n".join(parts)


def reference_for(study: StudyConfig, results: Sequence[RunResult], name: str) -> ArmResults | None:
    """Return the runs of the reference arm on the records of a part: its own, or those of a part that divides alike."""
    part = study.parts[name]
    alike = [
        other
        for other, known in study.parts.items()
        if not known.learning_rates
        and (known.kind, known.num_folds, known.num_val) == (part.kind, part.num_folds, part.num_val)
    ]
    found = (by_arm(results, other).get(study.reference_of(name)) for other in [name, *alike])
    return next((arm for arm in found if arm is not None), None)


def _table(reference_name: str, arms: dict[str, ArmResults], reference: ArmResults | None) -> str:
    head = (
        "arm", "runs", "lr", "R@1", "R@5", "R@10", "MRR", f"R@1 − {reference_name}", "fused R@1", "fused − own",
        "structure R@1", "w", "image → text R@1", f"image → text − {reference_name}", "short R@1", "epoch", "s",
    )  # fmt: skip
    rows = [head, ("---",) * len(head)]
    for name, arm in arms.items():
        if not arm.seeds:
            continue
        is_other = reference is not None and name != reference_name
        apart = difference(arm, reference) if reference is not None and is_other else None
        back = difference(arm, reference, direction="image_to_text") if reference is not None and is_other else None
        fused = difference(arm, arm, view="fused", other_view="appearance")
        weights = sorted({run.structure_weight for run in arm.runs})
        rows.append(
            (
                name,
                str(len(arm.runs)),
                ", ".join(f"{rate:g}" for rate in sorted({run.key.lr for run in arm.runs})),
                *(arm.recall("appearance", "text_to_image", cut).told() for cut in CUTS),
                arm.mrr("appearance", "text_to_image").told(),
                "" if apart is None else apart.told(),
                arm.recall("fused", "text_to_image", 1).told(),
                "" if fused is None or weights == [0.0] else fused.told(),
                arm.recall("structure", "text_to_image", 1).told(),
                f"{weights[0]:g}" if len(weights) == 1 else f"{weights[0]:g}–{weights[-1]:g}",
                arm.recall("appearance", "image_to_text", 1).told(),
                "" if back is None else back.told(),
                _spread([run.forgetting["r1"] for run in arm.runs if run.forgetting]).told(),
                f"{np.mean([run.epoch for run in arm.runs]):.1f}",
                f"{np.mean([run.seconds['training'] for run in arm.runs]):.0f}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _tuning(results: Sequence[RunResult]) -> str:
    rates = sorted({run.key.lr for run in results})
    rows = [("arm", *(f"lr {rate:g}" for rate in rates)), ("---",) * (len(rates) + 1)]
    for name in dict.fromkeys(run.key.arm for run in results):
        found = ([run.validation for run in results if (run.key.arm, run.key.lr) == (name, rate)] for rate in rates)
        rows.append((name, *(_spread(values).told() if values else "" for values in found)))
    return "Validation measure at each learning rate.\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _spread(values: Sequence[float] | NDArray[np.float64]) -> Spread:
    if not len(values):
        return Spread(float("nan"), None)
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _queries(arm: ArmResults, seed: int) -> list[str]:
    return [run.queries for run in sorted(arm.runs, key=lambda run: run.key.fold) if run.key.seed == seed]


def _drawn_mean(gain_SQ: NDArray[np.float64], random: np.random.Generator) -> float:
    num_seeds, num_queries = gain_SQ.shape
    seeds = np.bincount(random.integers(num_seeds, size=num_seeds), minlength=num_seeds)
    queries = np.bincount(random.integers(num_queries, size=num_queries), minlength=num_queries)
    return float(seeds @ gain_SQ @ queries / (num_seeds * num_queries))
