"""The queries that a calibration is fitted on: captions, altered copies and sketches of pictures that are there.

Shapes: `I` pictures, `Q` queries, `D` embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structxlip.calibration import Background, Matrix, QueryKind
from structxlip.encoder import TwoViewEncoder
from structxlip.sketch import EmptySketchError
from training.calibration.copies import COPIES
from training.data import PairSource
from training.data.sketches import draw_sketch

BATCH = 64
# Of each kind. Where pictures are fewer, each is altered and drawn several times over: a level hangs on the last few.
WANTED_QUERIES = 500
MOST_OF_ONE_PICTURE = 4


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind, and the picture that each of them means.

    Attributes:
        appearance: `(Q, D)`; zeros where the queries have no colours.
        structure: `(Q, D)`.
        owner: `(Q,)`, the picture's row.
    """

    appearance: Matrix
    structure: Matrix
    owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def num_pictures(self) -> int:
        """Return how many pictures the queries mean."""
        return len(np.unique(self.owner))

    def scores(self, images: Background, structure_weight: float) -> Matrix:
        """Return the scores `(Q, I)` of the pictures for each query."""
        return images.scores(self.appearance, self.structure, structure_weight)

    def take(self, rows: NDArray[np.int64]) -> QuerySet:
        """Return some of the queries."""
        return QuerySet(self.appearance[rows], self.structure[rows], self.owner[rows])

    def meaning(self, rows: NDArray[np.int64], num_images: int) -> QuerySet:
        """Return the queries that mean one of some of the pictures, which are numbered anew."""
        place = np.full(num_images, -1)
        place[rows] = np.arange(len(rows))
        kept = self.take(np.flatnonzero(place[self.owner] >= 0))
        return QuerySet(kept.appearance, kept.structure, place[kept.owner])


@dataclass(frozen=True)
class CalibrationSet:
    """Pictures, and queries of each kind that mean one of them.

    Attributes:
        images: Both views of the pictures.
        queries: Of each kind.
    """

    images: Background
    queries: Mapping[QueryKind, QuerySet]

    def __len__(self) -> int:
        return len(self.images.appearance)

    def part(self, rows: NDArray[np.int64]) -> CalibrationSet:
        """Return some of the pictures with their queries."""
        queries = {kind: of_kind.meaning(rows, len(self)) for kind, of_kind in self.queries.items()}
        return CalibrationSet(Background(self.images.appearance[rows], self.images.structure[rows]), queries)

    def first_of_each(self) -> CalibrationSet:
        """Return one query of each kind for each picture, the first."""
        queries = {kind: of.take(np.unique(of.owner, return_index=True)[1]) for kind, of in self.queries.items()}
        return CalibrationSet(self.images, queries)


def joined(first: CalibrationSet, second: CalibrationSet) -> CalibrationSet:
    """Return the pictures and queries of two."""
    images = Background(
        np.concatenate([first.images.appearance, second.images.appearance]),
        np.concatenate([first.images.structure, second.images.structure]),
    )
    moved = {kind: QuerySet(of.appearance, of.structure, of.owner + len(first)) for kind, of in second.queries.items()}
    return CalibrationSet(images, {kind: _joined([of, moved[kind]]) for kind, of in first.queries.items()})


def choose_rows(num_rows: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``limit`` row numbers, drawn without replacement, ascending."""
    if num_rows <= limit:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng([seed, num_rows]).permutation(num_rows)[:limit])


def embed_background(encoder: TwoViewEncoder, source: PairSource, rows: NDArray[np.int64]) -> Background:
    """Embed some of a source's pictures, rounded as they will be stored."""
    parts = []
    for first in range(0, len(rows), BATCH):
        pictures = [source.read(int(row)).rgb for row in rows[first : first + BATCH]]
        parts.append(encoder.encode_images([encoder.prepare_image(rgb) for rgb in pictures]))
    return Background(
        np.concatenate([part.appearance for part in parts]), np.concatenate([part.structure for part in parts])
    ).rounded()


def num_of_one_picture(num_pictures: int) -> int:
    """Return how many captions, altered copies and sketches of each picture a calibration takes."""
    return min(MOST_OF_ONE_PICTURE, math.ceil(WANTED_QUERIES / max(1, num_pictures)))


def embed_queries(
    encoder: TwoViewEncoder, source: PairSource, rows: NDArray[np.int64], *, seed: int = 0, num_each: int = 1
) -> CalibrationSet:
    """Embed some of a source: its pictures, and captions, altered copies and sketches of each.

    Args:
        encoder: The model.
        source: Of the pictures.
        rows: Which of them.
        seed: Draws the alterations.
        num_each: Copies and sketches of each picture; captions too, where it has so many.
    """
    images, found = [], {kind: list[QuerySet]() for kind in QueryKind}
    for first in range(0, len(rows), BATCH):
        pairs = [source.read(int(row)) for row in rows[first : first + BATCH]]
        places = np.arange(first, first + len(pairs))
        images.append(encoder.encode_images([encoder.prepare_image(pair.rgb) for pair in pairs]))
        for number in range(num_each):
            random = [np.random.default_rng(_drawn_by(seed, int(row), number)) for row in rows[places]]
            has_caption = [
                place for place, pair in enumerate(pairs) if any(map(str.strip, pair.captions[number : number + 1]))
            ]
            told = encoder.encode_texts([encoder.prepare_text(pairs[place].captions[number]) for place in has_caption])
            found[QueryKind.TEXT].append(QuerySet(told.appearance, told.structure, places[has_caption]))
            copies = [_some_copy(pair.rgb, draw) for pair, draw in zip(pairs, random, strict=True)]
            seen = encoder.encode_images([encoder.prepare_image(rgb) for rgb in copies])
            found[QueryKind.PICTURE].append(QuerySet(seen.appearance, seen.structure, places))
            drawn = [draw_sketch(pair.rgb, draw) for pair, draw in zip(pairs, random, strict=True)]
            found[QueryKind.SKETCH].append(embed_sketches(encoder, drawn, places))
    return CalibrationSet(
        Background(np.concatenate([e.appearance for e in images]), np.concatenate([e.structure for e in images])),
        {kind: _joined(parts) for kind, parts in found.items()},
    )


def _drawn_by(seed: int, row: int, number: int) -> list[int]:
    """Return what seeds one drawing of a picture; the first is the same however many there are."""
    return [seed, row, number] if number else [seed, row]


def embed_sketches(
    encoder: TwoViewEncoder, drawings: Sequence[NDArray[np.uint8]], owner: NDArray[np.int64]
) -> QuerySet:
    """Embed drawings as the service does; those without a stroke are left out."""
    maps, kept = [], []
    for drawing, picture in zip(drawings, owner, strict=True):
        try:
            maps.append(encoder.prepare_sketch(drawing))
        except EmptySketchError:
            continue
        kept.append(picture)
    structure = encoder.encode_edge_maps(maps)
    return QuerySet(np.zeros_like(structure), structure, np.array(kept, dtype=np.int64))


def _some_copy(rgb: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    name = str(random.choice(sorted(COPIES)))
    return COPIES[name](rgb, random)


def _joined(parts: Sequence[QuerySet]) -> QuerySet:
    return QuerySet(
        np.concatenate([part.appearance for part in parts]),
        np.concatenate([part.structure for part in parts]),
        np.concatenate([part.owner for part in parts]),
    )
