"""Muon for the matrices of hidden layers, AdamW for everything else: one optimiser to the training loop.

Muon (K. Jordan and others, 2024) takes the momentum of a matrix and makes all its singular values about one, so that
directions which rarely get a gradient move as far as those that always do. Steps are scaled to the size that AdamW's
have (Moonshot AI, 2025), so that both go by one learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.precision import computes_bfloat16

MOMENTUM = 0.95
# A side shorter than that leaves nothing to balance.
_LEAST_SIDE = 8


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves a parameter: a matrix, or a convolution's, between features and features.

    What pixels go into, tables of vectors, depthwise convolutions and vectors stay with AdamW.
    """
    if parameter.ndim < 2 or "embedding" in name or "pos_embed" in name:
        return False
    is_input = parameter.ndim == 4 and parameter.shape[1] <= 3
    return not is_input and min(len(parameter), parameter[0].numel()) >= _LEAST_SIDE


class MuonInFloat32(torch.optim.Muon):
    """Muon where a device has no arithmetic for bfloat16, in which torch's own makes singular values about one.

    Imitated, that took 60 % of a training step on an AMD EPYC with AVX2. Steps are scaled to the size of AdamW's.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient.

        Args:
            closure: Not to be given: a step takes the gradients that there are.
        """
        assert closure is None
        for group in self.param_groups:
            assert group["nesterov"]
            assert group["adjust_lr_fn"] == "match_rms_adamw"
            lr, momentum = float(group["lr"]), float(group["momentum"])
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                direction = matrix.grad.lerp(average, momentum)
                direction = _of_even_singular_values(
                    direction, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                matrix.mul_(1 - lr * group["weight_decay"])
                matrix.add_(direction, alpha=-lr * 0.2 * math.sqrt(max(matrix.shape)))


def _of_even_singular_values(
    matrix: Tensor, coefficients: tuple[float, float, float], num_rounds: int, eps: float
) -> Tensor:
    """Return a matrix with its singular values brought near one: rounds of `a X + (b S + c S²) X` with `S = X Xᵀ`."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if is_tall else matrix
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(num_rounds):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.T if is_tall else wide


class MuonAndAdamW:
    """Two optimisers that step together.

    Args:
        matrices: Groups for Muon; their parameters have two dimensions or four.
        rest: Groups for AdamW.
        muon: Further arguments of Muon.
        adamw: Further arguments of AdamW.
    """

    def __init__(
        self,
        matrices: Sequence[dict[str, Any]],
        rest: Sequence[dict[str, Any]],
        *,
        muon: dict[str, Any],
        adamw: dict[str, Any],
    ) -> None:
        self._whole = [parameter for group in matrices for parameter in group["params"]]
        # Muon takes matrices alone: it is given each parameter as one, in the same memory.
        self._flat = [nn.Parameter(as_matrix(parameter.detach())) for parameter in self._whole]
        flat = iter(self._flat)
        groups = [{**group, "params": [next(flat) for _ in group["params"]]} for group in matrices]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if groups:
            kind = torch.optim.Muon if computes_bfloat16(str(self._whole[0].device)) else MuonInFloat32
            self._parts["muon"] = kind(groups, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw", **muon)
        if rest:
            self._parts["adamw"] = torch.optim.AdamW(list(rest), **adamw)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both, Muon's first; a group's `lr` is what its next step goes by."""
        return [group for part in self._parts.values() for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=set_to_none)
        for parameter in self._whole:
            parameter.grad = None

    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for flat, parameter in zip(self._flat, self._whole, strict=True):
            flat.grad = None if parameter.grad is None else _like(parameter.grad, parameter)
        for part in self._parts.values():
            part.step()
        for flat in self._flat:
            flat.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            KeyError: If it is another optimiser's.
            ValueError: If it belongs to other parameters.
        """
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def as_matrix(weight: Tensor) -> Tensor:
    """Return a weight as a matrix with a row for each output, in the same memory, whichever way that is laid out."""
    if weight.ndim == 4 and not weight.is_contiguous():  # channels last; the order of columns is all one to Muon
        weight = weight.permute(0, 2, 3, 1)
    return weight.view(len(weight), -1)


def _like(grad: Tensor, parameter: Tensor) -> Tensor:
    """Return a gradient as a matrix with the columns of its parameter's."""
    if parameter.ndim == 4 and not parameter.is_contiguous():
        grad = grad.permute(0, 2, 3, 1)
    return grad.reshape(len(grad), -1)
