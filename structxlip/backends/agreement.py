"""How near a tower comes to the model's own modules in float32, and how near is near enough to take its place.

The measure is the smallest cosine between a row and the reference's. Pictures, their edge maps and texts of several
lengths are what it is taken on: given ones, or pictures drawn here that have what photographs have (falling spectra,
shading, sharp edges, flat parts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from structxlip.backends.towers import Precision, Rows, Tower

if TYPE_CHECKING:
    from structxlip.encoder import TwoViewEncoder

# Below it a tower is refused. In float32 only the order of sums differs; bf16 keeps 8 bits of each factor.
MIN_COSINE: dict[Precision, float] = {"f32": 0.99999, "bf16": 0.9995}
MAX_NORM_ERROR = 1e-3

NUM_PICTURES, PICTURE_SIDE = 4, 320
CAPTIONS = (
    "two stools",
    "a shiny red table left of two blue chairs",
    "A narrow street with parked bicycles on one side; behind them, three houses with steep roofs and small square "
    "windows, and a church tower in the distance.",
)


@dataclass(frozen=True)
class Probes:
    """What towers are compared on.

    Attributes:
        images: uint8 `(N, S, S, 3)`.
        edges: uint8 `(N, S, S)`.
        tokens: int64 `(n, L)` each, of one or of several texts; the longest is as long as the model reads.
    """

    images: NDArray[np.uint8]
    edges: NDArray[np.uint8]
    tokens: tuple[NDArray[np.int64], ...]


def make_probes(
    encoder: TwoViewEncoder,
    *,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    texts: Sequence[str] = CAPTIONS,
) -> Probes:
    """Prepare pictures and texts as the encoder would serve them.

    Args:
        encoder: The model.
        pictures: uint8 `(H, W, 3)` of any size; drawn ones unless given.
        texts: At least one.
    """
    prepared = [encoder.prepare_image(rgb) for rgb in (drawn_pictures() if pictures is None else pictures)]
    longest = " and ".join(CAPTIONS * (1 + encoder.context_length // 40))
    return Probes(
        images=np.stack([image.rgb for image in prepared]),
        edges=np.stack([image.edges for image in prepared]),
        tokens=tuple(encoder.tokenize(group).numpy() for group in (texts, texts[:1], [longest])),
    )


def smallest_cosine(tower: Tower, reference: Tower, batches: Sequence[NDArray[np.generic]]) -> float:
    """Return the smallest cosine of a row to its reference; -1 when a row is not finite or not of unit length."""
    return smallest_cosine_to([reference(items) for items in batches], tower, batches)


def smallest_cosine_to(expected_rows: Sequence[Rows], tower: Tower, batches: Sequence[NDArray[np.generic]]) -> float:
    """Return what `smallest_cosine` does, from rows `(B, D)` that the reference gave for each batch before."""
    smallest = 1.0
    for items, rows in zip(batches, expected_rows, strict=True):
        # In float64: near 1, float32 has steps of 6e-8.
        found, expected = tower(items).astype(np.float64), rows.astype(np.float64)
        norms = np.linalg.norm(found, axis=1)
        if found.shape != expected.shape or not np.all(np.abs(norms - 1) < MAX_NORM_ERROR):
            return -1.0
        cosines = np.einsum("nd,nd->n", found, expected) / norms / np.linalg.norm(expected, axis=1)
        smallest = min(smallest, float(cosines.min()))
    return smallest


def batches_of(probes: Probes, name: str) -> list[NDArray[np.generic]]:
    """Return what to give the tower of that name: each of its inputs in batches of different sizes."""
    if name == "tokens":
        return list(probes.tokens)
    items = probes.images if name == "images" else probes.edges
    return [items, items[:1]]


def drawn_pictures(count: int = NUM_PICTURES) -> list[NDArray[np.uint8]]:
    """Return pictures `(H, W, 3)` with the spectrum of photographs, and shapes on them; always the same ones."""
    rng = np.random.default_rng(0)
    return [_draw(rng) for _ in range(count)]


def _draw(rng: np.random.Generator) -> NDArray[np.uint8]:
    side = PICTURE_SIDE
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    spectrum = np.fft.rfft2(rng.normal(size=(3, side, side))) / np.maximum(frequencies, 1 / side)
    texture = np.fft.irfft2(spectrum, s=(side, side)).transpose(1, 2, 0)
    low, high = np.quantile(texture, (0.02, 0.98))
    picture = np.ascontiguousarray(np.clip((texture - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    for _ in range(6):
        colour = tuple(int(level) for level in rng.integers(0, 256, size=3))
        x, y, width, height = (int(value) for value in rng.integers(20, side // 2, size=4))
        if rng.random() < 0.5:
            cv2.rectangle(picture, (x, y), (x + width, y + height), colour, thickness=-1)
        else:
            cv2.ellipse(picture, (x, y), (width // 2, height // 2), 0, 0, 360, colour, thickness=-1)
    return picture
