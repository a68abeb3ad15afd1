"""Samples put together, with fixed shapes and masks: `B` pairs, `S` side, `L` tokens, `K` regions, `M` chunks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from structxlip.pooling import TextChunks, collect_chunks
from structxlip.tokenizer import TextTokenizer
from training.data.samples import PictureSample, Sample


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        indices: Which records.
        keys: Their names, for messages.
        mirrored: Which pictures are mirrored.
        rgb: uint8 `(B, S, S, 3)`, the pictures; none where their features are kept.
        edges: uint8 `(B, S, S)`, their edge maps.
        has_edges: bool `(B,)`, which maps have a line at all.
        tokens: int64 `(B, L)`, the full texts.
        structural_tokens: int64 `(B, L')`, their structural parts.
        meanings: int64 `(B,)`, equal for equal texts.
        structural_meanings: int64 `(B,)`, equal for equal structural texts.
        chunks: Where their chunks are, always `B · max_chunks` rows.
        boxes: float32 `(B, K, 4)` regions.
        box_valid: bool `(B, K)`, which of them exist.
        drawings: Which of its kept drawings each picture has.
        sketches: uint8 `(B, S, S)`, drawings of the pictures; none where no loss wants them.
    """

    indices: tuple[int, ...]
    keys: tuple[str, ...]
    mirrored: tuple[bool, ...]
    rgb: Tensor | None
    edges: Tensor
    has_edges: Tensor
    tokens: Tensor
    structural_tokens: Tensor
    meanings: Tensor
    structural_meanings: Tensor
    chunks: TextChunks
    boxes: Tensor
    box_valid: Tensor
    drawings: tuple[int, ...] = ()
    sketches: Tensor | None = None

    @property
    def has_strokes(self) -> Tensor:
        """Return which drawings have a line at all, bool `(B,)`."""
        assert self.sketches is not None, "no loss of this run wanted drawings"
        return (self.sketches != 0).flatten(1).any(dim=1)

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: str) -> Batch:
        """Return the same batch on another device."""
        if device == "cpu":
            return self
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, chunks=self.chunks.to(device), **moved)


def _colours(pictures: Sequence[PictureSample]) -> Tensor | None:
    seen = [picture.rgb for picture in pictures if picture.rgb is not None]
    return torch.from_numpy(np.stack(seen)) if len(seen) == len(pictures) else None


def collate(
    samples: Sequence[Sample],
    *,
    tokenizer: TextTokenizer,
    text_length: int | None = None,
    max_chunks: int = 16,
    max_chunk_tokens: int = 24,
) -> Batch:
    """Put samples together; every batch of the same number of samples has the same chunk and region shapes.

    Args:
        samples: One or more.
        tokenizer: Pads the ids.
        text_length: Columns of ids; the longest text of the batch where left out, which a causal tower allows.
        max_chunks: Most chunks of a caption.
        max_chunk_tokens: Most tokens of a chunk.
    """
    pictures, texts = [sample.picture for sample in samples], [sample.text for sample in samples]
    edges_BSS = torch.from_numpy(np.stack([picture.edges for picture in pictures]))
    return Batch(
        indices=tuple(sample.index for sample in samples),
        keys=tuple(sample.key for sample in samples),
        mirrored=tuple(sample.is_mirrored for sample in samples),
        rgb=_colours(pictures),
        edges=edges_BSS,
        has_edges=(edges_BSS != 0).flatten(1).any(dim=1),
        tokens=tokenizer.pad([text.tokens for text in texts], length=text_length),
        structural_tokens=tokenizer.pad([text.structural_tokens for text in texts], length=text_length),
        meanings=_meanings([text.tokens for text in texts]),
        structural_meanings=_meanings([text.structural_tokens for text in texts]),
        chunks=collect_chunks(
            [text.spans for text in texts],
            max_chunks=max_chunks,
            max_tokens=max_chunk_tokens,
            num_rows=len(samples) * max_chunks,
        ),
        boxes=torch.from_numpy(np.stack([picture.boxes for picture in pictures])),
        box_valid=torch.from_numpy(np.stack([picture.box_valid for picture in pictures])),
        drawings=tuple(sample.drawing for sample in samples),
        sketches=_sketches(samples),
    )


def _sketches(samples: Sequence[Sample]) -> Tensor | None:
    if not all(len(sample.picture.sketches) for sample in samples):
        return None
    return torch.from_numpy(np.stack([sample.picture.sketches[sample.drawing] for sample in samples]))


def _meanings(texts: Sequence[NDArray[np.int64]]) -> Tensor:
    return torch.tensor([zlib.crc32(ids.tobytes()) for ids in texts])
