"""A drawing means the same on any ground, with any pen, and photographed on paper."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from structxlip.edges import PercentileCanny
from structxlip.preprocessing import Preprocessing
from structxlip.sketch import EmptySketchError, sketch_to_edges, thin_lines

SIDE = 96
PREPROCESSING = Preprocessing(SIDE, "squash", "bicubic", 0, (0.5,) * 3, (0.25,) * 3)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def draw(ground: Any = WHITE, ink: Any = BLACK, width: int = 5, *, size: int = 400) -> NDArray[np.uint8]:
    canvas = np.full((size, size, 3), ground, np.uint8)
    unit = size / 400
    points = [tuple(int(unit * place) for place in pair) for pair in ((130, 130), (220, 220), (350, 340), (30, 350))]
    cv2.circle(canvas, points[0], int(90 * unit), ink, width, cv2.LINE_AA)
    cv2.rectangle(canvas, points[1], points[2], ink, width, cv2.LINE_AA)
    cv2.line(canvas, points[3], (int(180 * unit), int(280 * unit)), ink, width, cv2.LINE_AA)
    return canvas


def photographed(drawing: NDArray[np.uint8], *, darkest: float = 0.25, seed: int = 0) -> NDArray[np.uint8]:
    """Light that falls from one side, the grain of paper, the noise of a sensor, and JPEG."""
    random = np.random.default_rng(seed)
    size = drawing.shape[0]
    y, x = np.mgrid[0:size, 0:size] / size
    light = darkest + (1 - darkest) * (0.2 + 0.8 * x * (0.4 + 0.6 * y))
    grain = cv2.GaussianBlur(random.normal(0, 12, (size, size)).astype(np.float32), (0, 0), 1.5)
    seen = (drawing * 0.9 + grain[..., None]) * light[..., None] + random.normal(0, 3, drawing.shape)
    saved = cv2.imencode(".jpg", np.clip(seen, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return np.asarray(cv2.imdecode(saved, cv2.IMREAD_COLOR), dtype=np.uint8)


def edges(drawing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return sketch_to_edges(drawing, PREPROCESSING, PercentileCanny())


def agreement(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """The lesser of precision and recall of lines, to within two pixels."""
    near = np.ones((5, 5), np.uint8)
    shares = [
        (first & cv2.dilate(second, near)).sum() / max(first.sum(), 1)
        for first, second in (((found > 0) * np.uint8(1), (wanted > 0) * np.uint8(1)),)
        for first, second in ((first, second), (second, first))
    ]
    return float(min(shares))


@pytest.mark.parametrize(
    "drawing",
    [
        draw(BLACK, WHITE),
        draw(width=1),
        draw(width=14),
        draw((200, 220, 255), (220, 30, 40)),
        draw(WHITE, (255, 240, 0)),
        draw((30, 60, 30), (60, 120, 60)),
        draw(size=1600, width=20),
        photographed(draw((240, 235, 225), (70, 70, 90))),
        photographed(draw((240, 235, 225), (20, 20, 120), 9), darkest=0.15, seed=1),
    ],
    ids=["white-on-black", "hairline", "marker", "coloured", "yellow", "faint", "large", "paper", "dim-paper"],
)
def test_any_pen_on_any_ground_gives_the_same_lines(drawing: NDArray[np.uint8]) -> None:
    assert agreement(edges(drawing), edges(draw())) > 0.9


def test_the_lines_are_those_of_a_picture_with_such_lines() -> None:
    found = edges(draw())
    assert set(np.unique(found)) == {0, 255}
    assert found.shape == (SIDE, SIDE)
    assert agreement(found, PercentileCanny().detect(PREPROCESSING.resize(draw(width=7)))) > 0.95


def test_an_area_keeps_its_outline() -> None:
    filled = np.full((400, 400, 3), 255, np.uint8)
    cv2.rectangle(filled, (100, 100), (300, 300), (40, 60, 200), -1)
    found = edges(filled)
    inner, outer = found[30:66, 30:66], found[22:75, 22:75]
    assert not inner.any()
    assert (outer > 0).sum() > 150


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_canvas_is_told(level: int) -> None:
    with pytest.raises(EmptySketchError, match="no strokes"):
        edges(np.full((80, 120, 3), level, np.uint8))


def test_grain_alone_is_no_drawing() -> None:
    with pytest.raises(EmptySketchError):
        edges(photographed(np.full((400, 400, 3), 240, np.uint8)))


def test_thinned_lines_are_one_pixel_wide_and_whole() -> None:
    mask = np.zeros((200, 200), np.uint8)
    cv2.line(mask, (15, 15), (180, 140), 1, 5)
    cv2.line(mask, (15, 180), (180, 60), 1, 4)
    lines = thin_lines(mask)
    assert cv2.connectedComponents(lines, connectivity=8)[0] == 2
    blocks = lines[:-1, :-1] + lines[1:, :-1] + lines[:-1, 1:] + lines[1:, 1:]
    assert (blocks == 4).sum() == 0
    assert not (lines & (1 - mask)).any()
