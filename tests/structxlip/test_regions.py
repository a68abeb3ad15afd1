from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from structxlip.edges import PercentileCanny
from structxlip.errors import ConfigError
from structxlip.regions import (
    BoxRules,
    ClusteredColourRegions,
    ColourAndContourRegions,
    GridRegions,
    RandomRegions,
    RegionProposer,
    WholeThingRegions,
    _wholeness,
    box_overlaps,
    build_region_proposer,
    propose_regions,
    suppress_overlaps,
)

PROPOSERS: list[RegionProposer] = [
    ColourAndContourRegions(),
    WholeThingRegions(),
    ClusteredColourRegions(),
    GridRegions(),
    RandomRegions(),
]
Picture = NDArray[np.uint8]


def scene(seed: int, *, size: tuple[int, int] = (224, 224)) -> tuple[Picture, Picture, NDArray[np.float32]]:
    """A noisy picture of coloured shapes that do not touch, its edge map, and the shapes' boxes."""
    random = np.random.default_rng(seed)
    height, width = size
    picture = np.full((height, width, 3), random.integers(100, 156, 3), dtype=np.uint8)
    boxes = []
    for cell in random.permutation(9)[:5]:
        top, left = cell // 3 * height // 3 + 4, cell % 3 * width // 3 + 4
        x2, y2 = left + int(random.integers(30, width // 3 - 8)), top + int(random.integers(30, height // 3 - 8))
        colour = tuple(int(value) for value in random.choice([0, 40, 215, 255], 3))
        if random.random() < 0.5:
            cv2.rectangle(picture, (left, top), (x2, y2), colour, -1)
        else:
            centre, axes = ((left + x2) // 2, (top + y2) // 2), ((x2 - left) // 2, (y2 - top) // 2)
            cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1)
        boxes.append([left / width, top / height, (x2 + 1) / width, (y2 + 1) / height])
    noisy = np.clip(picture + random.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    return noisy, PercentileCanny().detect(noisy), np.array(boxes, dtype=np.float32)


def best_overlap(proposer: RegionProposer) -> float:
    best = []
    for seed in range(20):
        picture, edges, boxes = scene(seed)
        found, is_box = proposer.propose(picture, edges)
        best.extend(box_overlaps(boxes, found[is_box]).max(axis=1))
    return float(np.mean(best))


def flat(value: int = 90) -> tuple[Picture, Picture]:
    return np.full((64, 64, 3), value, dtype=np.uint8), np.zeros((64, 64), dtype=np.uint8)


def assert_keeps_the_rules(boxes: NDArray[np.float32], is_box: NDArray[np.bool_], rules: BoxRules) -> None:
    assert boxes.dtype == np.float32
    assert boxes.shape == (rules.max_regions, 4)
    assert is_box.shape == (rules.max_regions,)
    assert list(is_box) == sorted(is_box, reverse=True)
    assert not boxes[~is_box].any()
    kept = boxes[is_box]
    assert (kept >= 0).all()
    assert (kept <= 1).all()
    area = (kept[:, 2:] - kept[:, :2]).prod(axis=1)
    assert ((area >= rules.min_area) & (area <= rules.max_area)).all()
    overlaps = box_overlaps(kept, kept) - np.eye(len(kept))
    assert (overlaps <= rules.max_overlap + 1e-6).all()


@pytest.mark.parametrize("proposer", PROPOSERS, ids=lambda proposer: type(proposer).__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_proposer_keeps_the_rules_on_any_picture(proposer: Any, data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    picture = data.draw(arrays.arrays(np.uint8, (height, width, 3)))
    edges = data.draw(arrays.arrays(np.uint8, (height, width), elements=st.sampled_from([0, 255])))
    assert_keeps_the_rules(*proposer.propose(picture, edges), proposer)


@pytest.mark.parametrize("proposer", PROPOSERS, ids=lambda proposer: type(proposer).__name__)
def test_the_same_picture_gives_the_same_boxes(proposer: RegionProposer) -> None:
    picture, edges, _ = scene(3)
    first, again = proposer.propose(picture, edges), proposer.propose(picture.copy(), edges.copy())
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


@pytest.mark.parametrize("proposer", PROPOSERS, ids=lambda proposer: type(proposer).__name__)
def test_a_configuration_survives_json(proposer: RegionProposer) -> None:
    assert build_region_proposer(json.loads(json.dumps(proposer.config()))) == proposer


def test_regions_find_the_shapes_of_a_scene_where_the_controls_do_not() -> None:
    grid, random = best_overlap(GridRegions()), best_overlap(RandomRegions())
    assert best_overlap(ColourAndContourRegions()) > 0.75
    assert best_overlap(WholeThingRegions()) > 0.75
    assert best_overlap(ClusteredColourRegions()) > 0.75
    assert max(grid, random) < 0.45


def test_a_coloured_square_is_found_without_any_edge() -> None:
    picture, edges = flat()
    picture[16:48, 8:40] = (220, 30, 30)
    boxes, _ = ColourAndContourRegions().propose(picture, edges)
    expected = np.array([[8, 16, 40, 48]], dtype=np.float32) / 64
    assert box_overlaps(expected, boxes[:1]).item() > 0.9


def test_an_outline_is_found_in_the_edge_map_alone() -> None:
    picture, edges = flat()
    cv2.ellipse(edges, (32, 32), (18, 10), 0, 0, 360, 255, 1)
    boxes, is_box = ColourAndContourRegions().propose(picture, edges)
    expected = np.array([[14, 22, 51, 43]], dtype=np.float32) / 64
    assert box_overlaps(expected, boxes[is_box]).max() > 0.8


def test_lines_reach_over_small_gaps() -> None:
    picture, edges = np.full((224, 224, 3), 90, dtype=np.uint8), np.zeros((224, 224), dtype=np.uint8)
    for start in range(0, 360, 12):
        cv2.ellipse(edges, (112, 112), (60, 60), 0, start, start + 9, 255, 1)
    boxes, is_box = ColourAndContourRegions().propose(picture, edges)
    expected = np.array([[52, 52, 173, 173]], dtype=np.float32) / 224
    assert box_overlaps(expected, boxes[is_box]).max() > 0.8


def test_a_thing_of_several_colours_is_found_whole_and_before_its_parts() -> None:
    picture = np.full((224, 224, 3), 210, dtype=np.uint8)
    cv2.rectangle(picture, (60, 120), (140, 190), (40, 90, 200), -1)
    cv2.fillConvexPoly(picture, np.array([[50, 120], [150, 120], [100, 60]]), (200, 40, 40))
    house = np.array([[50, 60, 151, 191]], dtype=np.float32) / 224
    found, is_box = WholeThingRegions().propose(picture, PercentileCanny().detect(picture))
    assert box_overlaps(house, found[is_box])[0, 0] > 0.85


def test_a_box_is_worth_more_when_lines_follow_its_sides_and_less_when_they_cross_them() -> None:
    lines = np.zeros((100, 100), dtype=np.uint8)
    cv2.rectangle(lines, (20, 20), (59, 59), 1)
    tight, loose, cut = (20, 20, 60, 60), (5, 5, 90, 90), (20, 20, 60, 40)
    boxes = np.array([tight, loose, cut], dtype=np.float32) / 100
    worth = _wholeness(boxes, lines)
    assert worth[0] == pytest.approx(0.16**0.5, rel=1e-6)
    assert worth[1] == 0
    # Its lower side runs through the outline, whose two sides go on beyond it.
    assert 0 < worth[2] < 0.08**0.5


@pytest.mark.parametrize("proposer", [ColourAndContourRegions(), ClusteredColourRegions()])
def test_a_picture_without_anything_gets_the_grid(proposer: RegionProposer) -> None:
    picture, edges = flat()
    grid, is_grid = GridRegions().propose(picture, edges)
    boxes, is_box = proposer.propose(picture, edges)
    assert np.array_equal(boxes[is_box], grid[is_grid])
    assert is_grid.sum() == 5


def test_the_grid_is_four_quadrants_and_the_centre() -> None:
    boxes, is_box = GridRegions(max_regions=8).propose(*flat())
    quarters = (boxes[is_box] * 4).astype(int).tolist()
    assert quarters == [[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4], [1, 1, 3, 3]]


def test_random_boxes_depend_on_the_seed_and_on_the_picture() -> None:
    (dark, edges), (bright, _) = flat(10), flat(200)
    answers = [
        RandomRegions().propose(dark, edges)[0],
        RandomRegions().propose(bright, edges)[0],
        RandomRegions(seed=1).propose(dark, edges)[0],
    ]
    assert all(not np.array_equal(left, right) for left, right in pairwise([*answers, answers[0]]))
    assert RandomRegions().propose(dark, edges)[1].all()


def test_random_boxes_leave_numpys_global_generator_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    RandomRegions().propose(*flat())
    assert np.random.random() == expected


def test_given_boxes_replace_the_proposals() -> None:
    given_boxes = np.array([[0, 0, 1, 1], [0.1, 0.1, 0.11, 0.11]], dtype=np.float32)
    boxes, is_box = propose_regions(ColourAndContourRegions(max_regions=4), *flat(), given=given_boxes)
    assert np.array_equal(boxes[:2], given_boxes)
    assert is_box.tolist() == [True, True, False, False]


def test_more_given_boxes_than_rows_are_cut() -> None:
    boxes, is_box = propose_regions(
        GridRegions(max_regions=2), *flat(), given=np.array([[0, 0, 0.5, k / 4] for k in (1, 2, 3)])
    )
    assert boxes[:, 3].tolist() == [0.25, 0.5]
    assert is_box.all()


@pytest.mark.parametrize("given_boxes", [None, np.zeros((0, 4), dtype=np.float32)])
def test_without_given_boxes_the_proposer_is_asked(given_boxes: NDArray[np.float32] | None) -> None:
    boxes, is_box = propose_regions(GridRegions(), *flat(), given=given_boxes)
    assert is_box.sum() == 5
    assert boxes.shape == (16, 4)


@pytest.mark.parametrize(
    "box", [[0.5, 0, 0.5, 1], [0.6, 0, 0.4, 1], [0, 0, 1.1, 1], [-0.1, 0, 1, 1], [0, 0, float("nan"), 1]]
)
def test_a_given_box_that_is_none_is_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="given box 1 is"):
        propose_regions(GridRegions(), *flat(), given=np.array([[0, 0, 1, 1], box], dtype=np.float32))


def test_given_boxes_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 4\), got \(4,\)"):
        propose_regions(GridRegions(), *flat(), given=np.ones(4, dtype=np.float32))


def test_overlaps_are_the_intersection_over_the_union() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.5, 1], [0.25, 0, 0.75, 1], [0.5, 0, 1, 1]], dtype=np.float32)
    assert box_overlaps(boxes[:1], boxes).ravel().tolist() == pytest.approx([1, 0.5, 0.5, 0.5])
    assert box_overlaps(boxes[1:2], boxes[2:]).ravel().tolist() == pytest.approx([1 / 3, 0])


def test_of_overlapping_boxes_the_earlier_stays() -> None:
    boxes = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0.5, 0.5, 1, 1]], dtype=np.float32)
    assert np.array_equal(suppress_overlaps(boxes, max_overlap=0.6), boxes[[0, 2]])
    assert np.array_equal(suppress_overlaps(boxes, max_overlap=0.95), boxes)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"kind": "sam"},
        {"kind": "grid", "colour": 3},
        {"kind": "grid", "max_regions": 0},
        {"kind": "grid", "min_area": 0.9},
        {"kind": "grid", "max_overlap": 0.0},
        {"kind": "k-means", "num_clusters": 1},
        {"kind": "colour-and-contours", "colour_bins": 7},
    ],
)
def test_a_configuration_that_names_nothing_known_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build_region_proposer(config)


def test_pictures_of_another_kind_are_refused() -> None:
    picture, edges = flat()
    with pytest.raises(ValueError, match="uint8 picture"):
        ColourAndContourRegions().propose(picture[..., 0], edges)
    with pytest.raises(ValueError, match="uint8 edge map"):
        ColourAndContourRegions().propose(picture, edges.astype(np.float32))  # type: ignore[arg-type]
