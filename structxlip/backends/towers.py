"""The seam between an encoder and what executes it.

Shapes: `B` items, `S` side of the model's input in pixels, `L` tokens, `D` embedding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Precision: TypeAlias = Literal["f32", "bf16"]
BackendName: TypeAlias = Literal["torch", "openvino"]
Rows: TypeAlias = NDArray[np.float32]


class Tower(Protocol):
    """One function of a model, from a batch of any size to unit rows; many threads may call it at once."""

    @property
    def backend(self) -> BackendName:
        """What runs it."""

    @property
    def precision(self) -> Precision:
        """The precision of its matrix products; what goes in and comes out is the same for all."""

    def __call__(self, items: NDArray[Any]) -> Rows:
        """Return unit rows, float32 `(B, D)`."""


@dataclass(frozen=True)
class Towers:
    """All that serving needs of a model.

    Attributes:
        images: Takes uint8 `(B, S, S, 3)`.
        edges: Takes edge maps, uint8 `(B, S, S)`.
        tokens: Takes int64 `(B, L)` of any `L` that the model reads.
        spare_tokens: How many tokens cost as much as one more call of `tokens`: what a batch of texts of
            different lengths may waste on padding before it is worth splitting.
    """

    images: Tower
    edges: Tower
    tokens: Tower
    spare_tokens: int

    def __iter__(self) -> Iterator[tuple[str, Tower]]:
        """Yield each tower with its name."""
        yield from (("images", self.images), ("edges", self.edges), ("tokens", self.tokens))

    def describe(self) -> dict[str, str]:
        """Return what runs each tower, such as ``{"images": "openvino bf16", …}``."""
        return {name: f"{tower.backend} {tower.precision}" for name, tower in self}


@dataclass(frozen=True)
class EdgesAsPictures:
    """The `shared` edge branch: an edge map goes through the image tower as three equal channels."""

    images: Tower

    @property
    def backend(self) -> BackendName:
        """The image tower's."""
        return self.images.backend

    @property
    def precision(self) -> Precision:
        """The image tower's."""
        return self.images.precision

    def __call__(self, items: NDArray[Any]) -> Rows:
        """Embed uint8 maps `(B, S, S)`."""
        return self.images(grey_pictures(items))


def grey_pictures(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `(B, S, S, 3)` with three equal channels from `(B, S, S)`."""
    return np.repeat(maps[..., None], 3, axis=-1)
