"""Chunks: the pieces of a caption that the local loss matches with regions.

With a parser a chunk is a noun phrase with what leads to it: "a man", "is wearing a hat", "in front of the house".
Without one, clauses are cut into windows of nearly equal length. Either way the chunks cover the whole caption in
order, and a cap samples them evenly over all of it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pydantic import JsonValue

from structxlip.captions.pipeline import BUNDLED, Parser

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

MAX_WORDS = 16
WINDOW_WORDS = 8
MIN_WORDS = 2

# A noun before "of" that only places or counts what follows: "the left side of the road" is one chunk.
RELATIONAL = frozenset(
    (
        *("front", "side", "sides", "left", "right", "top", "bottom", "middle", "center", "centre", "back", "end"),
        *("edge", "edges", "corner", "part", "rest", "inside", "outside", "lot", "number", "group", "pair", "couple"),
        *("piece", "pieces", "row", "rows", "bunch", "variety", "set", "kind", "type"),
        *("view", "shot", "image", "picture", "photo"),
    )
)
MODIFIERS = frozenset(("compound", "amod", "nmod", "nummod", "det", "poss", "flat", "goeswith"))
_CLAUSE = re.compile(r"[^.,;:!?()\n]+")
_WORD = re.compile(r"[^\W_]+(?:['’\-‐‑][^\W_]+)*")
_HANGING = frozenset(("and", "or", "but"))


@dataclass(frozen=True)
class Chunk:
    """A piece of a caption: ``text`` is the caption's ``[start_char:end_char]``, and starts and ends with a word."""

    text: str
    start_char: int
    end_char: int


class Chunker(Protocol):
    """Cuts captions into chunks."""

    def chunks(self, text: str) -> list[Chunk]:
        """The chunks of one caption, in order and without overlap; empty only if the caption has no word."""
        ...

    def config(self) -> dict[str, JsonValue]:
        """The config from which `build_chunker` makes an equal chunker."""
        ...


class WindowChunker:
    """Cuts clauses into windows of nearly equal length; needs no model.

    Args:
        num_words: Longest window.
    """

    def __init__(self, num_words: int = WINDOW_WORDS) -> None:
        if num_words < 1:
            raise ValueError(f"a window needs at least 1 word, got {num_words}")
        self._num_words = num_words

    def chunks(self, text: str) -> list[Chunk]:
        """Windows of each clause: a clause of 9 words becomes two windows of 5 and 4, not of 8 and 1."""
        return [chunk for start, end in _clauses(text) for chunk in _windows(text, start, end, self._num_words)]

    def config(self) -> dict[str, JsonValue]:
        """What `build_chunker` needs to make this chunker again."""
        return {"kind": "windows", "num_words": self._num_words}


class SyntacticChunker:
    """Cuts captions at the ends of noun phrases, found by a spaCy parser.

    Args:
        pipeline: ``"bundled"``, the name of an installed pipeline, or the path of one.

    Raises:
        PipelineError: If the pipeline cannot be loaded; `WindowChunker` needs none.
    """

    def __init__(self, pipeline: str = BUNDLED) -> None:
        self._parser = Parser(pipeline)

    def chunks(self, text: str) -> list[Chunk]:
        """Noun phrases, each with the preposition, verb or relation that leads to it."""
        return self.chunks_of_all([text])[0]

    def chunks_of_all(self, texts: Sequence[str]) -> list[list[Chunk]]:
        """`chunks` of each caption, parsed in batches."""
        docs = self._parser.parse(texts)
        return [_phrase_chunks(text, doc) for text, doc in zip(texts, docs, strict=True)]

    def config(self) -> dict[str, JsonValue]:
        """What `build_chunker` needs to make this chunker again."""
        return {"kind": "syntactic", "pipeline": self._parser.name}


def build_chunker(config: Mapping[str, JsonValue]) -> Chunker:
    """Build a chunker from ``{"kind": "windows", "num_words": 8}`` or ``{"kind": "syntactic", "pipeline": "bundled"}``.

    Raises:
        ValueError: If the kind or a value is unknown.
    """
    kind = config.get("kind")
    allowed = {"windows": {"kind", "num_words"}, "syntactic": {"kind", "pipeline"}}
    if kind not in ("windows", "syntactic"):
        raise ValueError(f"the chunker's kind must be windows or syntactic, got {kind!r}")
    if unknown := sorted(set(config) - allowed[kind]):
        raise ValueError(f"a chunker of kind {kind!r} knows {sorted(allowed[kind])}, got also {unknown}")
    if kind == "windows":
        num_words = config.get("num_words", WINDOW_WORDS)
        if not isinstance(num_words, int):
            raise ValueError(f"the chunker's num_words must be a whole number, got {num_words!r}")
        return WindowChunker(num_words)
    pipeline = config.get("pipeline", BUNDLED)
    if not isinstance(pipeline, str):
        raise ValueError(f"the chunker's pipeline must be a name, got {pipeline!r}")
    return SyntacticChunker(pipeline)


def sample_evenly(chunks: Sequence[Chunk], cap: int) -> list[Chunk]:
    """At most ``cap`` chunks, spread evenly from the first to the last: none of the caption is favoured.

    Args:
        chunks: In the order of the caption.
        cap: How many to keep, at least 1.

    Returns:
        All of them if there are no more than ``cap``; otherwise the middle of each of ``cap`` equal stretches.
    """
    if cap < 1:
        raise ValueError(f"the cap must be at least 1, got {cap}")
    num = len(chunks)
    if num <= cap:
        return list(chunks)
    return [chunks[(2 * place + 1) * num // (2 * cap)] for place in range(cap)]


def _clauses(text: str) -> Iterator[tuple[int, int]]:
    """Stretches between punctuation; one that is shorter than a phrase joins the next."""
    open_start: int | None = None
    for match in _CLAUSE.finditer(text):
        start = match.start() if open_start is None else open_start
        if len(_WORD.findall(match.group())) < MIN_WORDS:
            open_start = start
        else:
            open_start = None
            yield start, match.end()
    if open_start is not None:
        yield open_start, len(text)


def _windows(text: str, start: int, end: int, num_words: int) -> Iterator[Chunk]:
    words = list(_WORD.finditer(text, start, end))
    num_windows = -(-len(words) // num_words)
    for place in range(num_windows):
        window = words[place * len(words) // num_windows : (place + 1) * len(words) // num_windows]
        yield _chunk(text, window[0].start(), window[-1].end())


def _chunk(text: str, start: int, end: int) -> Chunk:
    return Chunk(text[start:end], start, end)


def _phrase_chunks(text: str, doc: Doc) -> list[Chunk]:
    found: list[Chunk] = []
    all_words = list(_WORD.finditer(text))
    starts = [word.start() for word in all_words]
    for start, end in _stretches(doc):
        # A word belongs to the stretch that it begins in: the parser's tokens, and its sentences, may end within one.
        words = all_words[bisect_left(starts, start) : bisect_left(starts, end)]
        while words and words[0].group().lower() in _HANGING:
            words.pop(0)
        if words:
            found.extend(_windows(text, words[0].start(), words[-1].end(), MAX_WORDS))
    return found


def _stretches(doc: Doc) -> Iterator[tuple[int, int]]:
    """From the end of one noun phrase to the end of the next; what follows the last one of a sentence goes with it."""
    start = 0
    pending: tuple[int, int] | None = None
    for token in doc:
        end = token.idx + len(token.text)
        closes = _ends_noun_phrase(token)
        if closes:
            if pending is not None:
                yield pending
            pending, start = (start, end), end
        if token.is_sent_end or token.i == len(doc) - 1:
            yield (start if pending is None else pending[0]), end
            pending, start = None, end


def _ends_noun_phrase(token: Token) -> bool:
    """Whether the token is the last word of a noun phrase that stands for something."""
    if token.pos_ not in ("NOUN", "PROPN") or token.dep_ == "nmod:poss":
        return False
    following = token.nbor() if token.i + 1 < len(token.doc) else None
    if following is None:
        return True
    relation = token.dep_.partition(":")[0]
    leads_on = token.head.i > token.i and relation in MODIFIERS and token.head.i - token.i <= 3
    is_glued = not token.whitespace_ and (following.text in "-–'’" or following.text.lower() in ("'s", "’s"))
    is_relational = token.lower_ in RELATIONAL and following.lower_ in ("of", "to")
    goes_on = following.head.i == token.i and following.dep_.partition(":")[0] in ("flat", "compound", "goeswith")
    return not (leads_on or is_glued or is_relational or goes_on)
