"""Which weights learn, how fast, and their moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from structxlip.encoder import TwoViewEncoder
from structxlip.losses import LogitScale
from training.config import OptimiserConfig
from training.freezing import layer_depths
from training.muon import MuonAndAdamW, is_hidden_matrix

SCALES = ("logit_scale", "logit_bias", "log_scale")
POSITIONS = ("positional_embedding", "pos_embed", "class_embedding", "cls_token", "cls_emb")


@dataclass(frozen=True)
class NamedParameter:
    """A parameter, its name in the checkpoint, and what the optimiser does with it."""

    name: str
    parameter: nn.Parameter
    lr_factor: float
    decays: bool


def trained_parameters(
    encoder: TwoViewEncoder, local_scale: LogitScale, config: OptimiserConfig
) -> list[NamedParameter]:
    """Return every parameter that learns, with its own share of the learning rate."""
    depths = layer_depths(encoder.model)
    found = []
    for name, parameter in _named(encoder, local_scale):
        if not parameter.requires_grad:
            continue
        is_new = name.startswith(("edge_branch.", "local_scale."))
        factor = config.edge_lr_factor if is_new else config.layer_decay ** depths.get(name.removeprefix("model."), 0)
        if not is_new and not name.startswith("model.visual."):
            factor *= 1.0 if name.endswith(SCALES) else config.text_lr_factor
        found.append(NamedParameter(name, parameter, factor, _decays(name, parameter)))
    return found


def build_optimiser(parameters: list[NamedParameter], config: OptimiserConfig) -> torch.optim.AdamW | MuonAndAdamW:
    """Make the optimiser, with one group for each pair of rate and decay; each group keeps its share as `lr_factor`."""
    adamw: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps, "fused": True}
    if config.kind == "adamw":
        return torch.optim.AdamW(_groups(parameters, config), **adamw)
    matrices = [
        replace(known, lr_factor=known.lr_factor * config.matrix_lr_factor)
        for known in parameters
        if is_hidden_matrix(known.name, known.parameter)
    ]
    rest = [known for known in parameters if not is_hidden_matrix(known.name, known.parameter)]
    return MuonAndAdamW(_groups(matrices, config), _groups(rest, config), muon={"lr": config.lr}, adamw=adamw)


def _groups(parameters: list[NamedParameter], config: OptimiserConfig) -> list[dict[str, Any]]:
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for known in parameters:
        groups.setdefault((known.lr_factor, known.decays), []).append(known.parameter)
    return [
        {"params": members, "weight_decay": config.weight_decay if decays else 0.0, "lr_factor": factor}
        for (factor, decays), members in groups.items()
    ]


def learning_rate(config: OptimiserConfig, step: int, num_steps: int) -> float:
    """Return the rate of a step, from 0: up in a line, then down along half a cosine."""
    num_warm = math.ceil(config.warmup * num_steps)
    if step < num_warm:
        return config.lr * (step + 1) / num_warm
    progress = (step - num_warm) / max(1, num_steps - num_warm)
    floor = config.final_lr
    return config.lr * (floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def set_learning_rate(optimiser: torch.optim.Optimizer | MuonAndAdamW, lr: float) -> None:
    """Give each group its share of the rate."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]


class MovingAverage:
    """An exponential moving average of an encoder's weights, `a ← d · a + (1 − d) · w`.

    The decay is capped at `(1 + n) / (10 + n)` after `n` steps, so that the random start is soon forgotten.

    Args:
        encoder: Whose weights.
        decay: `d`; 0 keeps no average, and the weights themselves are used.
    """

    def __init__(self, encoder: TwoViewEncoder, decay: float) -> None:
        self._encoder = encoder
        self._decay = decay
        self.num_updates = 0
        self._shadow = copy.deepcopy(_modules(encoder)) if decay else None
        self._moving, self._copied = _moving(_modules(encoder), self._shadow) if self._shadow is not None else ([], [])

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of a step in."""
        if not self._decay:
            return
        self.num_updates += 1
        keep = min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))
        averaged, current = (list(side) for side in zip(*self._moving, strict=True))
        torch._foreach_lerp_(averaged, current, 1 - keep)
        for known, counted in self._copied:
            known.copy_(counted)

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights by name; none without a decay."""
        return {} if self._shadow is None else dict(self._shadow.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights to evaluate and to save."""
        return self._encoder.state_dict() if self._shadow is None else self.average

    def load(self, average: Mapping[str, Tensor], num_updates: int) -> None:
        """Go on from an average that was saved."""
        if self._shadow is not None:
            self._shadow.load_state_dict(dict(average))
        self.num_updates = num_updates


def _modules(encoder: TwoViewEncoder) -> nn.ModuleDict:
    parts = {"model": encoder.model}
    return nn.ModuleDict(parts if encoder.edge_branch is None else {**parts, "edge_branch": encoder.edge_branch})


_Pairs = list[tuple[Tensor, Tensor]]


def _moving(modules: nn.Module, shadow: nn.Module) -> tuple[_Pairs, _Pairs]:
    """Return (average, current) of weights that learn and of running statistics, and of counters, which are copied."""
    pairs = [
        (known.detach(), current.detach())
        for known, current in zip(shadow.parameters(), modules.parameters(), strict=True)
        if current.requires_grad
    ]
    buffers = list(zip(shadow.buffers(), modules.buffers(), strict=True))
    return (
        [*pairs, *((known, current) for known, current in buffers if current.is_floating_point())],
        [(known, current) for known, current in buffers if not current.is_floating_point()],
    )


def _named(encoder: TwoViewEncoder, local_scale: LogitScale) -> Iterator[tuple[str, nn.Parameter]]:
    yield from ((f"model.{name}", parameter) for name, parameter in encoder.model.named_parameters())
    if encoder.edge_branch is not None:
        yield from ((f"edge_branch.{name}", parameter) for name, parameter in encoder.edge_branch.named_parameters())
    yield from ((f"local_scale.{name}", parameter) for name, parameter in local_scale.named_parameters())


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Norms and biases are vectors; token vectors are looked up: decay would wear away those that are rarely met."""
    return parameter.ndim > 1 and not any(part in name for part in (*SCALES, *POSITIONS, "token_embedding"))
