"""From a picture of any size to the model's input: one resize, shared by the colour view and the edge view.

It gives exactly what open_clip's own evaluation transform gives (`open_clip.transform.image_transform_v2`),
split in two: `resize` gives pixels, which the edge detector also sees, and `normalize` gives the tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from structxlip.errors import ConfigError, UnsupportedModelError

Channels: TypeAlias = tuple[float, float, float]

# A picture longer than this many times its width is cut to it before the shorter side is scaled: a strip of
# 1 × 50,000,000 pixels would otherwise become 224 × 11,200,000,000.
MAX_ASPECT = 8


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Args:
        image_size: Side of the model's square input, in pixels.
        resize_mode: `squash` scales both sides; `shortest` scales the shorter side and cuts the centre out;
            `longest` scales the longer side and pads.
        interpolation: Of the resize; always with antialiasing.
        fill: Grey level of the padding, 0 to 255.
        mean: Subtracted from each channel (red, green, blue), on the scale 0 to 1.
        std: Divides each channel afterwards.
    """

    image_size: int
    resize_mode: Literal["squash", "shortest", "longest"]
    interpolation: Literal["bicubic", "bilinear"]
    fill: int
    mean: Channels
    std: Channels

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"image_size must be at least 1, got {self.image_size}")
        if not 0 <= self.fill <= 255:
            raise ConfigError(f"fill must be a grey level from 0 to 255, got {self.fill}")
        if any(value <= 0 for value in self.std):
            raise ConfigError(f"std must be above 0, got {self.std}")

    @classmethod
    def from_open_clip(cls, preprocess: Mapping[str, Any]) -> Preprocessing:
        """Read open_clip's own preprocessing (the fields of its `PreprocessCfg`)."""
        size = preprocess["size"]
        sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        if len(set(sides)) != 1:
            raise UnsupportedModelError(f"the model takes pictures of {sides} pixels; only square inputs are supported")
        return cls(
            image_size=int(sides[0]),
            resize_mode=preprocess["resize_mode"],
            # open_clip resizes as bicubic whatever is not bilinear.
            interpolation="bilinear" if preprocess["interpolation"] == "bilinear" else "bicubic",
            fill=int(preprocess["fill_color"]),
            mean=_three(preprocess["mean"]),
            std=_three(preprocess["std"]),
        )

    def config(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def resize(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture as the model sees it, uint8 `(S, S, 3)`.

        Pillow lets other threads run while it scales.

        Args:
            rgb: uint8 `(H, W, 3)`, at least one pixel.

        Raises:
            ValueError: If the array is not such a picture.
        """
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ValueError(f"expected a uint8 picture of shape (height, width, 3), got {rgb.dtype} {rgb.shape}")
        side = self.image_size
        if rgb.shape == (side, side, 3):
            return np.ascontiguousarray(rgb)
        picture = Image.fromarray(rgb if self.resize_mode != "shortest" else _cut_strip(rgb))
        scaled = picture.resize(self._scaled_size(*picture.size), _RESAMPLING[self.interpolation])
        return np.asarray(_centre(scaled, side, self.fill))

    def normalize(self, pixels: Sequence[NDArray[np.uint8]], *, device: torch.device | str = "cpu") -> Tensor:
        """Return float32 `(B, 3, S, S)` from pictures `(S, S, 3)`, or maps `(S, S)` as equal channels."""
        return self.normalize_tensor(torch.from_numpy(np.stack(pixels)).to(device))

    def normalize_tensor(self, pixels: Tensor) -> Tensor:
        """Return float32 `(B, 3, S, S)` from uint8 `(B, S, S, 3)` or `(B, S, S)`."""
        if pixels.ndim == 3:
            pixels = pixels.unsqueeze(-1).expand(-1, -1, -1, 3)
        scaled_BCHW = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last).div_(255)
        return scaled_BCHW.sub_(_column(self.mean, pixels)).div_(_column(self.std, pixels))

    def _scaled_size(self, width: int, height: int) -> tuple[int, int]:
        side = self.image_size
        if self.resize_mode == "squash":
            return side, side
        if self.resize_mode == "shortest":
            shorter, longer = sorted((width, height))
            stretched = int(side * longer / shorter)
            return (side, stretched) if width <= height else (stretched, side)
        ratio = max(height / side, width / side)
        return max(1, round(width / ratio)), max(1, round(height / ratio))


_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def _three(value: float | Sequence[float]) -> Channels:
    red, green, blue = value if isinstance(value, (tuple, list)) else (value,) * 3
    return float(red), float(green), float(blue)


def _column(channels: Channels, like: Tensor) -> Tensor:
    return torch.tensor(channels, dtype=torch.float32, device=like.device).view(1, 3, 1, 1)


def _cut_strip(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = rgb.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    top, left = max(0, (height - longest) // 2), max(0, (width - longest) // 2)
    return np.ascontiguousarray(rgb[top : top + longest, left : left + longest])


def _centre(picture: Image.Image, side: int, fill: int) -> Image.Image:
    """Cut out the middle `side` × `side` pixels; pad evenly where there are fewer, the odd pixel last."""
    width, height = picture.size
    if (width, height) == (side, side):
        return picture
    left, top = _offset(width, side), _offset(height, side)
    if width < side or height < side:
        padded = Image.new("RGB", (max(side, width), max(side, height)), (fill, fill, fill))
        padded.paste(picture, (max(0, -left), max(0, -top)))
        picture, left, top = padded, max(0, left), max(0, top)
    return picture.crop((left, top, left + side, top + side))


def _offset(length: int, side: int) -> int:
    return -((side - length) // 2) if length < side else round((length - side) / 2)
