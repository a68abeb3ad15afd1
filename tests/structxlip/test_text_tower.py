from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from structxlip.architecture import build_model
from structxlip.models import load_encoder
from structxlip.text_tower import TextTower
from structxlip.tokenizer import TextTokenizer
from tests.support.shared_data import shared_path
from tests.support.tiny_open_clip import tiny_architecture

TEXTS = ["", "a dog", "two round tables left of a window, and a lamp with a square shade", "stool " * 100]


def variant(**changes: Any) -> dict[str, Any]:
    architecture = tiny_architecture()
    text = changes.pop("text_cfg", {})
    return architecture | changes | {"text_cfg": architecture["text_cfg"] | text}


COCA = variant(
    custom_text=True,
    multimodal_cfg={"context_length": 76, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    text_cfg={"context_length": 76, "embed_cls": True, "output_tokens": True},
)
COCA["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}

CAUSAL = {
    "CLIP": variant(),
    "CLIP, pooled at the end token's id": variant(text_cfg={"pool_type": "eos", "eos_id": 49407}),
    "CLIP with a biased projection": variant(text_cfg={"proj_bias": True}),
    "CLIP with 248 positions": variant(text_cfg={"context_length": 248}),
    "a text tower of its own": variant(custom_text=True),
}
NOT_CUTTABLE = {
    "without causal mask": variant(custom_text=True, text_cfg={"no_causal_mask": True}),
    "pooled at the last position": variant(text_cfg={"pool_type": "last"}),
    "CoCa": COCA,
}


def make(architecture: dict[str, Any]) -> tuple[Any, TextTower, TextTokenizer]:
    torch.manual_seed(0)
    model = build_model(architecture).eval()
    return model, TextTower(model), TextTokenizer(architecture)


@pytest.mark.parametrize("architecture", CAUSAL.values(), ids=CAUSAL)
def test_a_batch_cut_to_its_longest_text_embeds_as_the_padded_one_where_the_tower_is_causal(
    architecture: dict[str, Any],
) -> None:
    model, tower, tokenizer = make(architecture)
    rows = [tokenizer.encode(text).ids for text in TEXTS]
    padded = model.encode_text(tokenizer.pad(rows, length=tokenizer.context_length))
    assert tower.is_cuttable
    torch.testing.assert_close(tower.embed(tokenizer.pad(rows)), padded, rtol=1e-5, atol=1e-6)
    for row, expected in zip(rows, padded, strict=True):
        torch.testing.assert_close(tower.embed(tokenizer.pad([row]))[0], expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_cut_batch_are_those_of_the_padded_one() -> None:
    model, tower, tokenizer = make(tiny_architecture())
    rows = [tokenizer.encode(text).ids for text in TEXTS[:3]]
    weight = model.transformer.resblocks[0].mlp.c_fc.weight
    (cut,) = torch.autograd.grad(tower.embed(tokenizer.pad(rows)).square().sum(), weight)
    (padded,) = torch.autograd.grad(model.encode_text(tokenizer.pad(rows, length=77)).square().sum(), weight)
    torch.testing.assert_close(cut, padded, rtol=1e-4, atol=1e-5)
    assert cut.abs().max() > 0


@pytest.mark.parametrize("architecture", NOT_CUTTABLE.values(), ids=NOT_CUTTABLE)
def test_other_towers_are_told_apart_and_get_every_position(architecture: dict[str, Any]) -> None:
    model, tower, tokenizer = make(architecture)
    tokens = tokenizer.pad([tokenizer.encode(text).ids for text in TEXTS], length=tokenizer.context_length)
    assert not tower.is_cuttable
    torch.testing.assert_close(tower.embed(tokens), model.encode_text(tokens))


def test_features_by_token_lead_to_the_embedding() -> None:
    _, tower, tokenizer = make(tiny_architecture())
    tokens = tokenizer.pad([tokenizer.encode(text).ids for text in TEXTS[:3]])
    features = tower.token_features(tokens)
    assert features.shape == (*tokens.shape, 64)
    torch.testing.assert_close(tower.pool(features, tokens), tower.embed(tokens))


def test_a_real_models_texts_embed_as_open_clip_itself_embeds_them() -> None:
    folder = shared_path("weights/photo-mini")
    name = f"local-dir:{folder}"
    encoder = load_encoder(name, device="cpu")
    model, tokenizer = open_clip.create_model(name).eval(), open_clip.get_tokenizer(name)
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
    found = encoder.encode_texts([encoder.prepare_text(text) for text in TEXTS]).appearance
    np.testing.assert_allclose(found, expected, atol=2e-6)
    one = encoder.encode_texts([encoder.prepare_text(TEXTS[1])]).appearance
    np.testing.assert_allclose(one, expected[1:2], atol=2e-6)


def test_it_owns_no_weights_of_its_own(tmp_path: Path) -> None:
    model, tower, tokenizer = make(tiny_architecture())
    before = tower.embed(tokenizer.pad([tokenizer.encode("a dog").ids]))
    with torch.no_grad():
        model.text_projection.mul_(2)
    torch.testing.assert_close(tower.embed(tokenizer.pad([tokenizer.encode("a dog").ids])), 2 * before)
