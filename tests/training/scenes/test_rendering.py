from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structxlip.edges import PercentileCanny
from training.scenes import SPLITS, Background, Box, Group, Paint, Scene, described_scene, render_scene, sample_scene
from training.scenes.shapes import SHAPES
from training.scenes.vocabulary import BACKGROUNDS, KINDS

CREAM = Paint("cream", (251, 241, 220))
RED, WHITE = Paint("red", (216, 70, 62)), Paint("white", (250, 248, 242))


def _stage(*groups: Group, kind: str = "plain", paint: Paint = CREAM) -> Scene:
    return Scene("train", 0, 0, Background(kind, paint, Paint("green", (138, 188, 112)), 0.6, 7), groups, ())


def _single(kind: str, variant: int = 0, **changes: object) -> Group:
    height = 0.6 / max(1.0, KINDS[kind].aspect)
    box = Box(0.2, 0.2, 0.2 + height * KINDS[kind].aspect, 0.2 + height)
    group = Group(kind, variant, "none", "single", "plain", RED, WHITE, "solid", "thin", "matte", (box,))
    return replace(group, **changes)  # type: ignore[arg-type]


def _changed(group: Group, *, paint: Paint = CREAM) -> np.ndarray:
    """Which pixels an object changes, `(128, 128)` of bool."""
    empty, full = render_scene(_stage(paint=paint)), render_scene(_stage(group, paint=paint))
    difference: np.ndarray = np.abs(empty.astype(int) - full).max(axis=2) > 0
    return difference


every_form = pytest.mark.parametrize(
    ("kind", "variant"), [(name, i) for name, kind in KINDS.items() for i in range(len(kind.variants))]
)


@every_form
@pytest.mark.parametrize("fill", ["solid", "hollow"])
def test_every_form_of_every_kind_draws_inside_its_box_and_reaches_its_borders(
    kind: str, variant: int, fill: str
) -> None:
    group = _single(kind, variant, fill=fill)
    rows, columns = np.nonzero(_changed(group))
    box, margin = group.box, 5 / 128
    assert rows.min() / 128 >= box.top - margin
    assert columns.min() / 128 >= box.left - margin
    assert rows.max() / 128 <= box.bottom + margin
    assert columns.max() / 128 <= box.right + margin
    assert (rows.max() - rows.min()) / 128 > 0.85 * box.height
    assert (columns.max() - columns.min()) / 128 > 0.75 * box.width


@every_form
def test_every_form_looks_unlike_every_other_form_of_its_kind(kind: str, variant: int) -> None:
    pictures = [render_scene(_stage(_single(kind, i))) for i in range(len(KINDS[kind].variants))]
    others = [picture for i, picture in enumerate(pictures) if i != variant]
    assert all(np.abs(pictures[variant].astype(int) - other).mean() > 0.5 for other in others)


def test_the_drawing_functions_are_those_of_the_vocabulary() -> None:
    assert set(SHAPES) == set(KINDS)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.takes_pattern])
def test_every_pattern_shows_as_edges_on_every_kind_that_takes_one(kind: str) -> None:
    plain = render_scene(_stage(_single(kind)))
    seen = [plain]
    for pattern in ("striped", "banded", "dotted", "checkered"):
        picture = render_scene(_stage(_single(kind, pattern=pattern)))
        assert all(np.abs(picture.astype(int) - other).mean() > 0.2 for other in seen), pattern
        seen.append(picture)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.front])
def test_a_kind_with_a_front_can_be_mirrored(kind: str) -> None:
    left, right = (_changed(_single(kind, facing=side, fill="hollow")) for side in ("left", "right"))
    assert not np.array_equal(left, right)
    assert left.sum() == right.sum()


@pytest.mark.parametrize("kind", list(BACKGROUNDS))
@pytest.mark.parametrize("size", [32, 96, 320])
def test_every_background_fills_the_picture(kind: str, size: int) -> None:
    picture = render_scene(_stage(kind=kind), size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert picture.min() > 0


@settings(max_examples=60)
@given(st.sampled_from(SPLITS), st.integers(0, 10**9), st.sampled_from((48, 64, 128, 200)))
def test_rendering_is_deterministic_at_every_size(split: str, index: int, size: int) -> None:
    scene = sample_scene(split, index)
    picture = render_scene(scene, size)
    assert picture.shape == (size, size, 3)
    assert np.array_equal(picture, render_scene(scene, size))


def _thick(edges: np.ndarray) -> np.ndarray:
    """Edges with the pixels beside them: a line may move by one pixel when its colours change."""
    padded = np.pad(edges > 0, 1)
    height, width = edges.shape
    shifted = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    joined: np.ndarray = np.logical_or.reduce(shifted)
    return joined


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    a, b = _thick(first), _thick(second)
    return float((a & b).sum() / (a | b).sum())


def test_recoloured_pictures_keep_their_edges_while_their_colours_change() -> None:
    canny = PercentileCanny()
    same, strangers, colour_changes = [], [], []
    previous = None
    for index in range(60):
        before = render_scene(described_scene("recoloured", index))
        after = render_scene(sample_scene("recoloured", index))
        colour_changes.append(np.abs(before.astype(int) - after).mean())
        edges = canny.detect(before)
        same.append(_agreement(edges, canny.detect(after)))
        if previous is not None:
            strangers.append(_agreement(edges, previous))
        previous = edges
    assert np.median(same) > 0.7
    assert np.quantile(same, 0.05) > np.quantile(strangers, 0.95)
    assert min(colour_changes) > 5


def test_low_contrast_pictures_span_fewer_grey_values() -> None:
    for index in range(10):
        scene = sample_scene("low_contrast", index)
        pale, full = render_scene(scene), render_scene(replace(scene, contrast=1.0))
        assert pale.std() < full.std()


def test_clutter_adds_marks_on_the_background() -> None:
    scene = sample_scene("cluttered", 0)
    with_marks, without = render_scene(scene), render_scene(replace(scene, num_clutter=0))
    assert 0.005 < (with_marks != without).any(axis=2).mean() < 0.3


def test_a_size_below_32_is_refused() -> None:
    with pytest.raises(ValueError, match="size is 31 pixels"):
        render_scene(sample_scene("train", 0), 31)
