"""Pictures of a study: how far each arm is from the reference, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.study.plan import StudyConfig
from training.study.results import RunResult
from training.study.tables import by_arm, difference, reference_for


def write_differences(path: Path, study: StudyConfig, results: Sequence[RunResult], part: str) -> bool:
    """Draw the differences in recall@1 from the reference; return whether there was anything to draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    arms = by_arm(results, part)
    reference = reference_for(study, results, part)
    arms.pop(study.reference_of(part), None)
    if reference is None:
        return False
    found = {
        name: apart
        for name, arm in arms.items()
        if name not in study.untrained and (apart := difference(arm, reference))
    }
    if not found:
        return False
    figure, axes = plt.subplots(figsize=(7, 1.0 + 0.32 * len(found)), constrained_layout=True)
    for row, apart in enumerate(found.values()):
        axes.plot([apart.low, apart.high], [row, row], color="tab:blue")
        axes.plot(apart.mean, row, "o", color="tab:blue")
        axes.annotate(f"{apart.num_seeds}", (apart.high, row), xytext=(4, -3), textcoords="offset points", fontsize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(
        f"text to image R@1, points over “{study.reference_of(part)}”\n95 % interval (small: number of seeds)"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True
