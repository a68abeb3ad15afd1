"""Convolutions in the form that a CPU computes fastest in bfloat16; what they compute stays the same.

Measured with torch 2.14 on one AMX core, 128 pictures: the backward pass of a strided depthwise convolution (576
channels, 14 × 14) takes 370 ms in bfloat16 and 40 ms in float32; a pointwise one (320 to 1,280 channels, 7 × 7) takes
43 ms as a convolution and 20 ms as a matrix product; batch normalisations that keep their statistics took 16 % of a
step, and nothing as part of the convolution before them. With AVX2, a fifth of a step went into copies of whole
gradients, because an activation worked in place on the view that a product was returned as; torch's own ReLU6 in
place also keeps a copy of what it was given, where its result is enough.

Shapes: `B` pictures, `C` channels, `H W` places.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F


class _Folding(nn.Conv2d):
    """A convolution that also does all that a normalisation after it would, while that keeps its statistics."""

    # Past torch's registry of modules: the normalisation belongs to the block, and keeps its name in the checkpoint.
    norm: tuple[BatchNormAct2d, ...]

    def _folded(self) -> tuple[Tensor, Tensor | None, nn.Module]:
        """Return weight and bias, those of the normalisation worked in: `γ (W x − μ) / σ + β`, and what comes next."""
        norm = self.norm[0] if self.norm else None
        if norm is None or norm.training:
            return self.weight, self.bias, nn.Identity()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias_C = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        return self.weight * scale_C[:, None, None, None], norm.bias + bias_C * scale_C, norm.act


class _ReLU6InPlace(torch.autograd.Function):
    """ReLU6 whose gradient follows from its result: what it was given is not kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(0, 6))
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.as_tensor(torch.ops.aten.hardtanh_backward(gradient, result, 0, 6))


def _activated(act: nn.Module, x: Tensor) -> Tensor:
    """Activate a tensor that nothing else needs."""
    if type(act) is nn.ReLU6 and act.inplace:
        return torch.as_tensor(_ReLU6InPlace.apply(x))
    return torch.as_tensor(act(x))


class Depthwise(_Folding):
    """A depthwise convolution; a strided one stays in float32 under autocast."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve each channel on its own."""
        weight, bias, act = self._folded()
        if self.stride == (1, 1):
            return _activated(act, self._conv_forward(x_BCHW, weight, bias))
        with torch.autocast(x_BCHW.device.type, enabled=False):
            mixed_BCHW = self._conv_forward(x_BCHW.float(), weight, bias)
        return _activated(act, mixed_BCHW.to(x_BCHW.dtype))


class Pointwise(_Folding):
    """A 1 × 1 convolution as the matrix product that it is."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Mix the channels of each place; channels come last in memory."""
        weight, bias, act = self._folded()
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        # As rows, so that the product is no view and an activation in place costs nothing extra (see above).
        mixed_NC = _activated(act, F.linear(x_BHWC.flatten(0, 2), weight[:, :, 0, 0], bias))
        return mixed_NC.view(*x_BHWC.shape[:3], -1).permute(0, 3, 1, 2)


class FoldedNorm(BatchNormAct2d):
    """A batch normalisation whose work, and activation, are done before it unless it gathers statistics."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise and activate while statistics are gathered; otherwise there is nothing left to do."""
        return torch.as_tensor(super().forward(x_BCHW)) if self.training else x_BCHW  # type: ignore[no-untyped-call]


def suit_cpu(model: nn.Module) -> None:
    """Give the convolutions of a model's EfficientNet blocks these forms; weights and their names stay."""
    for block in list(model.modules()):
        if not isinstance(block, (EfficientNet, InvertedResidual, DepthwiseSeparableConv)):
            continue
        for conv, norm in pairwise(list(block.children())):
            # In these blocks each convolution is followed by its own normalisation.
            form = _form_of(conv)
            if form is not None and type(norm) is BatchNormAct2d and isinstance(norm.drop, nn.Identity):
                conv.__class__ = form
                conv.__dict__["norm"] = (norm,)
                norm.__class__ = FoldedNorm


def _form_of(module: nn.Module) -> type[_Folding] | None:
    if type(module) is not nn.Conv2d:
        return None
    if module.groups == module.in_channels > 1:
        return Depthwise
    is_pointwise = (module.kernel_size, module.stride, module.padding, module.groups) == ((1, 1), (1, 1), (0, 0), 1)
    return Pointwise if is_pointwise else None
