"""The `cnn` edge branch: a shallow network of its own for edge maps, cheap enough for every picture.

Shapes: `B` edge maps, `H W` pixels, `C` channels of the last feature map, `h w` its cells, `D` embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structxlip.errors import ConfigError


@dataclass(frozen=True)
class EdgeBranchConfig:
    """Which branch encodes edge maps.

    Args:
        kind: `shared` sends the map, as three equal channels, through the image tower; `cnn` has a network
            of its own.
        width: Channels of the `cnn`'s first stage; the others have two, four and eight times as many.
        grid: The `cnn` averages its last features over `grid` × `grid` cells, so that it knows *where* a
            line is.
    """

    kind: Literal["shared", "cnn"] = "shared"
    width: int = 32
    grid: int = 4

    def __post_init__(self) -> None:
        if self.kind not in ("shared", "cnn"):
            raise ConfigError(f"unknown edge branch {self.kind!r}; known: shared, cnn")
        if self.width < 8 or self.width % 8:
            raise ConfigError(f"width must be a multiple of 8 of at least 8, got {self.width}")
        if self.grid < 1:
            raise ConfigError(f"grid must be at least 1, got {self.grid}")


class EdgeCNN(nn.Module):
    """Encodes an edge map into the joint space with a few separable convolutions.

    Five halvings take 224 pixels to 7 × 7 features, which are averaged over a coarse grid and projected.
    Group norm has no running statistics: training and serving compute the same function, whatever the batch.

    Args:
        dimension: Of the joint space, `D`.
        width: Channels of the first stage.
        grid: Side of the grid that the last features are averaged over.
    """

    def __init__(self, dimension: int, *, width: int = 32, grid: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=7, stride=4, padding=3, bias=False),
            _norm(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            _Separable(width, 2 * width, stride=2),
            _Separable(2 * width, 2 * width, stride=1),
            _Separable(2 * width, 4 * width, stride=2),
            _Separable(4 * width, 4 * width, stride=1),
            _Separable(4 * width, 8 * width, stride=2),
            _Separable(8 * width, 8 * width, stride=1),
        )
        self.grid = grid
        self.projection = nn.Linear(8 * width * grid * grid, dimension)

    def features(self, edges_BHW: Tensor) -> Tensor:
        """Return the last feature map `(B, C, h, w)` of maps in uint8 0 to 255, or in floats 0 to 1."""
        if edges_BHW.dtype == torch.uint8:
            edges_BHW = edges_BHW.to(self.projection.weight.dtype) / 255
        features_BChw: Tensor = self.stages(self.stem(edges_BHW.unsqueeze(1)))
        return features_BChw

    def forward(self, edges_BHW: Tensor) -> Tensor:
        """Return unit embeddings `(B, D)`."""
        cells_BCgg = F.adaptive_avg_pool2d(self.features(edges_BHW), self.grid)
        return F.normalize(self.projection(cells_BCgg.flatten(1)), dim=-1)


class _Separable(nn.Module):
    """A depthwise and a pointwise convolution, with a residual where the shape allows."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels_in, channels_in, kernel_size=3, stride=stride, padding=1, groups=channels_in, bias=False
        )
        self.pointwise = nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False)
        self.norm = _norm(channels_out)
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = self.norm(self.pointwise(self.depthwise(x_BCHW)))
        return F.relu(x_BCHW + y_BCHW if self.is_residual else y_BCHW)


def build_edge_branch(config: EdgeBranchConfig, *, dimension: int) -> nn.Module | None:
    """Make the network for edge maps; none for `shared`, which has no weights of its own."""
    if config.kind == "shared":
        return None
    return EdgeCNN(dimension, width=config.width, grid=config.grid)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=channels // 8, num_channels=channels)
