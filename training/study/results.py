"""What runs found, kept as one JSON line each; a line is written whole before the next run starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.study.plan import RunKey

Ranks = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class RunResult:
    """What one run found.

    Attributes:
        key: Which run.
        validation: The measure that chose epoch and rate.
        epoch: Whose weights were measured.
        structure_weight: Of the fused view, chosen on validation.
        metrics: `metrics[view][direction][measure]` on the test part.
        ranks: `ranks[view][direction]`, the rank of the right item for each query, in the order of `queries`.
        queries: Digest of the test records in their order: ranks of runs with equal digests can be paired.
        forgetting: Text to image on the short captions, by measure.
        seconds: Processor time of training and of everything.
    """

    key: RunKey
    validation: float
    epoch: int
    structure_weight: float
    metrics: dict[str, Any]
    ranks: Ranks
    queries: str
    forgetting: dict[str, float]
    seconds: dict[str, float]


def append(path: Path, result: RunResult) -> None:
    """Add a result, and see it on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result), separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[RunResult]:
    """Read all results; a last line that a kill cut short is dropped from the file, so that its run is made again."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines), encoding="utf-8")
    return [_parsed(json.loads(line)) for line in lines]


def tuned_rates(results: Iterable[RunResult], part: str) -> dict[str, float]:
    """Return each arm's learning rate with the best mean validation over the seeds of a part."""
    found: dict[str, dict[float, list[float]]] = {}
    for result in results:
        if result.key.part == part:
            found.setdefault(result.key.arm, {}).setdefault(result.key.lr, []).append(result.validation)
    return {arm: max(by_rate, key=lambda lr: _mean(by_rate[lr])) for arm, by_rate in found.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _parsed(tree: dict[str, Any]) -> RunResult:
    return RunResult(**{**tree, "key": RunKey(**tree["key"])})
