"""Regions of a picture: boxes that are likely to hold one thing, found with plain OpenCV in a few
milliseconds.

Every proposer is a frozen value, is deterministic, and can be written to JSON and read back:
`build_region_proposer(proposer.config()) == proposer`. It answers with exactly `max_regions` rows and a mask,
so that a batch needs no padding of its own.

Shapes: pictures are uint8 `(H, W, 3)` RGB, edge maps uint8 `(H, W)`, boxes float32 `(N, 4)`: `x1 y1 x2 y2` as
shares of the width and height, 0 to 1.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from structxlip.errors import ConfigError

Picture: TypeAlias = NDArray[np.uint8]
EdgeMap: TypeAlias = NDArray[np.uint8]
Boxes: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

# A picture seldom has more parts than this that are large enough; the pairwise overlaps stay cheap.
MAX_CANDIDATES = 96
# Of a box in pixels: how wide a line's place inside its sides is, and how many pixels of line make one.
INNER_RIM, LEAST_LINE = 3, 2
FOUR_QUADRANTS_AND_CENTRE = (
    (0.0, 0.0, 0.5, 0.5),
    (0.5, 0.0, 1.0, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
    (0.25, 0.25, 0.75, 0.75),
)


class RegionProposer(Protocol):
    """Finds boxes worth an embedding of their own."""

    @property
    def max_regions(self) -> int:
        """`K`, the number of rows of an answer."""

    def propose(self, rgb: Picture, edges: EdgeMap) -> tuple[Boxes, Mask]:
        """Return `(K, 4)` boxes and which of the `K` rows hold one, those first."""

    def config(self) -> dict[str, JsonValue]:
        """Return what `build_region_proposer` needs to make an equal proposer."""


@dataclass(frozen=True)
class BoxRules:
    """What every proposer asks of its boxes.

    Args:
        max_regions: `K`, the number of rows of an answer.
        min_area: Least area of a box, as a share of the picture.
        max_area: Largest area of a box.
        max_overlap: Two boxes with a larger intersection over union count as one, the better one.
    """

    max_regions: int = 16
    min_area: float = 0.01
    max_area: float = 0.8
    max_overlap: float = 0.6

    def __post_init__(self) -> None:
        if self.max_regions < 1:
            raise ConfigError(f"max_regions must be at least 1, got {self.max_regions}")
        if not 0 <= self.min_area < self.max_area <= 1:
            raise ConfigError(f"areas must satisfy 0 <= min < max <= 1, got {self.min_area} and {self.max_area}")
        if not 0 < self.max_overlap <= 1:
            raise ConfigError(f"max_overlap must be above 0 and at most 1, got {self.max_overlap}")

    def select(self, candidates: Boxes, *, fill: Boxes | None = None) -> tuple[Boxes, Mask]:
        """Return the boxes that keep the rules, then those of `fill` that do, padded to `max_regions` rows.

        Of boxes that overlap, the earlier one stays.
        """
        candidates = self._of_right_size(candidates)[:MAX_CANDIDATES]
        if fill is not None:
            candidates = np.concatenate([candidates, self._of_right_size(fill)])
        return _pad(suppress_overlaps(candidates, max_overlap=self.max_overlap), self.max_regions)

    def _of_right_size(self, boxes: Boxes) -> Boxes:
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return boxes[(area >= self.min_area) & (area <= self.max_area)]


@dataclass(frozen=True)
class ColourAndContourRegions(BoxRules):
    """Connected areas of one colour, and outlines in the edge map; quadrants and centre fill what is left.

    Colours are cells of a grid in Lab space. Outlines are those of the dilated edge map: around connected
    lines, and around the areas that lines enclose.

    Args:
        side: The square that the picture is shrunk to first, in pixels.
        lightness_bins: Cells along the lightness.
        colour_bins: Cells along each of the two colour axes.
        line_width: The edge map's lines are dilated to this many pixels, so that gaps close.
    """

    kind: ClassVar[str] = "colour-and-contours"
    side: int = 112
    lightness_bins: int = 4
    colour_bins: int = 6
    line_width: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_within("side", self.side, 8, 1024)
        _require_within("lightness_bins", self.lightness_bins, 1, 7)
        _require_within("colour_bins", self.colour_bins, 1, 6)
        _require_within("line_width", self.line_width, 1, 32)

    def propose(self, rgb: Picture, edges: EdgeMap) -> tuple[Boxes, Mask]:
        """Return the boxes of areas and outlines, those that fill their box best and are largest first."""
        labels = _quantise_lab(_shrink(rgb, self.side), self.lightness_bins, self.colour_bins)
        outlines = _outlines(_shrink_lines(edges, self.side), self.line_width)
        found = [*_components_of_labels(labels, self.min_area), *outlines]
        return self.select(_best_first(found), fill=_grid())

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class WholeThingRegions(BoxRules):
    """Boxes that hold something whole: lines follow their sides, and few cross them.

    Candidates are those of `ColourAndContourRegions`, with the gaps of lines closed at several widths: a house is its
    roof and its wall. A box is worth `t² · exp(−3 c) · √a`, with `t` the share of its four sides that a line follows
    just inside, `c` the lines on a rim just outside as a share of its length, and `a` its area.

    Args:
        side: The square that the picture is shrunk to first, in pixels.
        lightness_bins: Cells along the lightness.
        colour_bins: Cells along each of the two colour axes.
        max_line_width: Lines are dilated to 1, 3, 5, … up to this many pixels.
    """

    kind: ClassVar[str] = "whole-things"
    min_area: float = 0.006
    side: int = 112
    lightness_bins: int = 4
    colour_bins: int = 6
    max_line_width: int = 13

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_within("side", self.side, 8, 1024)
        _require_within("lightness_bins", self.lightness_bins, 1, 7)
        _require_within("colour_bins", self.colour_bins, 1, 6)
        _require_within("max_line_width", self.max_line_width, 1, 32)

    def propose(self, rgb: Picture, edges: EdgeMap) -> tuple[Boxes, Mask]:
        """Return the boxes that are worth most, those first; quadrants and centre fill what is left."""
        labels = _quantise_lab(_shrink(rgb, self.side), self.lightness_bins, self.colour_bins)
        lines = _shrink_lines(edges, self.side)
        found = _components_of_labels(labels, self.min_area)
        for width in range(1, self.max_line_width + 1, 2):
            found += _outlines(lines, width)
        candidates = self._of_right_size(_best_first(found))
        best = np.argsort(-_wholeness(candidates, lines), kind="stable")
        return self.select(suppress_overlaps(candidates[best], max_overlap=self.max_overlap), fill=_grid())

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class ClusteredColourRegions(BoxRules):
    """Connected areas of one colour, where the picture's own colours are clustered by k-means.

    Args:
        side: The square that the picture is shrunk to first, in pixels.
        num_clusters: Colours of a picture.
        seed: Of the clusters' first centres.
    """

    kind: ClassVar[str] = "k-means"
    side: int = 96
    num_clusters: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_within("side", self.side, 8, 1024)
        _require_within("num_clusters", self.num_clusters, 2, 64)

    def propose(self, rgb: Picture, edges: EdgeMap) -> tuple[Boxes, Mask]:
        """Return the boxes of areas, the best filled and largest first; the edge map is not used."""
        labels = self._cluster(_shrink(rgb, self.side))
        found = _components_of_labels(labels, self.min_area)
        return self.select(_best_first(found), fill=_grid())

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)

    def _cluster(self, rgb: Picture) -> NDArray[np.uint8]:
        colours = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
        # Few pixels place the centres as well as all do, several times faster; 13 shares no factor with usual
        # widths.
        sample = np.ascontiguousarray(colours[::13])
        cv2.setRNGSeed(self.seed)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 1.0)
        num_clusters = min(self.num_clusters, len(sample))
        _, _, centres = cv2.kmeans(  # type: ignore[call-overload]  # OpenCV itself takes None here
            sample, num_clusters, None, stop, 1, cv2.KMEANS_PP_CENTERS
        )
        # ‖x − c‖² without ‖x‖², which is the same for every centre.
        distance = (centres**2).sum(axis=1) - 2 * colours @ centres.T
        return np.asarray(distance.argmin(axis=1).reshape(rgb.shape[:2]), dtype=np.uint8)


@dataclass(frozen=True)
class GridRegions(BoxRules):
    """The four quadrants and the centre of every picture: a control that knows nothing of it."""

    kind: ClassVar[str] = "grid"

    def propose(self, rgb: Picture, edges: EdgeMap) -> tuple[Boxes, Mask]:
        """Return the same five boxes for every picture."""
        return self.select(_grid())

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class RandomRegions(BoxRules):
    """Boxes at random, other ones for each picture: a control with the number and sizes of real proposals.

    Args:
        seed: Together with the picture's pixels it decides the boxes.
    """

    kind: ClassVar[str] = "random"
    seed: int = 0

    def propose(self, rgb: Picture, edges: EdgeMap) -> tuple[Boxes, Mask]:
        """Return boxes of log-uniform area between the bounds, with aspect ratios from 1:2 to 2:1."""
        random = np.random.default_rng([self.seed, zlib.crc32(rgb.tobytes())])
        num_draws = 8 * self.max_regions
        area = np.exp(random.uniform(np.log(max(self.min_area, 1e-4)), np.log(self.max_area), num_draws))
        aspect = np.exp(random.uniform(-np.log(2), np.log(2), num_draws))
        width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
        left, top = random.uniform(0, 1 - width), random.uniform(0, 1 - height)
        candidates = np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)
        return self.select(candidates)

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


_PROPOSERS: dict[
    str, type[ColourAndContourRegions | WholeThingRegions | ClusteredColourRegions | GridRegions | RandomRegions]
] = {
    proposer.kind: proposer
    for proposer in (ColourAndContourRegions, WholeThingRegions, ClusteredColourRegions, GridRegions, RandomRegions)
}


def build_region_proposer(config: Mapping[str, JsonValue]) -> RegionProposer:
    """Make the proposer that a configuration describes: its `kind`, and parameters that are not the default.

    Raises:
        ConfigError: If the kind or a parameter is unknown, or a value is out of range.
    """
    parameters: dict[str, Any] = dict(config)
    kind = parameters.pop("kind", None)
    if not isinstance(kind, str) or kind not in _PROPOSERS:
        raise ConfigError(f"unknown region proposer {kind!r}; known: {', '.join(_PROPOSERS)}")
    proposer = _PROPOSERS[kind]
    known = list(inspect.signature(proposer).parameters)
    if unknown := sorted(set(parameters) - set(known)):
        raise ConfigError(f"region proposer {kind} has no parameter {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        return proposer(**parameters)
    except TypeError as error:
        raise ConfigError(f"region proposer {kind}: {error}") from error


def propose_regions(
    proposer: RegionProposer, rgb: Picture, edges: EdgeMap, *, given: Boxes | None = None
) -> tuple[Boxes, Mask]:
    """Return a picture's own boxes where it comes with any, and the proposer's otherwise.

    Args:
        proposer: Asked when no box is given; its `max_regions` bounds the given ones too.
        rgb: The picture.
        edges: Its edge map.
        given: `(N, 4)` boxes from an annotator or a segmenter, taken as they are: small, large and
            overlapping ones too.

    Returns:
        `(K, 4)` boxes and which of the rows hold one.

    Raises:
        ValueError: If a given box lies outside the picture or has no area.
    """
    if given is None or len(given) == 0:
        return proposer.propose(rgb, edges)
    return _pad(_checked_boxes(given), proposer.max_regions)


def suppress_overlaps(boxes: Boxes, *, max_overlap: float) -> Boxes:
    """Keep each box whose intersection over union with every earlier kept one is at most `max_overlap`."""
    overlaps = box_overlaps(boxes, boxes) > max_overlap
    is_kept = np.ones(len(boxes), dtype=np.bool_)
    for index in range(len(boxes)):
        if is_kept[index]:
            is_kept[index + 1 :] &= ~overlaps[index, index + 1 :]
    return boxes[is_kept]


def box_overlaps(left: Boxes, right: Boxes) -> Boxes:
    """Return the intersection over union of each pair, `(N, M)`."""
    size = np.minimum(left[:, None, 2:], right[None, :, 2:]) - np.maximum(left[:, None, :2], right[None, :, :2])
    shared = np.clip(size, 0, None).prod(axis=2)
    area_left = (left[:, 2:] - left[:, :2]).prod(axis=1)
    area_right = (right[:, 2:] - right[:, :2]).prod(axis=1)
    union = area_left[:, None] + area_right[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-12), dtype=np.float32)


def _shrink(rgb: Picture, side: int) -> Picture:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"expected a uint8 picture of shape (height, width, 3), got {rgb.dtype} {rgb.shape}")
    small = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA)
    # Single pixels of noise would tear an area of one colour apart.
    return np.asarray(cv2.medianBlur(small, 3), dtype=np.uint8)


def _shrink_lines(edges: EdgeMap, side: int) -> NDArray[np.uint8]:
    if edges.dtype != np.uint8 or edges.ndim != 2 or edges.size == 0:
        raise ValueError(f"expected a uint8 edge map of shape (height, width), got {edges.dtype} {edges.shape}")
    small = cv2.resize(edges, (side, side), interpolation=cv2.INTER_AREA)
    # A line one pixel wide loses brightness as it shrinks; a quarter of it is still a line.
    return (small >= 64).astype(np.uint8)


def _dilate(lines: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(lines, np.ones((width, width), dtype=np.uint8)), dtype=np.uint8)


def _quantise_lab(rgb: Picture, lightness_bins: int, colour_bins: int) -> NDArray[np.uint8]:
    bins = (lightness_bins, colour_bins, colour_bins)
    cells = np.arange(256)[:, None] * np.array(bins) // 256 * np.array([colour_bins**2, colour_bins, 1])
    lab = cv2.LUT(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), cells.astype(np.uint8).reshape(256, 1, 3))
    return np.asarray(lab.sum(axis=2), dtype=np.uint8)


def _outlines(lines: NDArray[np.uint8], width: int) -> list[NDArray[np.float32]]:
    """Return what lies around connected lines, and what they enclose, once they are dilated to a width."""
    dilated = _dilate(lines, width)
    side = len(lines)
    # Dilation moved the outer rim of a line outwards; an enclosed area ends where the dilated line begins.
    outwards = (width // 2) / side
    return [_grow(_components(dilated), -outwards), _grow(_components(1 - dilated), outwards + 1 / side)]


def _wholeness(boxes: Boxes, lines: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what boxes are worth, see `WholeThingRegions`."""
    side = len(lines)
    sums = cv2.integral(lines)
    left, top, right, bottom = np.rint(boxes * side).astype(int).clip(0, side).T
    right, bottom = np.maximum(right, left + 1), np.maximum(bottom, top + 1)

    def within(x1: NDArray[Any], y1: NDArray[Any], x2: NDArray[Any], y2: NDArray[Any]) -> NDArray[np.float64]:
        x1, y1, x2, y2 = (places.clip(0, side) for places in (x1, y1, x2, y2))
        return np.asarray(sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1], dtype=np.float64)

    def grown(margin: int) -> NDArray[np.float64]:
        return within(left - margin, top - margin, right + margin, bottom + margin)

    inner = INNER_RIM - 1
    sides = (
        within(left - 1, top, left + inner, bottom),
        within(right - inner, top, right + 1, bottom),
        within(left, top - 1, right, top + inner),
        within(left, bottom - inner, right, bottom + 1),
    )
    followed = np.mean([line >= LEAST_LINE for line in sides], axis=0)
    crossed = (grown(2) - grown(1)) / (2 * (right - left + bottom - top))
    area = (right - left) * (bottom - top) / side**2
    return np.asarray(followed**2 * np.exp(-3 * crossed) * np.sqrt(area))


def _components_of_labels(labels: NDArray[np.uint8], min_area: float) -> list[NDArray[np.float32]]:
    """Return the components of each label that covers enough of the picture to hold one."""
    counts = np.bincount(labels.ravel())
    frequent = np.flatnonzero(counts >= max(min_area / 4 * labels.size, 1))
    return [_components((labels == label).astype(np.uint8)) for label in frequent]


def _components(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the components' boxes and their areas, `(N, 5)`, all as shares of the mask."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    left, top, width, height, area = stats[1:].T.astype(np.float32)
    rows, columns = mask.shape
    return np.stack(
        [left / columns, top / rows, (left + width) / columns, (top + height) / rows, area / mask.size],
        axis=1,
    )


def _grow(found: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """Move each side of the boxes outwards, inwards where the margin is negative, but not out of the picture."""
    return np.clip(found + np.array([-margin, -margin, margin, margin, 0], dtype=np.float32), 0, 1)


def _best_first(found: list[NDArray[np.float32]]) -> Boxes:
    """Return boxes by the area of what they hold times the share of the box that it fills."""
    rows = np.concatenate(found)
    box_area = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    merit = rows[:, 4] ** 2 / np.maximum(box_area, 1e-12)
    return rows[np.argsort(-merit, kind="stable"), :4]


def _grid() -> Boxes:
    return np.array(FOUR_QUADRANTS_AND_CENTRE, dtype=np.float32)


def _pad(boxes: Boxes, num_rows: int) -> tuple[Boxes, Mask]:
    boxes = boxes[:num_rows]
    rows = np.zeros((num_rows, 4), dtype=np.float32)
    rows[: len(boxes)] = boxes
    return rows, np.arange(num_rows) < len(boxes)


def _checked_boxes(given: Boxes) -> Boxes:
    boxes = np.asarray(given, dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"expected given boxes of shape (N, 4), got {boxes.shape}")
    is_box = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & (boxes >= 0).all(axis=1) & (boxes <= 1).all(axis=1)
    if not is_box.all():
        index = int(np.flatnonzero(~is_box)[0])
        raise ValueError(
            f"given box {index} is {boxes[index].tolist()}, expected x1 < x2 and y1 < y2 as shares "
            "of the picture, 0 to 1"
        )
    return boxes


def _config_of(proposer: Any) -> dict[str, JsonValue]:
    return {"kind": proposer.kind} | {f.name: getattr(proposer, f.name) for f in fields(proposer)}


def _require_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} must be between {least} and {most}, got {value}")
