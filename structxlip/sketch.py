"""Sketches: a drawing on any ground becomes an edge map like those that the edge branch was trained on.

```
ground   its colour where it is even, its local median where light falls unevenly (a photograph of paper)
ink      what differs from the ground, whichever of the two is darker; specks are dropped
strokes  thinned and drawn again with one width, so that a fine pen and a marker mean the same; areas stay
edges    the model's own detector on the drawing, scaled as the model scales pictures
```

Shapes: `H W` pixels, `S` side of the model's input. Pictures are uint8 `(H, W, 3)`, maps uint8 `(S, S)`.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from structxlip.edges import EdgeDetector, EdgeMap, Picture
from structxlip.preprocessing import Preprocessing

Mask = NDArray[np.uint8]

WORKING_SIDE = 512
# A drawing program's ground is one colour up to compression; a photograph's is not.
EVEN_SHARE, EVEN_TOLERANCE = 0.4, 10
GROUND_SIDE, GROUND_WINDOW = 192, 45
# Grey levels that ink differs from its ground at least: less is paper, grain or compression.
LEAST_CONTRAST = 24.0
NOISE_MULTIPLE = 6.0
SHARE_OF_DARKEST = 0.35
LEAST_EXTENT = 0.02
# Shares of the longer side. Wider strokes are areas. All others are drawn with one width: of those tried on rendered
# scenes the one that finds most (docs/decisions/0010).
WIDEST_STROKE = 0.09
DRAWN_WIDTH = 0.018


class EmptySketchError(ValueError):
    """The drawing has no strokes that stand out from their ground."""


def sketch_to_edges(rgb: Picture, preprocessing: Preprocessing, detector: EdgeDetector) -> EdgeMap:
    """Return a drawing as an edge map of the model's size.

    Polarity, colour and width of the strokes do not matter, and neither does light that falls unevenly. A line stays
    where it is on the canvas.

    Args:
        rgb: The drawing, of any size.
        preprocessing: How the model scales pictures, so that a line lands where a picture's edge would.
        detector: The model's own.

    Raises:
        EmptySketchError: If nothing stands out from the ground.
        ValueError: If the array is not a picture.
    """
    ink = _without_specks(_ink(_shrink(rgb)))
    if not ink.any():
        raise EmptySketchError(
            "the sketch has no strokes: draw lines that differ from their ground by at least "
            f"{LEAST_CONTRAST:.0f} of 255 grey levels"
        )
    drawing = np.repeat(255 * _with_one_width(ink)[:, :, None], 3, axis=2)
    return detector.detect(replace(preprocessing, fill=0).resize(drawing))


def thin_lines(ink: Mask) -> Mask:
    """Thin strokes to one pixel (Zhang and Suen 1984, doi:10.1145/357994.358023); areas are not strokes and go.

    Args:
        ink: `(H, W)`, nonzero where there is ink.

    Returns:
        The lines, 1 on 0.
    """
    mask = (ink > 0).astype(np.uint8)
    return _thin(mask, _areas(mask))


def _with_one_width(ink: Mask) -> Mask:
    radius, areas = max(1, round(DRAWN_WIDTH * max(ink.shape) / 2)), _areas(ink)
    return np.maximum(np.asarray(cv2.dilate(_thin(ink, areas), _disc(radius)), dtype=np.uint8), areas)


def _thin(mask: Mask, areas: Mask) -> Mask:
    if areas.any():
        mask = np.asarray(mask & (cv2.dilate(areas, _disc(1)) == 0), dtype=np.uint8)
    return _skeleton(mask)


def _areas(mask: Mask) -> Mask:
    reach = max(2, round(WIDEST_STROKE * max(mask.shape) / 2))
    # Most drawings have none, and the distance to the ground says so in a tenth of the time.
    if mask.all() or cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max() >= reach - 1:
        return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(reach)), dtype=np.uint8)
    return np.zeros_like(mask)


def _shrink(rgb: Picture) -> Picture:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"expected a uint8 picture of shape (height, width, 3), got {rgb.dtype} {rgb.shape}")
    scale = WORKING_SIDE / max(rgb.shape[:2])
    if scale >= 1:
        return rgb
    width, height = (max(1, round(side * scale)) for side in (rgb.shape[1], rgb.shape[0]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _ink(rgb: Picture) -> Mask:
    """Return where the drawing differs from its ground by far more than the ground from itself."""
    smooth = cv2.GaussianBlur(_contrast(rgb, _ground(rgb)), (3, 3), 0)
    noise = 1.4826 * float(np.median(smooth))
    darkest = float(np.percentile(smooth, 99.9))
    threshold = max(LEAST_CONTRAST, NOISE_MULTIPLE * noise, SHARE_OF_DARKEST * darkest)
    return _connected_to(smooth >= threshold, smooth >= threshold / 2)


def _contrast(rgb: Picture, ground: Picture) -> Mask:
    """Return the largest difference of a channel, `(H, W)`."""
    red, green, blue = cv2.split(cv2.absdiff(rgb, ground))
    return np.asarray(cv2.max(cv2.max(red, green), blue), dtype=np.uint8)


def _ground(rgb: Picture) -> Picture:
    """Return the colour of the ground under each pixel."""
    even = np.empty_like(rgb)
    even[:] = _commonest_colour(rgb)
    if (_contrast(rgb, even) <= EVEN_TOLERANCE).mean() >= EVEN_SHARE:
        return even
    scale = min(1.0, GROUND_SIDE / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    ground = cv2.GaussianBlur(cv2.medianBlur(small, GROUND_WINDOW), (0, 0), 3)
    return np.asarray(cv2.resize(ground, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _commonest_colour(rgb: Picture) -> NDArray[np.uint8]:
    """Return the centre of the fullest of 16 × 16 × 16 cells, refined to the mean of what lies in it."""
    cells = (rgb >> 4).astype(np.uint16)
    index = (cells[..., 0] << 8) | (cells[..., 1] << 4) | cells[..., 2]
    fullest = np.bincount(index.ravel()).argmax()
    return np.asarray(np.rint(rgb[index == fullest].mean(axis=0)), dtype=np.uint8)


def _connected_to(seeds: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Mask:
    """Return the parts of a mask that hold a seed."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    is_kept = np.zeros(int(labels.max()) + 1, dtype=np.uint8)
    is_kept[np.unique(labels[seeds])] = 1
    is_kept[0] = 0
    return np.asarray(is_kept[labels], dtype=np.uint8)


def _without_specks(ink: Mask) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    extent = np.maximum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    is_kept = (extent >= LEAST_EXTENT * max(ink.shape)).astype(np.uint8)
    is_kept[0] = 0
    return np.asarray(is_kept[labels], dtype=np.uint8)


def _disc(radius: int) -> Mask:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), dtype=np.uint8)


def _skeleton(mask: Mask) -> Mask:
    """Peel strokes from two sides in turn until nothing comes off without breaking a line."""
    kept = mask.copy()
    while True:
        num_before = cv2.countNonZero(kept)
        for stays in _STAYS:
            ring = cv2.filter2D(kept, cv2.CV_8U, _RING, borderType=cv2.BORDER_CONSTANT)
            kept &= np.asarray(cv2.LUT(ring, stays), dtype=np.uint8)
        if cv2.countNonZero(kept) == num_before:
            return kept


# A bit for each of the eight neighbours, clockwise from the upper one.
_RING = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], dtype=np.float32)


def _comes_off(ring: int, *, is_first: bool) -> bool:
    """Whether a pixel with these neighbours lies on a rim of the side that is peeled, and is not needed."""
    is_set = [ring >> place & 1 for place in range(8)]
    up, _, right, _, down, _, left, _ = is_set
    num_rises = sum(is_set[place] < is_set[(place + 1) % 8] for place in range(8))
    one, two = (up * right * down, right * down * left) if is_first else (up * right * left, up * down * left)
    return 2 <= sum(is_set) <= 6 and num_rises == 1 and not one and not two


_STAYS = tuple(
    np.array([not _comes_off(ring, is_first=is_first) for ring in range(256)], dtype=np.uint8)
    for is_first in (True, False)
)
