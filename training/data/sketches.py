"""Hand-like sketches of a picture: lines of some detector, thinned, simplified, broken and jittered.

Models are judged by sketches from one detector and learn from those of others, so that what is measured is not what was
learned by heart.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from structxlip.edges import EdgeDetector, PercentileCanny, XDoG
from structxlip.sketch import thin_lines

SIDE = 256
CANVAS = 512
# In pixels of SIDE: how far a simplified line may leave the real one, and how far a hand strays.
TOLERANCE, JITTER = 1.5, 1.0
SHORTEST = 10.0
SHARE_BROKEN = 0.15
# A soft map is a line from this grey level on.
LINE_FROM = 100

# Extended difference of Gaussians looks like line art. Nothing learns from it.
JUDGED_BY: EdgeDetector = XDoG(threshold=0.1)
# Many lines, and few.
LEARNED_FROM: tuple[EdgeDetector, ...] = (PercentileCanny(), PercentileCanny(low=80, high=95))


def draw_sketch(
    rgb: NDArray[np.uint8], random: np.random.Generator, *, detector: EdgeDetector = JUDGED_BY
) -> NDArray[np.uint8]:
    """Return a drawing of a picture, dark strokes on white, uint8 `(512, 512, 3)`; white alone if it has no lines.

    The detector's lines are thinned, traced and simplified to polygons; short ones and a share of the others' pieces
    are left out; corners move; strokes have one of several widths.
    """
    canvas = np.full((CANVAS, CANVAS, 3), 255, dtype=np.uint8)
    square = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    lines = thin_lines((detector.detect(np.asarray(square, dtype=np.uint8)) > LINE_FROM).astype(np.uint8))
    width = int(random.integers(3, 7))
    ink = tuple(int(level) for level in random.integers(0, 90, 3))
    for path in _paths(lines):
        moved = (path + random.normal(0, JITTER, path.shape)) * (CANVAS / SIDE)
        for start, end in pairwise(moved):
            if random.random() >= SHARE_BROKEN:
                cv2.line(canvas, _point(start), _point(end), ink, width, cv2.LINE_AA)
    return canvas


def _paths(lines: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Trace thin lines into polygons, each `(P, 2)`, without those that are short."""
    contours, _ = cv2.findContours(lines, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    paths = []
    for contour in contours:
        if cv2.arcLength(contour, False) < 2 * SHORTEST:  # a contour goes there and back
            continue
        half = contour[: len(contour) // 2 + 1] if _goes_back(contour) else contour
        simple = cv2.approxPolyDP(half, TOLERANCE, False)
        paths.append(simple.reshape(-1, 2).astype(np.float64))
    return paths


def _goes_back(contour: Any) -> bool:
    """Tell whether a contour runs along both sides of an open line: it then encloses next to nothing."""
    return bool(cv2.contourArea(contour) < 0.5 * cv2.arcLength(contour, False))


def _point(place: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))
