"""The queries that a calibration is fitted on: captions, altered copies and sketches of pictures that are there.

Shapes: `I` pictures, `Q` queries, `D` embedding.
"""

from __future__ import annotations

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


def embed_queries(
    encoder: TwoViewEncoder, source: PairSource, rows: NDArray[np.int64], *, seed: int = 0
) -> CalibrationSet:
    """Embed some of a source: its pictures, and one caption, one altered copy and one sketch of each."""
    images, found = [], {kind: list[QuerySet]() for kind in QueryKind}
    for first in range(0, len(rows), BATCH):
        pairs = [source.read(int(row)) for row in rows[first : first + BATCH]]
        places = np.arange(first, first + len(pairs))
        images.append(encoder.encode_images([encoder.prepare_image(pair.rgb) for pair in pairs]))
        random = [np.random.default_rng([seed, int(row)]) for row in rows[first : first + BATCH]]
        captions = [pair.captions[0] for pair in pairs]
        told = encoder.encode_texts([encoder.prepare_text(caption) for caption in captions])
        found[QueryKind.TEXT].append(QuerySet(told.appearance, told.structure, places))
        copies = [_some_copy(pair.rgb, draw) for pair, draw in zip(pairs, random, strict=True)]
        seen = encoder.encode_images([encoder.prepare_image(rgb) for rgb in copies])
        found[QueryKind.PICTURE].append(QuerySet(seen.appearance, seen.structure, places))
        drawn = [draw_sketch(pair.rgb, draw) for pair, draw in zip(pairs, random, strict=True)]
        found[QueryKind.SKETCH].append(embed_sketches(encoder, drawn, places))
    return CalibrationSet(
        Background(np.concatenate([e.appearance for e in images]), np.concatenate([e.structure for e in images])),
        {kind: _joined(parts) for kind, parts in found.items()},
    )


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
