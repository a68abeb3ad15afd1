"""What lies behind the objects."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes.chance import Chance
from training.scenes.drawing import SHIFT, Image
from training.scenes.scene import RGB, Background

DrawBackground = Callable[[Background, int], Image]


def draw_background(background: Background, size: int) -> Image:
    """The empty stage, ``(size, size, 3)`` RGB."""
    return _BACKGROUNDS[background.kind](background, size)


def mixed(first: RGB, second: RGB, share: float) -> RGB:
    """A colour between two: ``share`` of the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _even(colour: RGB, size: int) -> Image:
    image = np.empty((size, size, 3), np.uint8)
    image[:] = colour
    return image


def _ramp(top: RGB, bottom: RGB, width: int, height: int) -> Image:
    """A vertical gradient."""
    share = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    column = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    return np.repeat(np.rint(column).astype(np.uint8)[:, None, :], width, axis=1)


def _lighter(colour: RGB, share: float = 0.35) -> RGB:
    return mixed(colour, (255, 255, 255), share)


def _darker(colour: RGB, share: float = 0.16) -> RGB:
    return mixed(colour, (30, 30, 50), share)


def _plain(background: Background, size: int) -> Image:
    return _even(background.paint.rgb, size)


def _gradient(background: Background, size: int) -> Image:
    return _ramp(background.paint.rgb, background.second.rgb, size, size)


def _horizon(background: Background, size: int) -> Image:
    image = _ramp(background.paint.rgb, _lighter(background.paint.rgb), size, size)
    line = round(background.level * size)
    image[line:] = _ramp(background.second.rgb, _darker(background.second.rgb), size, size - line)
    image[line : line + max(1, size // 128)] = _darker(background.second.rgb, 0.4)
    return image


def _hills(background: Background, size: int) -> Image:
    image = _ramp(background.paint.rgb, _lighter(background.paint.rgb), size, size)
    chance = Chance("hills", background.texture_key)
    for layer in range(2):
        colour = mixed(background.second.rgb, background.paint.rgb, 0.4 * (1 - layer))
        base = background.level + 0.16 * layer
        waves, phase = chance.uniform(0.8, 1.7), chance.uniform(0, 6.28)
        curve = [(x / 24, base + 0.07 * math.sin(phase + waves * 2 * math.pi * x / 24)) for x in range(25)]
        points = _pixels([*curve, (1.0, 1.01), (0.0, 1.01)], size)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, SHIFT)
        cv2.polylines(image, [points[:25]], False, _darker(colour, 0.4), max(1, size // 128), cv2.LINE_AA, SHIFT)
    return image


def _tiles(background: Background, size: int) -> Image:
    image = _even(background.paint.rgb, size)
    joint = mixed(background.paint.rgb, (90, 90, 110), 0.32)
    num_tiles = round(4 + 4 * background.level)
    for i in range(1, num_tiles):
        at = round(i * size / num_tiles)
        image[at : at + max(1, size // 100)] = joint
        image[:, at : at + max(1, size // 100)] = joint
    return image


def _speckled(background: Background, size: int) -> Image:
    image = _even(background.paint.rgb, size)
    chance = Chance("speckles", background.texture_key)
    colours = (_darker(background.paint.rgb, 0.3), _lighter(background.paint.rgb, 0.6))
    radius = max(1, round(0.006 * size * (1 << SHIFT)))
    for i in range(round(70 + 60 * background.level)):
        centre = (chance.below(size << SHIFT), chance.below(size << SHIFT))
        cv2.circle(image, centre, radius, colours[i % 2], -1, cv2.LINE_AA, SHIFT)
    return image


def _room(background: Background, size: int) -> Image:
    image = _ramp(_lighter(background.paint.rgb, 0.2), background.paint.rgb, size, size)
    line = round(background.level * size)
    image[line:] = _ramp(_darker(background.second.rgb, 0.1), background.second.rgb, size, size - line)
    board = _darker(background.second.rgb, 0.35)
    for i in range(-3, 12):
        ends = _pixels([(i / 8, background.level), ((i / 8 - 0.5) * 1.8 + 0.5, 1.0)], size)
        cv2.polylines(image, [ends], False, board, max(1, size // 160), cv2.LINE_AA, SHIFT)
    strip = max(2, round(0.025 * size))
    image[line - strip : line] = _lighter(background.paint.rgb, 0.7)
    image[line : line + max(1, size // 128)] = board
    return image


def _waves(background: Background, size: int) -> Image:
    image = _ramp(background.paint.rgb, _lighter(background.paint.rgb), size, size)
    num_rows = 4
    for row in range(num_rows):
        base = background.level + (1 - background.level) * row / num_rows
        colour = _darker(background.second.rgb, 0.09 * row)
        phase = 0.5 * (row % 2)
        crest = [(x / 60, base + 0.016 * abs(math.sin(math.pi * (6 * x / 60 + phase)))) for x in range(61)]
        points = _pixels([*crest, (1.0, 1.01), (0.0, 1.01)], size)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA, SHIFT)
        cv2.polylines(image, [points[:61]], False, _lighter(colour, 0.55), max(1, size // 128), cv2.LINE_AA, SHIFT)
    return image


def _pixels(points: list[tuple[float, float]], size: int) -> NDArray[np.int32]:
    return np.array([(round(x * (size << SHIFT)), round(y * (size << SHIFT))) for x, y in points], np.int32)


_BACKGROUNDS: Mapping[str, DrawBackground] = MappingProxyType(
    {
        "plain": _plain,
        "gradient": _gradient,
        "horizon": _horizon,
        "hills": _hills,
        "tiles": _tiles,
        "speckled": _speckled,
        "room": _room,
        "waves": _waves,
    }
)
