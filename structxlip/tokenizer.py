"""Texts to token ids, by open_clip's own tokenizers, with the true length kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, _tokenizer
from torch import Tensor

from structxlip.errors import UnsupportedModelError

# Byte-pair encoding takes time that grows with the square of a word's length. 256 signs without a space are
# no word of any language, and in a script without spaces they fill a text tower's positions anyway.
LONGEST_RUN = 256
MAX_CACHED_WORDS = 100_000
PADDING = 0  # what open_clip itself pads with


@dataclass(frozen=True)
class Tokens:
    """The token ids of one text.

    Attributes:
        ids: int64 `(L,)`, start and end token included, at most the model's context length, without padding
            where the tower can be cut.
        num_tokens: How many there are before truncation.
        is_truncated: Whether the text is longer than the model reads.
    """

    ids: NDArray[np.int64]
    num_tokens: int
    is_truncated: bool


class TextTokenizer:
    """Turns texts into ids; many threads may use it at once.

    Args:
        architecture: open_clip's model config, which names the tokenizer.
        source: Where a Hugging Face tokenizer's files are, when not under the name in the config.

    Raises:
        UnsupportedModelError: If the model's tokenizer needs a package that is not installed.
    """

    context_length: int

    def __init__(self, architecture: Mapping[str, Any], *, source: str | None = None) -> None:
        text: Mapping[str, Any] = architecture["text_cfg"]
        self.context_length = int(text.get("context_length", 77))
        self._tokenizer = _build(text, self.context_length, source)

    def encode(self, text: str) -> Tokens:
        """Tokenize one text; what does not fit is cut off and the end token put last, as open_clip does."""
        if isinstance(self._tokenizer, SimpleTokenizer):
            return self._encode_simple(self._tokenizer, text)
        return self._encode_hugging_face(self._tokenizer, text)

    def pad(self, rows: Sequence[NDArray[np.int64]], *, length: int | None = None) -> Tensor:
        """Return int64 `(B, L)`, `L` the longest row unless given."""
        width = length or max(len(row) for row in rows)
        padded = np.full((len(rows), width), PADDING, dtype=np.int64)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(padded)

    def _encode_simple(self, tokenizer: SimpleTokenizer, text: str) -> Tokens:
        words = tokenizer.encode(_break_runs(text))
        ids = [tokenizer.sot_token_id, *words, tokenizer.eot_token_id]
        kept = ids if len(ids) <= self.context_length else [*ids[: self.context_length - 1], tokenizer.eot_token_id]
        return Tokens(np.array(kept, dtype=np.int64), len(ids), len(ids) > self.context_length)

    def _encode_hugging_face(self, tokenizer: HFTokenizer, text: str) -> Tokens:
        text = _break_runs(text)
        ids = tokenizer([text])[0].numpy().astype(np.int64)
        num_tokens = len(tokenizer.tokenizer(tokenizer.clean_fn(text)).input_ids)
        return Tokens(ids, num_tokens, num_tokens > self.context_length)


def _build(text: Mapping[str, Any], context_length: int, source: str | None) -> SimpleTokenizer | HFTokenizer:
    options = dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        # open_clip has made one with its defaults; 23 MiB of tables that nobody writes to serve both.
        tokenizer = SimpleTokenizer(**options) if options else copy(_tokenizer)
        tokenizer.context_length = context_length
        tokenizer.cache = _BoundedCache(tokenizer.cache)
        return tokenizer
    try:
        return HFTokenizer(
            source or name,
            context_length=context_length,
            tokenizer_mode=text.get("tokenizer_mode"),
            **options,
        )
    except ImportError as error:
        raise UnsupportedModelError(
            f"the model's tokenizer {name!r} needs the package `{error.name}`, which is not installed: "
            f"pip install {error.name}"
        ) from error


def _break_runs(text: str) -> str:
    return re.sub(rf"(\S{{{LONGEST_RUN}}})(?=\S)", r"\1 ", text)


class _BoundedCache(dict[str, str]):
    """Takes no more words once it is full: open_clip's own remembers every word that a service ever meets."""

    def __setitem__(self, word: str, pieces: str) -> None:
        if len(self) < MAX_CACHED_WORDS:
            super().__setitem__(word, pieces)
