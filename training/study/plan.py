"""Which runs a study has: each arm changes a common configuration, each part divides the records its way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from training.config import STRICT, TrainConfig, TrainingConfigError, load_config

Names = tuple[str, ...]


@checked(frozen=True, config=STRICT)
class Part:
    """One part of a study.

    Attributes:
        kind: `given` uses the split that the configuration names; `folds` divides all records anew.
        arms: Which arms, in the order in which they run; each seed goes through all of them before the next.
        seeds: Of order, augmentation and fresh weights.
        num_folds: For `folds`.
        num_val: For `folds`: records that are held back from training for validation.
        learning_rates: Rates that are tried; without them each arm uses its own, or the one that `tuned_by` found.
        tuned_by: The part whose validation chooses the rate.
        reference: The arm that its others are compared with, where it is not the study's.
    """

    kind: Literal["given", "folds"]
    arms: Names
    seeds: tuple[int, ...] = (0,)
    num_folds: Annotated[int, Field(ge=2)] = 5
    num_val: Annotated[int, Field(ge=1)] = 200
    learning_rates: tuple[float, ...] = ()
    tuned_by: str = ""
    reference: str = ""


@checked(frozen=True, config=STRICT)
class StudyConfig:
    """A study.

    Attributes:
        name: Of the study.
        base: The training configuration that all arms start from.
        results: Where results are kept, one JSON line each.
        common: Changes for all arms, `key=value` as on the command line.
        arms: Changes of each arm.
        parts: By name, in the order in which they run.
        reference: The arm that the others are compared with.
        untrained: Arms that take no step: the start as it is.
    """

    name: str
    base: str
    results: str
    arms: dict[str, Names]
    parts: dict[str, Part]
    common: Names = ()
    reference: str = "plain"
    untrained: Names = ()

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            unknown = sorted({*part.arms, *self.untrained, self.reference_of(name)} - {*self.arms})
            if unknown:
                raise ValueError(f"part {name} names the arms {', '.join(unknown)}; known: {', '.join(self.arms)}")
            if part.tuned_by and part.tuned_by not in self.parts:
                raise ValueError(f"part {name} is tuned by {part.tuned_by!r}; known: {', '.join(self.parts)}")

    def reference_of(self, part: str) -> str:
        """Return the arm that the others of a part are compared with."""
        return self.parts[part].reference or self.reference


@dataclass(frozen=True)
class RunKey:
    """Which run: it is the same one in every session that has the same configuration.

    Attributes:
        part: Of the study.
        arm: What is tried.
        seed: Of the run.
        fold: Which division of the records; 0 for the given split.
        lr: The learning rate.
        digest: Of everything else that decides the result.
    """

    part: str
    arm: str
    seed: int
    fold: int
    lr: float
    digest: str = field(default="", repr=False)

    def told(self) -> str:
        """Return it in one line."""
        return f"{self.part} {self.arm} seed {self.seed} fold {self.fold} lr {self.lr:g}"


def load_study(path: Path) -> StudyConfig:
    """Read a study.

    Raises:
        TrainingConfigError: If the file cannot be read or a value does not fit.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        return TypeAdapter(StudyConfig).validate_python(tree)
    except OSError as error:
        raise TrainingConfigError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TrainingConfigError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise TrainingConfigError(f"{path}: {told}") from error


def train_config(study: StudyConfig, arm: str, *, seed: int = 0, lr: float | None = None) -> TrainConfig:
    """Return the configuration of a run."""
    overrides = [*study.common, *study.arms[arm], f"seed={seed}"]
    if lr is not None:
        overrides.append(f"optimiser.lr={lr!r}")
    return load_config(Path(study.base), overrides)


def planned(study: StudyConfig, name: str, tuned: Mapping[str, float]) -> Iterator[tuple[RunKey, TrainConfig]]:
    """Yield the runs of a part with their configurations.

    Args:
        study: The study.
        name: Of the part.
        tuned: The learning rate of each arm that `tuned_by` has found one for.
    """
    part = study.parts[name]
    folds = range(part.num_folds) if part.kind == "folds" else range(1)
    for seed in part.seeds:
        for fold in folds:
            for arm in part.arms:
                for lr in part.learning_rates or (tuned.get(arm),):
                    config = train_config(study, arm, seed=seed, lr=lr)
                    key = RunKey(name, arm, seed, fold, config.optimiser.lr, _digest(config, part))
                    yield key, config


def _plain(value: Any) -> Any:
    """Return a source that stands in a mapping as plain values."""
    return _changed(value)


def _changed(tree: Any) -> dict[str, Any]:
    """Return what differs from the defaults: an option that is added later, and is off, leaves old results valid."""
    found = {}
    for each in fields(tree):
        value = getattr(tree, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if is_dataclass(value):
            value, default = _changed(value), {}
        if value != default:
            found[each.name] = value
    return found


def _digest(config: TrainConfig, part: Part) -> str:
    tree = _changed(config)
    for free in ("name", "saving"):
        tree.pop(free, None)
    tree.get("regime", {}).pop("num_threads", None)
    divided = {"kind": part.kind, "num_folds": part.num_folds, "num_val": part.num_val}
    return hashlib.sha256(json.dumps([tree, divided], sort_keys=True, default=_plain).encode()).hexdigest()[:12]
