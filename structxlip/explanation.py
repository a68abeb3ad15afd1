"""Why a picture was found: which phrase of a text meets which region of it.

```
phrases        noun phrases of the text with what leads to them, found by a parser
regions        boxes likely to hold one thing, on whole pixels of the picture
similarities   (1 − w) · ⟨phrase, region⟩ of appearance + w · ⟨phrase, region⟩ of structure
pairs          the best region of each phrase
```

A phrase is embedded as a text and a region as a picture, cut out along its box: both by the model as it serves. So
anyone can check each number: cut the box out of the upright picture (`left = round(x0 · width)` and so on), embed it
and the phrase (`POST /embed`), and take the inner products of the two views.

Shapes: `P` phrases, `R` regions, `D` embedding. Boxes are `x0 y0 x1 y1` as shares of the width and height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from structxlip.captions import Chunk, Chunker, sample_evenly
from structxlip.edges import EdgeDetector, Picture
from structxlip.regions import WholeThingRegions

MAX_PHRASES = 12
MAX_REGIONS = 16
# Regions are looked for in the picture squeezed to this square, as the models see pictures.
SIDE = 224
# In pixels: less is no picture, for the service either.
LEAST_SIDE = 8
OVERLAY_SIDE = 640
COLOURS = ((230, 60, 60), (60, 130, 230), (40, 170, 90), (235, 160, 30), (150, 80, 200), (20, 170, 190))

Boxes = NDArray[np.float64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """A phrase and the region that meets it best.

    Attributes:
        phrase: Its place among the phrases.
        region: Its place among the regions.
        similarity: Of the two.
    """

    phrase: int
    region: int
    similarity: float


def find_phrases(text: str, chunker: Chunker) -> list[Chunk]:
    """Return the phrases of a text, spread over all of it where there are many; the text itself if it has no word."""
    return sample_evenly(chunker.chunks(text), MAX_PHRASES) or [Chunk(text, 0, len(text))]


def find_regions(rgb: Picture, detector: EdgeDetector) -> Boxes:
    """Return boxes `(R, 4)` on whole pixels of a picture, at least one."""
    square = np.asarray(cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    boxes, is_box = WholeThingRegions(max_regions=MAX_REGIONS).propose(square, detector.detect(square))
    height, width = rgb.shape[:2]
    snapped = [_on_pixels(box, width, height) for box in boxes[is_box].astype(np.float64)]
    large = [box for box in snapped if min((box[2] - box[0]) * width, (box[3] - box[1]) * height) >= LEAST_SIDE - 0.5]
    return np.array(large or [(0.0, 0.0, 1.0, 1.0)])


def cut_out(rgb: Picture, box: Sequence[float] | NDArray[np.float64]) -> Picture:
    """Return what a box from `find_regions` holds."""
    height, width = rgb.shape[:2]
    left, top, right, bottom = (
        round(float(share) * side) for share, side in zip(box, (width, height) * 2, strict=True)
    )
    return np.ascontiguousarray(rgb[top:bottom, left:right])


def similarities(
    phrases: tuple[Matrix, Matrix], regions: tuple[Matrix, Matrix], *, structure_weight: float
) -> NDArray[np.float64]:
    """Return `(P, R)`; both sides are the rows `(…, D)` of appearance and of structure."""
    w = structure_weight
    appearance = phrases[0].astype(np.float64) @ regions[0].T.astype(np.float64)
    structure = phrases[1].astype(np.float64) @ regions[1].T.astype(np.float64)
    return np.asarray((1 - w) * appearance + w * structure)


def best_pairs(found: NDArray[np.float64]) -> list[Pair]:
    """Return the best region of each phrase, the most similar pair first."""
    pairs = [Pair(phrase, int(row.argmax()), float(row.max())) for phrase, row in enumerate(found)]
    return sorted(pairs, key=lambda pair: -pair.similarity)


def draw_overlay(rgb: Picture, boxes: Boxes, pairs: Sequence[Pair]) -> Picture:
    """Return a small copy of a picture with the box of each pair, numbered by its phrase from 1."""
    scale = min(1.0, OVERLAY_SIDE / max(rgb.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in (rgb.shape[1], rgb.shape[0]))
    drawn = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    for pair in reversed(pairs):  # the best pair on top
        colour = COLOURS[pair.phrase % len(COLOURS)]
        left, top, right, bottom = (int(v) for v in boxes[pair.region] * (width - 1, height - 1, width - 1, height - 1))
        cv2.rectangle(drawn, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
        label = (left + 4 + 18 * (pair.phrase % 3), min(height - 2, top + 16))
        cv2.putText(drawn, str(pair.phrase + 1), label, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 2, cv2.LINE_AA)
    return np.asarray(drawn, dtype=np.uint8)


def _on_pixels(box: NDArray[np.float64], width: int, height: int) -> tuple[float, float, float, float]:
    """Widen a box to whole pixels, at least one each way."""
    left, top = min(math.floor(box[0] * width), width - 1), min(math.floor(box[1] * height), height - 1)
    right, bottom = max(math.ceil(box[2] * width), left + 1), max(math.ceil(box[3] * height), top + 1)
    return left / width, top / height, min(right, width) / width, min(bottom, height) / height
