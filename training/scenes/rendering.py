"""From a scene to its picture."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from training.scenes.backgrounds import draw_background, mixed
from training.scenes.chance import Chance
from training.scenes.drawing import INK, SHIFT, Image, Look, Pen, ink_for
from training.scenes.scene import RGB, Box, Group, Scene
from training.scenes.shapes import SHAPES

SUPERSAMPLING = 2
STROKES = {"thin": 0.0098, "bold": 0.0185}
"""Line widths of a large object as shares of the picture's side: 1.3 and 2.4 pixels at 128."""


def render_scene(scene: Scene, size: int = 128) -> Image:
    """Draws a scene.

    Args:
        scene: What to draw.
        size: Side in pixels, at least 32.

    Returns:
        RGB, ``(size, size, 3)``, the same bytes for the same scene and size.

    Raises:
        ValueError: If the size is below 32, where strokes would cover the objects.
    """
    if size < 32:
        raise ValueError(f"size is {size} pixels; scenes need at least 32 to show their objects")
    canvas = draw_background(scene.background, size)
    _scatter_clutter(canvas, scene, size)
    for group in scene.groups:
        _draw_group(canvas, group, _look(group, scene, size), size, scene)
    return canvas


def _look(group: Group, scene: Scene, size: int) -> Look:
    backdrop, contrast = scene.background.paint.rgb, scene.contrast
    ink = INK if group.fill == "solid" else ink_for(backdrop)
    if contrast < 1.0:
        ink = mixed(backdrop, ink, 0.5)
    return Look(
        main=mixed(backdrop, group.paint.rgb, contrast),
        second=mixed(backdrop, group.second.rgb, contrast),
        pattern=group.pattern,
        is_hollow=group.fill == "hollow",
        stroke=_stroke_share(group) * size * SUPERSAMPLING,
        ink=ink if group.fill == "solid" else mixed(ink, group.paint.rgb, 0.45 * contrast),
    )


def _stroke_share(group: Group) -> float:
    """Small objects get finer lines, or their parts would drown in ink."""
    side = max(group.boxes[0].width, group.boxes[0].height)
    return STROKES[group.outline] * (0.42 + 0.58 * min(1.0, side / 0.36))


def pixel_box(box: Box, size: int) -> tuple[int, int, int, int]:
    """The whole pixels of a box: left, top, right, bottom, the last two exclusive."""
    left, top = round(box.left * size), round(box.top * size)
    return left, top, left + max(4, round(box.width * size)), top + max(4, round(box.height * size))


def _draw_group(canvas: Image, group: Group, look: Look, size: int, scene: Scene) -> None:
    left, top, right, bottom = pixel_box(group.boxes[0], size)
    sprite = draw_object(group, look, right - left, bottom - top)
    backdrop = scene.background.paint.rgb
    halo = mixed(backdrop, ink_for(backdrop), 0.9 * scene.contrast)
    for box in group.boxes:
        left, top, _, _ = pixel_box(box, size)
        if not look.is_hollow:
            if ink_for(backdrop) == INK:
                _cast_shadow(canvas, sprite, left, top)
            else:
                _lay_halo(canvas, sprite, left, top, halo)
        _lay(canvas, sprite, left, top)


def draw_object(group: Group, look: Look, width: int, height: int) -> Image:
    """One object of a group on a transparent ground, ``(height, width, 4)``."""
    pen = Pen(width * SUPERSAMPLING, height * SUPERSAMPLING, look)
    SHAPES[group.kind](pen, group.variant)
    sprite = np.asarray(cv2.resize(pen.sprite, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if group.facing == "left":
        sprite = np.ascontiguousarray(sprite[:, ::-1])
    if not look.is_hollow:
        _shade(sprite, group.finish)
    return sprite


def _shade(sprite: Image, finish: str) -> None:
    """Light from above, dimmer at the foot; a glossy object also has a slanting band of light."""
    height, width = sprite.shape[:2]
    light = np.empty_like(sprite)
    light[:] = (255 - np.arange(height, dtype=np.float32) * (40 / height)).astype(np.uint8)[:, None, None]
    light[..., 3] = 255
    cv2.multiply(sprite, light, sprite, scale=1 / 255)
    if finish == "glossy":
        across = np.arange(width, dtype=np.float32) / width
        down = np.arange(height, dtype=np.float32) / height
        band = 62 * np.exp(-(((across[None, :] + down[:, None] - 0.55) / 0.13) ** 2))
        light[..., :3] = band.astype(np.uint8)[..., None]
        light[..., 3] = 0
        cv2.add(sprite, light, sprite)


def _cast_shadow(canvas: Image, sprite: Image, left: int, top: int) -> None:
    """Darkens the ground a little below and to the right of an object."""
    reach = max(1, round(0.016 * canvas.shape[0]))
    opacity = _padded_opacity(sprite, reach)
    light = 1 - cv2.blur(opacity, (2 * reach + 1, 2 * reach + 1)).astype(np.float32) * (0.25 / 255)
    _blend(canvas, (0, 0, 0), light, left - reach + reach // 2, top)


def _lay_halo(canvas: Image, sprite: Image, left: int, top: int, colour: RGB) -> None:
    """A light rim around an object, as on a sticker: dark outlines would be lost on a dark background."""
    reach = max(1, round(0.009 * canvas.shape[0]))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    rim = cv2.dilate(_padded_opacity(sprite, reach), kernel)
    _blend(canvas, colour, 1 - rim.astype(np.float32) * (1 / 255), left - reach, top - reach)


def _padded_opacity(sprite: Image, reach: int) -> Image:
    opacity = np.zeros((sprite.shape[0] + 2 * reach, sprite.shape[1] + 2 * reach), np.uint8)
    opacity[reach:-reach, reach:-reach] = sprite[..., 3]
    return opacity


def _blend(canvas: Image, colour: RGB, share: NDArray[np.float32], left: int, top: int) -> None:
    """Mixes one colour into the canvas: ``share`` of the ground stays."""
    first_row, first_column = max(0, -top), max(0, -left)
    share = share[first_row : canvas.shape[0] - top, first_column : canvas.shape[1] - left]
    rows = slice(top + first_row, top + first_row + share.shape[0])
    columns = slice(left + first_column, left + first_column + share.shape[1])
    ground = np.ascontiguousarray(canvas[rows, columns])
    paint = np.empty_like(ground)
    paint[:] = colour
    canvas[rows, columns] = cv2.blendLinear(ground, paint, np.ascontiguousarray(share), 1 - share)


def _lay(canvas: Image, sprite: Image, left: int, top: int) -> None:
    bottom, right = min(top + sprite.shape[0], canvas.shape[0]), min(left + sprite.shape[1], canvas.shape[1])
    sprite = sprite[: bottom - top, : right - left]
    opacity = sprite[..., 3].astype(np.float32) * (1 / 255)
    colours = np.ascontiguousarray(sprite[..., :3])
    ground = np.ascontiguousarray(canvas[top:bottom, left:right])
    canvas[top:bottom, left:right] = cv2.blendLinear(colours, ground, opacity, 1 - opacity)


def _scatter_clutter(canvas: Image, scene: Scene, size: int) -> None:
    chance = Chance("clutter", scene.background.texture_key)
    ink = ink_for(scene.background.paint.rgb)
    backdrop, unit = scene.background.paint.rgb, size << SHIFT
    for _ in range(scene.num_clutter):
        colour = mixed(backdrop, ink, chance.uniform(0.25, 0.6))
        x, y, reach = chance.uniform(0.02, 0.98), chance.uniform(0.02, 0.98), chance.uniform(0.012, 0.03)
        turn = chance.uniform(0, math.pi)
        along, across = reach * math.cos(turn), reach * math.sin(turn)
        ends = [(x - along, y - across), (x + along, y + across)]
        if chance.happens(0.4):
            ends.append((x - across, y + along))
        points = np.array([(round(a * unit), round(b * unit)) for a, b in ends], np.int32)
        cv2.polylines(canvas, [points], len(ends) == 3, colour, max(1, round(0.01 * size)), cv2.LINE_AA, SHIFT)
