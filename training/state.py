"""A run's state on the disk: enough to go on from the very step, written whole or not at all.

`state.pt` holds tensors and plain values only and is read with torch's restricted unpickler.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from structxlip.atomic_folder import new_folder
from structxlip.encoder import TwoViewEncoder
from structxlip.gather import Ranks
from structxlip.losses import LogitScale
from training.muon import MuonAndAdamW
from training.optimisation import MovingAverage

STATE_FOLDER, STATE_FILE = "state", "state.pt"
FORMAT_VERSION = 1


class RunStateError(RuntimeError):
    """A run's state cannot be written or read; the message says what is left and what to do."""


@dataclass
class Course:
    """How far a run has come.

    Attributes:
        epoch: Epochs that are finished.
        step: Steps of the current epoch that are done.
        total_steps: Steps of the whole run that are done.
        best: The best validation so far.
        best_epoch: After which epoch it was.
        best_weight: Its structure weight.
        num_worse: Validations since then.
        is_finished: Whether training is over and only the final evaluation may be left.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    best: float | None = None
    best_epoch: int = 0
    best_weight: float = 0.0
    num_worse: int = 0
    is_finished: bool = False


@dataclass(frozen=True)
class Learner:
    """Everything that a step changes."""

    encoder: TwoViewEncoder
    local_scale: LogitScale
    optimiser: torch.optim.Optimizer | MuonAndAdamW
    average: MovingAverage
    course: Course = field(default_factory=Course)


def save_state(folder: Path, learner: Learner, config: dict[str, Any], ranks: Ranks) -> None:
    """Write the state; every process calls it, the first one writes.

    Raises:
        RunStateError: If the disk is full or the folder cannot be written; the state before is left as it was.
    """
    random_states = _gathered(_random_state(), ranks)
    if ranks.index:
        return
    state = {
        "format_version": FORMAT_VERSION,
        "config": config,
        "encoder": learner.encoder.state_dict(),
        "local_scale": learner.local_scale.state_dict(),
        "optimiser": learner.optimiser.state_dict(),
        "average": learner.average.average,
        "num_updates": learner.average.num_updates,
        "course": asdict(learner.course),
        "random": random_states,
    }
    try:
        with new_folder(folder / STATE_FOLDER) as draft:
            torch.save(state, draft / STATE_FILE)
    except (OSError, RuntimeError) as error:
        # torch reports a short write as a RuntimeError of its zip writer.
        raise RunStateError(
            f"the state of the run could not be written to {folder / STATE_FOLDER}: {error}. What was saved before is "
            "untouched: make room and run the same command to go on from there"
        ) from error


def load_state(folder: Path, learner: Learner, ranks: Ranks) -> bool:
    """Take up the state of a run, if it has one; return whether it had.

    Raises:
        RunStateError: If it cannot be read or does not belong to this model.
    """
    state = read_state(folder)
    if state is None:
        return False
    try:
        learner.encoder.load_state_dict(state["encoder"])
        learner.local_scale.load_state_dict(state["local_scale"])
        learner.optimiser.load_state_dict(state["optimiser"])
        learner.average.load(state["average"], state["num_updates"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise RunStateError(f"the state in {folder} does not fit this model: {error}") from error
    for name, value in state["course"].items():
        setattr(learner.course, name, value)
    if len(state["random"]) != ranks.count:
        raise RunStateError(
            f"the run in {folder} had {len(state['random'])} processes, this one has {ranks.count}: start as many"
        )
    _restore_random_state(state["random"][ranks.index])
    return True


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read a run's state as plain values; `None` where there is none.

    Raises:
        RunStateError: If the file is damaged.
    """
    path = folder / STATE_FOLDER / STATE_FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise RunStateError(f"{path} cannot be read ({error}); remove it to start the run anew") from error
    if state.get("format_version") != FORMAT_VERSION:
        raise RunStateError(
            f"{path} has format version {state.get('format_version')!r}, expected {FORMAT_VERSION}; "
            "remove it to start anew"
        )
    return state


def _random_state() -> list[Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _restore_random_state(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


def _gathered(value: list[Tensor], ranks: Ranks) -> list[list[Tensor]]:
    if ranks.count == 1:
        return [value]
    found: list[Any] = [None] * ranks.count
    dist.all_gather_object(found, value, group=ranks.group)
    return found
