"""Where the chunks of a caption stand among the token ids that are encoded.

The tokenizer repairs, lower-cases and cuts a caption before it encodes it, so character places do not carry over.
Here the words of both forms are put side by side, and a chunk is given a span only if its first and last word start
and end a token: a span that cannot be vouched for is left out rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer

from structxlip.captions.chunks import Chunk
from structxlip.tokenizer import LONGEST_RUN

# `TextTokenizer` breaks endless runs of signs, because byte-pair encoding is quadratic in them; so do we, to
# get the same ids.
_BREAKABLE_RUN = re.compile(rf"(\S{{{LONGEST_RUN}}})(?=\S)")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class TokenSpans:
    """Token ids of one caption and the places of its chunks in them.

    Attributes:
        ids: int64 `(L,)` with start and end token, cut to the context length, without padding.
        chunks: Those chunks that lie within the ids, in order.
        spans: For each of them ``(start, end)``: ``ids[start:end]`` decodes to its words.
    """

    ids: NDArray[np.int64]
    chunks: tuple[Chunk, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Pieces:
    """Token borders of a cleaned text: which token starts, and which ends, at a character."""

    ids: list[int]
    starts: dict[int, int]
    ends: dict[int, int]


def token_spans(tokenizer: SimpleTokenizer, text: str, chunks: Sequence[Chunk], context_length: int) -> TokenSpans:
    """Encode ``text`` and find its chunks in the ids.

    Args:
        tokenizer: The model's own.
        text: The caption as it is encoded: if the structural text is encoded, its own chunks belong here.
        chunks: Of this very text.
        context_length: Positions of the text tower, start and end token included.

    Returns:
        The same ids as `TextTokenizer.encode`. Chunks beyond the context length are left out.

    Raises:
        ValueError: If a chunk is not the text at its place.
    """
    for chunk in chunks:
        if text[chunk.start_char : chunk.end_char] != chunk.text:
            found = text[chunk.start_char : chunk.end_char]
            raise ValueError(f"the chunk {chunk.text!r} is not of this caption, which has {found!r} there")
    cleaned = tokenizer.clean_fn(_BREAKABLE_RUN.sub(r"\1 ", text))
    pieces = _encode(tokenizer, cleaned)
    ids = [tokenizer.sot_token_id, *pieces.ids, tokenizer.eot_token_id]
    if len(ids) > context_length:
        ids = [*ids[: context_length - 1], tokenizer.eot_token_id]
    places = _Places(text, cleaned)
    found_chunks: list[Chunk] = []
    spans: list[tuple[int, int]] = []
    for chunk in chunks:
        span = _span(pieces, places.in_cleaned(chunk))
        if span is not None and span[1] < len(ids):
            found_chunks.append(chunk)
            spans.append(span)
    return TokenSpans(np.array(ids, dtype=np.int64), tuple(found_chunks), tuple(spans))


def _encode(tokenizer: SimpleTokenizer, cleaned: str) -> _Pieces:
    pieces = _Pieces([], {}, {})
    for match in tokenizer.pat.finditer(cleaned):
        letters = "".join(tokenizer.byte_encoder[byte] for byte in match.group().encode("utf-8"))
        pieces.starts[match.start()] = len(pieces.ids) + 1
        pieces.ids.extend(tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" "))
        pieces.ends[match.end()] = len(pieces.ids) + 1
    return pieces


def _span(pieces: _Pieces, place: tuple[int, int] | None) -> tuple[int, int] | None:
    if place is None or place[0] not in pieces.starts or place[1] not in pieces.ends:
        return None
    return pieces.starts[place[0]], pieces.ends[place[1]]


class _Places:
    """Carries places of words in a text over to its cleaned form."""

    def __init__(self, text: str, cleaned: str) -> None:
        self._words = [(match.start(), match.end()) for match in _WORD.finditer(text)]
        self._cleaned = [(match.start(), match.end()) for match in _WORD.finditer(cleaned)]
        before = [text[start:end].lower() for start, end in self._words]
        after = [cleaned[start:end] for start, end in self._cleaned]
        self._match = list(range(len(before))) if before == after else _aligned(before, after)
        self._by_start = {start: place for place, (start, _) in enumerate(self._words)}
        self._by_end = {end: place for place, (_, end) in enumerate(self._words)}

    def in_cleaned(self, chunk: Chunk) -> tuple[int, int] | None:
        """The characters of the cleaned text that the chunk's words became; None if they are not all there."""
        first, last = self._by_start.get(chunk.start_char), self._by_end.get(chunk.end_char)
        if first is None or last is None:
            return None
        matches = self._match[first : last + 1]
        if matches[0] is None or matches != list(range(matches[0], matches[0] + len(matches))):
            return None
        return self._cleaned[matches[0]][0], self._cleaned[matches[0] + len(matches) - 1][1]


def _aligned(before: Sequence[str], after: Sequence[str]) -> list[int | None]:
    """For each word, which word of the cleaned text it is; None for those that the cleaning changed."""
    found: list[int | None] = [None] * len(before)
    matcher = SequenceMatcher(None, before, after, autojunk=len(before) > 1000)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            found[block.a + offset] = block.b + offset
    return found
