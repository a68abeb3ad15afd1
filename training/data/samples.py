"""From a raw pair to a sample: everything that needs the processor and not the model, made in the workers.

A sample is a function of the record, the seed and the epoch: any worker makes the same one.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from structxlip.captions import CaptionFilter
from structxlip.edges import EdgeDetector
from structxlip.preprocessing import Preprocessing
from structxlip.regions import RegionProposer, propose_regions
from structxlip.sketch import EmptySketchError, sketch_to_edges
from structxlip.tokenizer import TextTokenizer
from training.config import AugmentationConfig
from training.data.records import PairSource, RawPair
from training.data.sketches import LEARNED_FROM, draw_sketch

# Drawings of a picture that are kept, and taken in turn; where nothing is kept, each epoch has its own.
KEPT_DRAWINGS = range(2)
# Versions of a caption with phrases left out: few, so that what is prepared for each can be kept.
NUM_SHORTER = 4
_OTHER_SIDE = {"left": "right", "right": "left"}

Spans = tuple[tuple[int, int], ...]
SpanFinder = Callable[[str, NDArray[np.int64]], Spans]


@dataclass(frozen=True)
class PictureSample:
    """The picture's side of a sample.

    Attributes:
        rgb: uint8 `(S, S, 3)`; none where nobody looks at colours: features of the picture are kept.
        edges: uint8 `(S, S)`.
        boxes: float32 `(K, 4)` regions, as shares of the width and height.
        box_valid: bool `(K,)`, which of them exist.
        sketches: uint8 `(V, S, S)`, drawings of the picture as the model would see them: of one epoch, or several that
            epochs take in turn; empty maps where a drawing has no strokes, and `V` = 0 where no loss wants any.
    """

    rgb: NDArray[np.uint8] | None
    edges: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    box_valid: NDArray[np.bool_]
    sketches: NDArray[np.uint8]


@dataclass(frozen=True)
class TextSample:
    """The caption's side of a sample.

    Attributes:
        tokens: int64 `(L,)`, the full text.
        structural_tokens: int64 `(L',)`, its structural part.
        spans: Chunks as `(start, end)` in the ids of whichever of the two is chunked.
    """

    tokens: NDArray[np.int64]
    structural_tokens: NDArray[np.int64]
    spans: Spans


@dataclass(frozen=True)
class Sample:
    """One pair, ready for a batch; `drawing` is the place among the picture's sketches of the one that is its turn."""

    index: int
    key: str
    is_mirrored: bool
    picture: PictureSample
    text: TextSample
    drawing: int = 0


@dataclass(frozen=True)
class SampleMaker:
    """Makes samples with the model's own preprocessing.

    Attributes:
        preprocessing: The model's.
        edge_detector: The model's.
        caption_filter: The model's.
        tokenizer: The model's.
        regions: Proposes regions; none are made where left out.
        find_spans: Finds the chunks of a text in its encoded ids; none are made where left out.
        chunk_full_text: Whether chunks come from the full text instead of the structural one.
        looks: Whether pictures are read at all: where their features are kept and no loss sees edges or regions, they
            need not be.
        draws: Whether a loss wants drawings of the pictures.
        augmentation: Of the picture.
        seed: Of augmentation and of the choice among several captions.
    """

    preprocessing: Preprocessing
    edge_detector: EdgeDetector
    caption_filter: CaptionFilter
    tokenizer: TextTokenizer
    regions: RegionProposer | None = None
    find_spans: SpanFinder | None = None
    chunk_full_text: bool = False
    looks: bool = True
    draws: bool = False
    augmentation: AugmentationConfig = AugmentationConfig()  # noqa: RUF009  (frozen)
    seed: int = 0

    def picture(
        self, pair: RawPair, index: int, epoch: int, *, drawings: Iterable[int] = KEPT_DRAWINGS
    ) -> PictureSample:
        """Augment, resize, and find edges and regions of what is left."""
        pair = augmented(pair, self.augmentation, np.random.default_rng([self.seed, 0, epoch, index]))
        return self.seen(pair, is_mirrored=self.is_mirrored(index, epoch), drawings=drawings)

    def unseen(self) -> PictureSample:
        """Return what stands in for a picture that nobody looks at: no colours, edges or regions."""
        side = self.preprocessing.image_size
        black = np.zeros((1, 1), dtype=np.uint8)
        boxes, valid = np.zeros((1, 4), dtype=np.float32), np.zeros(1, dtype=np.bool_)
        return PictureSample(None, np.broadcast_to(black, (side, side)), boxes, valid, no_sketches(side))

    def is_mirrored(self, index: int, epoch: int) -> bool:
        """Whether an epoch sees a picture the other way round."""
        return self.augmentation.flip and bool(np.random.default_rng([self.seed, 3, epoch, index]).random() < 0.5)

    def seen(
        self, pair: RawPair, *, is_mirrored: bool = False, drawings: Iterable[int] = KEPT_DRAWINGS
    ) -> PictureSample:
        """Resize a picture, find its edges and regions and draw it.

        Args:
            pair: The record.
            is_mirrored: Whether to turn it round first.
            drawings: Numbers of the drawings to make, where a loss wants any: each number gives another one.
        """
        if is_mirrored:
            pair = mirrored(pair)
        rgb = self.preprocessing.resize(pair.rgb)
        edges = self.edge_detector.detect(rgb)
        boxes, valid = self._regions(pair, rgb, edges)
        return PictureSample(rgb, edges, boxes, valid, self._sketches(pair, drawings))

    @property
    def num_versions(self) -> int:
        """How many versions of a caption there are."""
        return NUM_SHORTER if self.augmentation.drop_phrases else 1

    def text(self, caption: str, version: int = 0) -> TextSample:
        """Reduce a caption to its structural part, tokenize both and find the chunks in the ids."""
        whole, share = caption, self.augmentation.drop_phrases
        if share and self.augmentation.dropped_from == "both":
            caption = shortened(whole, share, version)
        structural = self.caption_filter.structural_text(caption)
        if share and self.augmentation.dropped_from == "structural":
            structural = shortened(structural, share, version)
        tokens = self.tokenizer.encode(caption).ids
        structural_tokens = tokens if structural == caption else self.tokenizer.encode(structural).ids
        spans: Spans = ()
        if self.find_spans is not None:
            spans = self.find_spans(*((caption, tokens) if self.chunk_full_text else (structural, structural_tokens)))
        return TextSample(tokens, structural_tokens, spans)

    def chosen(self, captions: Sequence[str], index: int, epoch: int) -> str:
        """Return the caption of an epoch: each of several, at random."""
        usable = [caption for caption in captions if caption.strip()]
        if len(usable) == 1:
            return usable[0]
        return usable[int(np.random.default_rng([self.seed, 1, epoch, index]).integers(len(usable)))]

    def _sketches(self, pair: RawPair, drawings: Iterable[int]) -> NDArray[np.uint8]:
        if not self.draws:
            return no_sketches(self.preprocessing.image_size)
        return np.stack([self._sketch(pair, number) for number in drawings])

    def _sketch(self, pair: RawPair, number: int) -> NDArray[np.uint8]:
        random = np.random.default_rng([zlib.crc32(pair.key.encode()), number])
        drawn = draw_sketch(pair.rgb, random, detector=LEARNED_FROM[number % len(LEARNED_FROM)])
        try:
            return sketch_to_edges(drawn, self.preprocessing, self.edge_detector)
        except EmptySketchError:
            return np.zeros((self.preprocessing.image_size,) * 2, dtype=np.uint8)

    def _regions(
        self, pair: RawPair, rgb: NDArray[np.uint8], edges: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if self.regions is None:
            return np.zeros((1, 4), dtype=np.float32), np.zeros(1, dtype=np.bool_)
        given = None if pair.boxes is None else boxes_after_resize(pair.boxes, pair.rgb.shape, self.preprocessing)
        return propose_regions(self.regions, rgb, edges, given=given)


PictureCache = dict[tuple[str, bool], PictureSample]
TextCache = dict[tuple[str, int], TextSample]


class SampleSet:
    """Samples of one epoch by index: what a torch `DataLoader` reads.

    Args:
        source: Of the raw pairs.
        maker: Of the samples.
        epoch: Which epoch's augmentation and captions.
        pictures: Keeps pictures between epochs by key and whether they are mirrored, where augmentation does no more.
        texts: Keeps texts between epochs by caption.
    """

    def __init__(
        self,
        source: PairSource,
        maker: SampleMaker,
        epoch: int,
        pictures: PictureCache | None = None,
        texts: TextCache | None = None,
    ) -> None:
        self._source = source
        self._maker = maker
        self._epoch = epoch
        self._pictures = pictures
        self._texts = texts

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        is_mirrored = self._maker.is_mirrored(index, self._epoch)
        picture = self._picture(index, is_mirrored)
        return Sample(
            index,
            self._source.key(index),
            is_mirrored,
            picture,
            self._text(index, is_mirrored),
            self._epoch % max(1, len(picture.sketches)),
        )

    def _picture(self, index: int, is_mirrored: bool) -> PictureSample:
        place = (self._source.key(index), is_mirrored)
        known = self._pictures.get(place) if self._pictures is not None else None
        if known is None and not self._maker.looks:
            return self._maker.unseen()
        if known is None:
            drawings = [self._epoch] if self._pictures is None else KEPT_DRAWINGS
            known = self._maker.picture(self._source.read(index, self._epoch), index, self._epoch, drawings=drawings)
            if self._pictures is not None:
                self._pictures[place] = known
        return known

    def _text(self, index: int, is_mirrored: bool) -> TextSample:
        caption = self._maker.chosen(self._source.captions(index, self._epoch), index, self._epoch)
        if is_mirrored and self._maker.augmentation.swap_sides:
            caption = with_sides_swapped(caption)
        version = self._epoch % self._maker.num_versions
        known = self._texts.get((caption, version)) if self._texts is not None else None
        if known is None:
            known = self._maker.text(caption, version)
            if self._texts is not None:
                self._texts[caption, version] = known
        return known


def no_sketches(side: int) -> NDArray[np.uint8]:
    """Return what stands for the drawings of a picture that no loss wants, `(0, S, S)`."""
    return np.zeros((0, side, side), dtype=np.uint8)


def with_sides_swapped(text: str) -> str:
    """Exchange left and right, as a mirror does; "right" in other senses is taken along."""
    return re.sub(r"\b(left|right)\b", lambda found: _OTHER_SIDE[found[0].lower()], text, flags=re.IGNORECASE)


def shortened(text: str, share: float, version: int) -> str:
    """Return a text without some of its phrases, at least one kept; the same text and version give the same.

    Args:
        text: With phrases between commas, semicolons and full stops.
        share: The chance of each phrase to be left out.
        version: Which of several.
    """
    phrases = [phrase.strip() for phrase in re.split(r"[.,;]", text) if phrase.strip()]
    if len(phrases) < 2:
        return text
    random = np.random.default_rng([zlib.crc32(text.encode()), version])
    is_kept = random.random(len(phrases)) >= share
    is_kept[random.integers(len(phrases))] = True
    return ", ".join(phrase for phrase, kept in zip(phrases, is_kept, strict=True) if kept) + "."


def boxes_after_resize(
    boxes: NDArray[np.float32], shape: Sequence[int], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Move boxes with the picture when it is made square; what is cut away takes its boxes along."""
    if preprocessing.resize_mode == "squash":
        return boxes
    height, width = shape[:2]
    kept = min(height, width) if preprocessing.resize_mode == "shortest" else max(height, width)
    scale = np.array([width / kept, height / kept] * 2, dtype=np.float32)
    moved: NDArray[np.float32] = np.clip((boxes - 0.5) * scale + 0.5, 0, 1).astype(np.float32)
    return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]


def augmented(pair: RawPair, config: AugmentationConfig, random: np.random.Generator) -> RawPair:
    """Crop and re-expose a picture, and move its boxes with it."""
    if config.only_mirrors:
        return pair
    if config.min_crop_area < 1:
        pair = _cropped(pair, config.min_crop_area, random)
    contrast = 1 + random.uniform(-config.contrast, config.contrast)
    brightness = 1 + random.uniform(-config.brightness, config.brightness)
    if (contrast, brightness) != (1, 1):
        middle = float(pair.rgb.mean())
        shifted = (pair.rgb.astype(np.float32) - middle) * contrast + middle * brightness
        pair = replace(pair, rgb=np.clip(np.rint(shifted), 0, 255).astype(np.uint8))
    return pair


def _cropped(pair: RawPair, min_area: float, random: np.random.Generator) -> RawPair:
    height, width = pair.rgb.shape[:2]
    side = float(np.sqrt(random.uniform(min_area, 1)))
    crop_height, crop_width = max(1, round(side * height)), max(1, round(side * width))
    top = int(random.integers(height - crop_height + 1))
    left = int(random.integers(width - crop_width + 1))
    boxes = pair.boxes
    if boxes is not None:
        scale = np.array([width / crop_width, height / crop_height] * 2, dtype=np.float32)
        offset = np.array([left / width, top / height] * 2, dtype=np.float32)
        boxes = np.clip((boxes - offset) * scale, 0, 1)
        boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    rgb = np.ascontiguousarray(pair.rgb[top : top + crop_height, left : left + crop_width])
    return replace(pair, rgb=rgb, boxes=boxes)


def mirrored(pair: RawPair) -> RawPair:
    """Turn a picture and its boxes round; the captions stay."""
    boxes = pair.boxes
    if boxes is not None:
        boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    return replace(pair, rgb=np.ascontiguousarray(cv2.flip(pair.rgb, 1)), boxes=boxes)
