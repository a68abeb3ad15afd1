"""Explanations on request: phrases and regions embedded through the service's own queues, and kept by content."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from service.embedding import EmbeddedRegions, Embedder
from service.encoding import EmbeddedText
from service.images import encode_png
from service.schemas import Explanation, Phrase, PhrasePair, RegionOut
from service.search.cache import QueryCache
from structxlip.captions import Chunk, Chunker, SyntacticChunker
from structxlip.explanation import OVERLAY_SIDE, Pair, best_pairs, draw_overlay, find_phrases, similarities

# A dozen regions of two views take about 100 kB.
MAX_CACHED_PICTURES = 256


@dataclass(frozen=True, slots=True)
class EmbeddedPhrases:
    """The phrases of a text and their rows `(P, D)` of both views."""

    chunks: tuple[Chunk, ...]
    appearance: NDArray[np.float32]
    structure: NDArray[np.float32]


class Explainer:
    """Explains pictures; made and used on one event loop. Its parser is loaded when it is first needed."""

    def __init__(self, embedder: Embedder, texts: QueryCache[EmbeddedText]) -> None:
        self._embedder = embedder
        self._texts = texts
        self._regions: QueryCache[EmbeddedRegions] = QueryCache(MAX_CACHED_PICTURES)
        self._chunker: Chunker | None = None
        self._parsing = asyncio.Lock()

    async def read_phrases(self, text: str) -> EmbeddedPhrases:
        """Find and embed the phrases of a text."""
        async with self._parsing:  # the parser is one for all, and quick
            chunks = await anyio.to_thread.run_sync(self._find_phrases, text)
        embedded = await asyncio.gather(*(self._embed(chunk.text) for chunk in chunks))
        return EmbeddedPhrases(
            tuple(chunks),
            np.stack([each.appearance for each in embedded]),
            np.stack([each.structure for each in embedded]),
        )

    async def explain(self, phrases: EmbeddedPhrases, data: bytes, *, structure_weight: float) -> Explanation:
        """Hold phrases against the regions of a picture file."""
        regions = await self._read_regions(data)
        found = _similarities(phrases, regions, structure_weight)
        return Explanation(
            phrases=[Phrase(text=chunk.text, start=chunk.start_char, end=chunk.end_char) for chunk in phrases.chunks],
            regions=[RegionOut(box=tuple(box)) for box in regions.boxes.tolist()],
            similarities=found.tolist(),
            pairs=[
                PhrasePair(phrase=pair.phrase, region=pair.region, similarity=pair.similarity)
                for pair in best_pairs(found)
            ],
        )

    async def draw(self, explanation: Explanation, data: bytes) -> str:
        """Return the picture with the best pairs' boxes, a PNG in base64."""
        decoded = await self._embedder.decode(data, min_side=OVERLAY_SIDE)
        boxes = np.array([region.box for region in explanation.regions])
        pairs = [Pair(pair.phrase, pair.region, pair.similarity) for pair in explanation.pairs]
        png = await anyio.to_thread.run_sync(lambda: encode_png(draw_overlay(decoded.rgb, boxes, pairs)))
        return base64.b64encode(png).decode()

    async def _embed(self, phrase: str) -> EmbeddedText:
        return await self._texts.get(("text", phrase), lambda: self._embedder.embed_text(phrase))

    async def _read_regions(self, data: bytes) -> EmbeddedRegions:
        digest = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).digest())
        return await self._regions.get(digest, lambda: self._embedder.embed_regions(data))

    def _find_phrases(self, text: str) -> Sequence[Chunk]:
        if self._chunker is None:
            self._chunker = SyntacticChunker()
        return find_phrases(text, self._chunker)


def _similarities(phrases: EmbeddedPhrases, regions: EmbeddedRegions, weight: float) -> NDArray[np.float64]:
    told, seen = (phrases.appearance, phrases.structure), (regions.appearance, regions.structure)
    return similarities(told, seen, structure_weight=weight)
