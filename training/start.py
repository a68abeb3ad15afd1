"""Where a run starts: the encoder before its first step."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from structxlip.captions import CaptionFilter, build_caption_filter
from structxlip.captions.chunks import Chunker
from structxlip.captions.spans import token_spans
from structxlip.checkpoint import EncoderConfig, build_encoder
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import EdgeDetector, build_edge_detector
from structxlip.encoder import TwoViewEncoder
from structxlip.long_text import KEPT_POSITIONS, stretch_text_tower
from structxlip.models import load_encoder, resolve_device
from structxlip.preprocessing import Preprocessing
from structxlip.tokenizer import TextTokenizer
from training.config import ModelConfig, TrainingConfigError
from training.data import PairSource
from training.data.samples import SpanFinder, Spans


def start_encoder(config: ModelConfig, *, device: str = "cpu", source: PairSource | None = None) -> TwoViewEncoder:
    """Build the encoder that training starts from; random weights come from torch's global generator.

    Args:
        config: What to start from.
        device: Where it runs.
        source: Training pairs, for `zero_unseen_words`.

    Raises:
        ModelError: If the model cannot be built or loaded.
        TrainingConfigError: If the configuration does not fit the model.
    """
    device = resolve_device(device)
    if config.start == "scratch":
        encoder = build_encoder(_scratch_config(config), device=device)
        if config.zero_unseen_words and source is not None:
            zero_unseen_words(encoder, source)
        return encoder
    encoder = rebuilt(
        load_encoder(config.start, device=device),
        edges=build_edge_detector(config.edges),
        branch=_edge_branch(config.edge_branch),
        captions=build_caption_filter(config.captions),
    )
    if config.context_length is not None and config.context_length > encoder.context_length:
        encoder = stretched(encoder, config.context_length)
    return encoder


def rebuilt(
    encoder: TwoViewEncoder,
    *,
    edges: EdgeDetector | None = None,
    branch: EdgeBranchConfig | None = None,
    captions: CaptionFilter | None = None,
    context_length: int | None = None,
) -> TwoViewEncoder:
    """Return a copy of an encoder, with other parts where they are given; another edge branch starts at random."""
    architecture, tokenizer = encoder.architecture, encoder.tokenizer
    if context_length is not None:
        text = {**architecture["text_cfg"], "context_length": context_length}
        architecture = {**architecture, "text_cfg": text}
        tokenizer = TextTokenizer(architecture)
    copied = TwoViewEncoder(
        copy.deepcopy(encoder.model),
        architecture=architecture,
        preprocessing=encoder.preprocessing,
        edge_detector=edges or encoder.edge_detector,
        caption_filter=captions or encoder.caption_filter,
        tokenizer=tokenizer,
        edge_branch=branch or encoder.edge_branch_config,
        card=encoder.card,
        device=encoder.device,
    )
    if copied.edge_branch_config == encoder.edge_branch_config:
        copied.load_state_dict(encoder.state_dict())
    return copied


def stretched(encoder: TwoViewEncoder, context_length: int) -> TwoViewEncoder:
    """Return the encoder with a longer table of positions, and everything that counts them.

    Raises:
        UnsupportedModelError: If its text tower has no such table.
    """
    kept = min(KEPT_POSITIONS, encoder.context_length - 2)
    ratio = -(-(context_length - kept) // (encoder.context_length - kept))
    stretch_text_tower(encoder.model, context_length=context_length, keep=kept, ratio=ratio)
    return rebuilt(encoder, context_length=context_length)


def zero_unseen_words(encoder: TwoViewEncoder, source: PairSource) -> int:
    """Set the vectors of tokens that no caption of the source uses to zero, and return how many tokens are used.

    They get no gradient and no decay, so that they stay there: a word that training never met counts for nothing,
    instead of for noise.
    """
    captions = (caption for index in range(len(source)) for caption in source.captions(index))
    # Captions share their words, and a token of CLIP's reaches over no space; other tokenizers take the space along.
    is_clips = not encoder.architecture["text_cfg"].get("hf_tokenizer_name")
    texts = {word for caption in captions for word in caption.split()} if is_clips else captions
    used = {0}
    for text in texts:
        used.update(encoder.tokenizer.encode(text).ids.tolist())
    table = _token_table(encoder)
    unseen = torch.ones(len(table), dtype=torch.bool, device=table.device)
    unseen[sorted(used)] = False
    with torch.no_grad():
        table[unseen] = 0
    return len(used)


def words_with_vectors(encoder: TwoViewEncoder) -> list[int]:
    """Return the ids of the tokens whose vectors are not zero."""
    found: list[int] = (_token_table(encoder) != 0).any(dim=1).nonzero()[:, 0].tolist()
    return found


def span_finder(encoder: TwoViewEncoder, chunker: Chunker) -> SpanFinder:
    """Return what finds a text's chunks in its encoded ids.

    Raises:
        TrainingConfigError: If the model's tokenizer is not CLIP's own, whose pieces can be told apart.
    """
    text: dict[str, Any] = encoder.architecture["text_cfg"]
    if text.get("hf_tokenizer_name"):
        raise TrainingConfigError(
            f"loss.local needs the places of words among the tokens, which the tokenizer {text['hf_tokenizer_name']} "
            "does not tell; set loss.local=0 or start from a model with CLIP's own tokenizer"
        )
    return _SpanFinder(encoder.tokenizer, dict(text.get("tokenizer_kwargs") or {}), chunker)


def _token_table(encoder: TwoViewEncoder) -> Tensor:
    model: Any = encoder.model
    table: Tensor = getattr(model, "text", model).token_embedding.weight
    return table


class _SpanFinder:
    def __init__(self, tokenizer: TextTokenizer, options: dict[str, Any], chunker: Chunker) -> None:
        self._length = tokenizer.context_length
        self._pieces = SimpleTokenizer(context_length=self._length, **options)
        self._chunker = chunker

    def __call__(self, text: str, ids: NDArray[np.int64]) -> Spans:
        found = token_spans(self._pieces, text, self._chunker.chunks(text), self._length)
        # Texts that the model's tokenizer changes first (words of hundreds of signs) have other ids.
        return found.spans if np.array_equal(found.ids, ids) else ()


def _scratch_config(config: ModelConfig) -> EncoderConfig:
    architecture = config.architecture
    if config.context_length is not None:
        text = {**architecture["text_cfg"], "context_length": config.context_length}
        architecture = {**architecture, "text_cfg": text}
    try:
        preprocessing = Preprocessing(**_tuples(config.preprocessing))
    except TypeError as error:
        raise TrainingConfigError(f"model.preprocessing: {error}") from error
    return EncoderConfig(
        architecture=architecture,
        preprocessing=preprocessing,
        edges=config.edges,
        edge_branch=_edge_branch(config.edge_branch),
        captions=config.captions,
    )


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def _edge_branch(config: dict[str, Any]) -> EdgeBranchConfig:
    try:
        return EdgeBranchConfig(**config)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(EdgeBranchConfig))
        raise TrainingConfigError(f"model.edge_branch: {error}; it has {known}") from error
