"""What a queue's worker runs: a batch of pictures or texts to vectors, of each item the views that were asked for.

A batch mixes items of which both views are wanted (to add, to search) with those of which one is (`POST
/v1/embeddings`): each view's tower runs once, or once more where a batch mixes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from structxlip.encoder import PreparedImage, TwoViewEncoder

Vector: TypeAlias = NDArray[np.float32]
View: TypeAlias = Literal["appearance", "structure"]


@dataclass(frozen=True, slots=True)
class PictureView:
    """One view of a picture at the model's resolution: `(S, S, 3)` of appearance, `(S, S)` of structure."""

    view: View
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TextView:
    """One view of a text, to be embedded without the other."""

    view: View
    text: str


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """One text, its structural part and their unit vectors, each of shape ``(D,)``."""

    structural_text: str
    num_tokens: int
    is_truncated: bool
    appearance: Vector
    structure: Vector


@dataclass(frozen=True, slots=True)
class OneView:
    """The unit vector ``(D,)`` of one view, and the tokens of a text (0 of a picture)."""

    vector: Vector
    num_tokens: int


PictureItem: TypeAlias = PreparedImage | PictureView
PictureRows: TypeAlias = tuple[Vector, Vector] | OneView
TextItem: TypeAlias = str | TextView
TextRows: TypeAlias = EmbeddedText | OneView


def views_of(items: Sequence[PictureItem] | Sequence[TextItem]) -> str:
    """Return the one view that all of these want, or ``both``."""
    views = {item.view if isinstance(item, PictureView | TextView) else "both" for item in items}
    return views.pop() if len(views) == 1 else "both"


def prepare_view(encoder: TwoViewEncoder, rgb: NDArray[np.uint8], view: View) -> PictureView:
    """Resize a picture for one view; lines are looked for only where they are wanted."""
    if view == "structure":
        return PictureView(view, encoder.prepare_image(rgb).edges)
    return PictureView(view, encoder.preprocessing.resize(rgb))


def encode_pictures(encoder: TwoViewEncoder, items: Sequence[PictureItem]) -> list[PictureRows]:
    """Return for each item the rows of both views, or of the one that it is."""
    whole = {place: item for place, item in enumerate(items) if isinstance(item, PreparedImage)}
    found: dict[int, PictureRows] = {}
    if whole:
        both = encoder.encode_images(list(whole.values()))
        found |= dict(zip(whole, zip(both.appearance, both.structure, strict=True), strict=True))
    towers: dict[View, Callable[[Sequence[NDArray[np.uint8]]], Vector]] = {
        "appearance": encoder.encode_rgb,
        "structure": encoder.encode_edge_maps,
    }
    for view, encode in towers.items():
        parts = {
            place: item.pixels
            for place, item in enumerate(items)
            if isinstance(item, PictureView) and item.view == view
        }
        rows = encode(list(parts.values()))
        found |= {place: OneView(row, num_tokens=0) for place, row in zip(parts, rows, strict=True)}
    return [found[place] for place in range(len(items))]


def encode_texts(encoder: TwoViewEncoder, items: Sequence[TextItem]) -> list[TextRows]:
    """Return for each item both views of it, or the one that it is."""
    whole = {place: encoder.prepare_text(item) for place, item in enumerate(items) if isinstance(item, str)}
    parts = {place: _tokens(encoder, item) for place, item in enumerate(items) if isinstance(item, TextView)}
    texts = list(whole.values())
    rows = encoder.encode_tokens(
        [text.tokens for text in texts]
        + [text.structural_tokens for text in texts]
        + [tokens for tokens, _ in parts.values()]
    )
    found: dict[int, TextRows] = {
        place: EmbeddedText(text.structural_text, text.num_tokens, text.is_truncated, appearance, structure)
        for (place, text), appearance, structure in zip(
            whole.items(), rows[: len(texts)], rows[len(texts) : 2 * len(texts)], strict=True
        )
    }
    for (place, (_, num_tokens)), row in zip(parts.items(), rows[2 * len(texts) :], strict=True):
        found[place] = OneView(row, num_tokens)
    return [found[place] for place in range(len(items))]


def _tokens(encoder: TwoViewEncoder, item: TextView) -> tuple[NDArray[np.int64], int]:
    text = encoder.caption_filter.structural_text(item.text) if item.view == "structure" else item.text
    encoded = encoder.tokenizer.encode(text)
    return encoded.ids, encoded.num_tokens
