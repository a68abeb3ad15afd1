"""The `cnn` edge branch: a shallow network of its own for edge maps, cheap enough for every picture.

Shapes: `B` edge maps, `H W` pixels, `C` channels of the last feature map, `h w` its cells, `D` embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structxlip.errors import ConfigError

CHANNELS_A_GROUP = 8

Norm = Callable[[int], nn.Module]


@dataclass(frozen=True)
class EdgeBranchConfig:
    """Which branch encodes edge maps.

    Args:
        kind: `shared` sends the map, as three equal channels, through the image tower; `cnn` has a network
            of its own.
        width: Channels of the `cnn`'s first layer; its stages have two and four times as many.
        grid: The `cnn` averages its last features over `grid` × `grid` cells, so that it knows *where* a
            line is.
        features: Channels of the last features: few, because the projection has a weight for each of them in each
            cell.
        norm: `group` normalises each map by itself, so that training and serving compute the same function
            whatever the batch, and GradCache stays exact. `batch` learns from nothing in about half the steps.
    """

    kind: Literal["shared", "cnn"] = "shared"
    width: int = 32
    grid: int = 4
    features: int = 64
    norm: Literal["group", "batch"] = "group"

    def __post_init__(self) -> None:
        if self.kind not in ("shared", "cnn"):
            raise ConfigError(f"unknown edge branch {self.kind!r}; known: shared, cnn")
        if self.norm not in ("group", "batch"):
            raise ConfigError(f"unknown norm {self.norm!r}; known: group, batch")
        if self.width < CHANNELS_A_GROUP or self.width % CHANNELS_A_GROUP:
            raise ConfigError(f"width must be a multiple of {CHANNELS_A_GROUP}, got {self.width}")
        if self.features < CHANNELS_A_GROUP or self.features % CHANNELS_A_GROUP:
            raise ConfigError(f"features must be a multiple of {CHANNELS_A_GROUP}, got {self.features}")
        if self.grid < 1:
            raise ConfigError(f"grid must be at least 1, got {self.grid}")


class EdgeCNN(nn.Module):
    """Encodes an edge map into the joint space with a few residual convolutions.

    A stem of stride 4 and two halvings take 224 pixels to 14 × 14 features, which are averaged over a coarse grid and
    projected: an embedding is the sum of what the cells contribute.

    Args:
        dimension: Of the joint space, `D`.
        width: Channels of the stem.
        grid: Side of the grid that the last features are averaged over.
        features: Channels of the last features.
        norm: `group` or `batch`, see `EdgeBranchConfig`.
    """

    def __init__(
        self,
        dimension: int,
        *,
        width: int = 32,
        grid: int = 4,
        features: int = 64,
        norm: Literal["group", "batch"] = "group",
    ) -> None:
        super().__init__()
        normed: Norm = nn.BatchNorm2d if norm == "batch" else _group_norm
        residual = partial(_Residual, normed)
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=7, stride=4, padding=3, bias=False), normed(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            residual(width, 2 * width, stride=2),
            residual(2 * width, 2 * width),
            residual(2 * width, 4 * width, stride=2),
            residual(4 * width, 4 * width),
            residual(4 * width, 4 * width),
        )
        # Normalised, because features after a ReLU have a large common part, and so would all embeddings.
        self.reduction = nn.Sequential(nn.Conv2d(4 * width, features, kernel_size=1), normed(features))
        self.grid = grid
        self.projection = nn.Linear(features * grid * grid, dimension)

    def features(self, edges_BHW: Tensor) -> Tensor:
        """Return the last feature map `(B, C, h, w)` of maps in uint8 0 to 255, or in floats 0 to 1."""
        if edges_BHW.dtype == torch.uint8:
            edges_BHW = edges_BHW.to(self.projection.weight.dtype) / 255
        # With one channel both layouts are the same bytes; only the strides tell a convolution which one to use.
        pixels_B1HW = edges_BHW.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        features_BChw: Tensor = self.reduction(self.stages(self.stem(pixels_B1HW)))
        return features_BChw

    def forward(self, edges_BHW: Tensor) -> Tensor:
        """Return unit embeddings `(B, D)`."""
        cells_BCgg = F.adaptive_avg_pool2d(self.features(edges_BHW), self.grid)
        return F.normalize(self.projection(cells_BCgg.flatten(1)), dim=-1)


class _Residual(nn.Module):
    """Two convolutions beside the identity, or beside a projection where the shape changes."""

    def __init__(self, norm: Norm, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False)
            self.skip = nn.Sequential(projection, norm(channels_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x_BCHW)))))
        return F.relu(self.skip(x_BCHW) + y_BCHW)


def build_edge_branch(config: EdgeBranchConfig, *, dimension: int) -> nn.Module | None:
    """Make the network for edge maps; none for `shared`, which has no weights of its own."""
    if config.kind == "shared":
        return None
    return EdgeCNN(dimension, width=config.width, grid=config.grid, features=config.features, norm=config.norm)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=channels // CHANNELS_A_GROUP, num_channels=channels)
