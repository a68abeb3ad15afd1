"""A pen that draws one object into a transparent picture of its own, in the unit square of its box."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes.palette import luminance
from training.scenes.scene import RGB

Image = NDArray[np.uint8]
Points = Sequence[tuple[float, float]]

SHIFT = 4
"""Fractional bits of OpenCV's fixed-point coordinates: a sixteenth of a pixel."""

INK: RGB = (36, 32, 46)
CREAM: RGB = (255, 249, 236)
WOOD: RGB = (186, 138, 96)
LEAF: RGB = (104, 166, 96)
GLASS: RGB = (206, 232, 244)
METAL: RGB = (182, 188, 198)
CLAY: RGB = (206, 122, 88)
RUBBER: RGB = (84, 82, 94)


@dataclass(frozen=True)
class Look:
    """How an object is painted.

    Attributes:
        main: Colour of the body.
        second: Colour of the pattern and of small parts.
        pattern: As in ``Group.pattern``.
        is_hollow: Lines only, nothing filled.
        stroke: Width of the lines, in pixels of the sprite.
        ink: Colour of the lines.
    """

    main: RGB
    second: RGB
    pattern: str
    is_hollow: bool
    stroke: float
    ink: RGB


class Pen:
    """Draws filled and outlined shapes into a sprite of red, green, blue and opacity.

    The sprite starts as transparent ink: the half-covered pixels at a shape's rim then mix with the colour
    of its outline, and no halo appears when the sprite is laid over a background.

    Args:
        width: Pixels from left to right.
        height: Pixels from top to bottom.
        look: How the object is painted.
    """

    def __init__(self, width: int, height: int, look: Look) -> None:
        self.sprite: Image = np.empty((height, width, 4), np.uint8)
        self.sprite[:] = (*look.ink, 0)
        self.look = look
        self._margin = look.stroke / 2 + 1.0
        self._scale_x = width - 1 - 2 * self._margin
        self._scale_y = height - 1 - 2 * self._margin
        self._pattern: Image | None = None

    @property
    def main(self) -> RGB:
        """The body's colour."""
        return self.look.main

    @property
    def second(self) -> RGB:
        """The colour of small parts."""
        return self.look.second

    def body(self, points: Points) -> None:
        """A closed shape of the main colour that carries the pattern."""
        self._shape(points, self.look.main, patterned=True)

    def poly(self, points: Points, colour: RGB) -> None:
        """A closed shape of one colour."""
        self._shape(points, colour, patterned=False)

    def body_rect(self, left: float, top: float, right: float, bottom: float) -> None:
        """A rectangle that carries the pattern."""
        self.body(((left, top), (right, top), (right, bottom), (left, bottom)))

    def rect(self, left: float, top: float, right: float, bottom: float, colour: RGB) -> None:
        """A rectangle of one colour."""
        self.poly(((left, top), (right, top), (right, bottom), (left, bottom)), colour)

    def body_ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> None:
        """An ellipse that carries the pattern."""
        self.body(ellipse_points(x, y, radius_x, radius_y))

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, colour: RGB) -> None:
        """An ellipse of one colour."""
        self.poly(ellipse_points(x, y, radius_x, radius_y), colour)

    def line(self, points: Points, colour: RGB | None = None, width: float = 1.0) -> None:
        """An open line; ``width`` counts in strokes, the colour is the ink's unless given."""
        thickness = max(1, round(self.look.stroke * width))
        cv2.polylines(
            self.sprite,
            [self._pixels(points)],
            False,
            _opaque(colour or self.look.ink),
            thickness,
            cv2.LINE_AA,
            SHIFT,
        )

    def tube(self, points: Points, colour: RGB, width: float = 2.0) -> None:
        """A thick line of one colour with an outline on both sides; ``width`` counts in strokes."""
        self.line(points, None, width + 2.0)
        if not self.look.is_hollow:
            self.line(points, colour, width)

    def erase(self, points: Points) -> None:
        """Cuts a hole and draws its rim."""
        pixels = self._pixels(points)
        cv2.fillPoly(self.sprite, [pixels], (*self.look.ink, 0), cv2.LINE_AA, SHIFT)
        self._outline(pixels)

    def _shape(self, points: Points, colour: RGB, *, patterned: bool) -> None:
        pixels = self._pixels(points)
        if not self.look.is_hollow:
            cv2.fillPoly(self.sprite, [pixels], _opaque(colour), cv2.LINE_AA, SHIFT)
            if patterned and self.look.pattern != "plain":
                self._lay_pattern(pixels)
        self._outline(pixels)

    def _outline(self, pixels: NDArray[np.int32]) -> None:
        thickness = max(1, round(self.look.stroke))
        cv2.polylines(self.sprite, [pixels], True, _opaque(self.look.ink), thickness, cv2.LINE_AA, SHIFT)

    def _lay_pattern(self, pixels: NDArray[np.int32]) -> None:
        if self._pattern is None:
            self._pattern = _pattern_mask(self.sprite.shape[1], self.sprite.shape[0], self.look.pattern)
        mask = np.zeros(self.sprite.shape[:2], np.uint8)
        cv2.fillPoly(mask, [pixels], (255,), cv2.LINE_AA, SHIFT)
        mask = np.minimum(mask, self._pattern)
        weight = mask.astype(np.float32) * (1 / 255)
        paint = np.empty_like(self.sprite)
        paint[:] = _opaque(self.look.second)
        cv2.blendLinear(paint, self.sprite, weight, 1 - weight, self.sprite)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        unit = 1 << SHIFT
        margin, scale_x, scale_y = self._margin, self._scale_x, self._scale_y
        return np.array(
            [(round((margin + x * scale_x) * unit), round((margin + y * scale_y) * unit)) for x, y in points],
            np.int32,
        )


def ellipse_points(
    x: float, y: float, radius_x: float, radius_y: float, num_points: int = 28
) -> list[tuple[float, float]]:
    """A closed ellipse as a polygon."""
    return arc_points(x, y, radius_x, radius_y, 0.0, 360.0 * (1 - 1 / num_points), num_points)


def arc_points(
    x: float, y: float, radius_x: float, radius_y: float, start: float, end: float, num_points: int = 14
) -> list[tuple[float, float]]:
    """Part of an ellipse, ``start`` to ``end`` in degrees, clockwise on the screen from the right."""
    step = math.radians(end - start) / (num_points - 1)
    first = math.radians(start)
    return [
        (x + radius_x * math.cos(first + i * step), y + radius_y * math.sin(first + i * step))
        for i in range(num_points)
    ]


def star_points(x: float, y: float, outer: float, inner: float, num_points: int) -> list[tuple[float, float]]:
    """A star with one tip straight up."""
    corners = []
    for i in range(2 * num_points):
        radius = outer if i % 2 == 0 else inner
        angle = math.pi * (i / num_points - 0.5)
        corners.append((x + radius * math.cos(angle), y + radius * math.sin(angle)))
    return corners


def ink_for(backdrop: RGB) -> RGB:
    """The colour of outlines that stands out from a background: dark ink, or cream on dark backgrounds."""
    return INK if luminance(backdrop) > 118 else CREAM


def _opaque(colour: RGB) -> tuple[int, int, int, int]:
    return (*colour, 255)


def _pattern_mask(width: int, height: int, pattern: str) -> Image:
    mask = np.zeros((height, width), np.uint8)
    period = max(7.0, 0.2 * math.sqrt(width * height))
    num_x, num_y = max(3, round(width / period)), max(3, round(height / period))
    step_x, step_y = width / num_x, height / num_y
    if pattern == "striped":
        for i in range(num_x):
            _fill(mask, (i + 0.25) * step_x, 0, (i + 0.75) * step_x, height)
    elif pattern == "banded":
        for i in range(num_y):
            _fill(mask, 0, (i + 0.25) * step_y, width, (i + 0.75) * step_y)
    elif pattern == "checkered":
        for j in range(num_y):
            for i in range(j % 2, num_x, 2):
                _fill(mask, i * step_x, j * step_y, (i + 1) * step_x, (j + 1) * step_y)
    else:
        radius = round(0.27 * min(step_x, step_y) * (1 << SHIFT))
        for j in range(num_y + 1):
            for i in range(num_x + 1):
                centre = ((i + 0.5 * (j % 2)) * step_x, (j + 0.5) * step_y)
                cv2.circle(mask, _fixed(centre), radius, (255,), -1, cv2.LINE_AA, SHIFT)
    return mask


def _fill(mask: Image, left: float, top: float, right: float, bottom: float) -> None:
    mask[round(top) : round(bottom), round(left) : round(right)] = 255


def _fixed(point: tuple[float, float]) -> tuple[int, int]:
    return round(point[0] * (1 << SHIFT)), round(point[1] * (1 << SHIFT))
