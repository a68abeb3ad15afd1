"""Copies of a picture as they turn up elsewhere: recoloured, blurred, cut, mirrored, saved again.

Each is a function of the picture (uint8 `(H, W, 3)`) and a random generator, and gives a picture of any size.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture: TypeAlias = NDArray[np.uint8]
Manipulation: TypeAlias = Callable[[Picture, np.random.Generator], Picture]


def shift_hue(rgb: Picture, random: np.random.Generator) -> Picture:
    """Turn every hue by 60 to 300 degrees."""
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + int(random.integers(30, 150))) % 180
    return _picture(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def make_grey(rgb: Picture, random: np.random.Generator) -> Picture:
    """Leave the brightness alone."""
    return _picture(cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))


def invert(rgb: Picture, random: np.random.Generator) -> Picture:
    """Turn bright into dark, like a negative."""
    return _picture(255 - rgb)


def blur(rgb: Picture, random: np.random.Generator) -> Picture:
    """Blur by a Gaussian of 1 % of the longer side."""
    return _picture(cv2.GaussianBlur(rgb, (0, 0), 0.01 * max(rgb.shape[:2])))


def save_badly(rgb: Picture, random: np.random.Generator) -> Picture:
    """Save as JPEG at quality 20."""
    saved = io.BytesIO()
    Image.fromarray(rgb).save(saved, "JPEG", quality=20)
    return np.asarray(Image.open(saved).convert("RGB"))


def crop(rgb: Picture, random: np.random.Generator) -> Picture:
    """Keep 80 % of each side, somewhere."""
    height, width = (max(1, round(0.8 * side)) for side in rgb.shape[:2])
    top = int(random.integers(0, rgb.shape[0] - height + 1))
    left = int(random.integers(0, rgb.shape[1] - width + 1))
    return np.ascontiguousarray(rgb[top : top + height, left : left + width])


def mirror(rgb: Picture, random: np.random.Generator) -> Picture:
    """Swap left and right."""
    return np.ascontiguousarray(rgb[:, ::-1])


def grade(rgb: Picture, random: np.random.Generator) -> Picture:
    """Bend each channel's tone by its own power, and take out half of the colour: a filter as apps have them."""
    powers = random.uniform(0.6, 1.6, 3)
    graded = 255 * (rgb / 255.0) ** powers
    grey = graded.mean(axis=2, keepdims=True)
    return _picture(np.clip(np.rint(0.5 * grey + 0.5 * graded), 0, 255))


COPIES: Mapping[str, Manipulation] = MappingProxyType(
    {
        "hue_shift": shift_hue,
        "greyscale": make_grey,
        "invert": invert,
        "blur": blur,
        "jpeg_20": save_badly,
        "crop_80": crop,
        "flip": mirror,
        "colour_grade": grade,
    }
)


def _picture(plane: object) -> Picture:
    return np.asarray(plane, dtype=np.uint8)
