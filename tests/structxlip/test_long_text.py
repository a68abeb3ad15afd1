from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import HFTextEncoder

from structxlip.errors import ModelError, UnsupportedModelError
from structxlip.long_text import TextTooLongError, stretch_positions, stretch_text_tower, stretched_length
from tests.support import tiny_towers
from tests.support.shared_data import shared_path

MODELS: dict[str, Callable[[], Any]] = {
    "CLIP": tiny_towers.clip,
    "CustomTextCLIP": tiny_towers.custom_text_clip,
    "SigLIP-like": tiny_towers.siglip_like,
    "CoCa": tiny_towers.coca,
}


def counted(number: int, width: int = 3) -> torch.Tensor:
    return torch.arange(number, dtype=torch.float64)[:, None].expand(-1, width).clone()


def test_77_positions_become_248() -> None:
    assert stretched_length(77) == 248
    assert stretch_positions(counted(77)).shape == (248, 3)


def test_row_20_plus_m_is_the_old_table_at_20_plus_m_quarters() -> None:
    stretched = stretch_positions(counted(77))
    expected = torch.cat([torch.arange(20.0), 20 + torch.arange(228) / 4]).double()
    torch.testing.assert_close(stretched[:, 0], expected)
    assert not (stretched == 0).all(dim=1)[1:].any()


@given(
    number=st.integers(3, 80),
    data=st.data(),
    ratio=st.integers(1, 8),
    seed=st.integers(0, 9999),
)
def test_every_old_row_is_kept_and_those_between_lie_between(
    number: int, data: st.DataObject, ratio: int, seed: int
) -> None:
    keep = data.draw(st.integers(0, number - 2))
    table = torch.randn(number, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    stretched = stretch_positions(table, keep=keep, ratio=ratio)
    assert torch.equal(stretched[:keep], table[:keep])
    torch.testing.assert_close(stretched[keep::ratio], table[keep:])
    for row in range(keep, number - 1):
        for step in range(ratio):
            share = step / ratio
            between = (1 - share) * table[row] + share * table[row + 1]
            torch.testing.assert_close(stretched[keep + (row - keep) * ratio + step], between)
    assert (stretched.abs().sum(dim=1) > 0).all()


def test_half_precision_tables_stay_in_half_precision() -> None:
    table = counted(77).half()
    torch.testing.assert_close(stretch_positions(table), stretch_positions(table.double()).half())


@pytest.mark.parametrize(("keep", "ratio"), [(76, 4), (-1, 4), (20, 0)])
def test_a_table_without_rows_to_stretch_is_refused(keep: int, ratio: int) -> None:
    with pytest.raises(ValueError, match="got"):
        stretch_positions(counted(77), keep=keep, ratio=ratio)


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_stretched_model_reads_longer_texts(kind: str) -> None:
    model = MODELS[kind]()
    assert stretch_text_tower(model, keep=4, ratio=3) == 4 + 8 * 3
    first, second = tiny_towers.tokens([28, 28], context_length=28)
    second[:20] = first[:20]  # they differ beyond the old length alone
    embeddings = model.encode_text(torch.stack([first, second]))
    assert embeddings.isfinite().all()
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-3
    assert model.context_length == 28
    assert open_clip.model.get_model_tokenize_cfg(model)["context_length"] == 28


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
@torch.no_grad()
def test_texts_within_the_kept_positions_keep_their_embedding(kind: str) -> None:
    model = MODELS[kind]()
    tokens = tiny_towers.tokens([3, 6])
    before = model.encode_text(tokens)
    stretch_text_tower(model, keep=6, ratio=4)
    longer = torch.nn.functional.pad(tokens, (0, model.context_length - 12))
    torch.testing.assert_close(model.encode_text(longer), before)


@torch.no_grad()
def test_the_stretched_tower_stays_causal() -> None:
    model = tiny_towers.clip()
    stretch_text_tower(model, keep=4)
    seen: list[torch.Tensor] = []
    model.ln_final.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    tokens = tiny_towers.tokens([30, 30], context_length=36)
    tokens[1, :20] = tokens[0, :20]
    model.encode_text(tokens)
    torch.testing.assert_close(seen[0][0, :20], seen[0][1, :20])
    assert (seen[0][0, 20:30] - seen[0][1, 20:30]).abs().amax(dim=1).min() > 1e-3


@torch.no_grad()
def test_the_class_token_keeps_its_position() -> None:
    model = tiny_towers.coca()
    before = model.text.positional_embedding.clone()
    stretch_text_tower(model, keep=4, ratio=2)
    after = model.text.positional_embedding
    assert after.shape == (4 + 8 * 2 + 1, 24)
    assert torch.equal(after[-1], before[-1])
    assert torch.equal(after[:4], before[:4])
    assert model.text_decoder.attn_mask.shape == (20, 20)


def test_a_context_length_below_what_the_ratio_gives_cuts_the_table() -> None:
    model, whole = tiny_towers.clip(), tiny_towers.clip()
    assert stretch_text_tower(model, keep=4, ratio=4, context_length=20) == 20
    stretch_text_tower(whole, keep=4, ratio=4)
    assert torch.equal(model.positional_embedding, whole.positional_embedding[:20])
    assert model.attn_mask.shape == (20, 20)


def test_a_longer_context_than_the_ratio_gives_is_refused_and_the_ratio_named() -> None:
    model = tiny_towers.clip()
    with pytest.raises(TextTooLongError, match=r"100 .* 36 .*ratio to 12"):
        stretch_text_tower(model, keep=4, ratio=4, context_length=100)
    assert model.context_length == 12
    assert stretch_text_tower(model, keep=4, ratio=12, context_length=100) == 100


def test_a_shorter_context_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer"):
        stretch_text_tower(tiny_towers.clip(), keep=4, context_length=11)


def test_the_tokenizer_is_stretched_with_its_model() -> None:
    model, tokenizer = tiny_towers.clip(text={"context_length": 77}), open_clip.SimpleTokenizer()
    stretch_text_tower(model, tokenizer=tokenizer)
    assert tokenizer("a house " * 200).shape == (1, 248)


@torch.no_grad()
def test_a_trained_model_reads_248_tokens_and_short_captions_as_before() -> None:
    folder = shared_path("weights/photo-base")
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    short, long = "a dog runs along the beach", "a dog runs along the beach near a wooden pier " * 20
    before = model.encode_text(tokenizer([short]))
    assert stretch_text_tower(model, tokenizer=tokenizer) == 248
    torch.testing.assert_close(model.encode_text(tokenizer([short])), before, rtol=1e-4, atol=1e-5)
    tokens = tokenizer([long])
    assert tokens.count_nonzero() > 200
    assert model.encode_text(tokens).isfinite().all()


def test_a_frozen_table_stays_frozen_and_a_trained_one_is_trained() -> None:
    for is_trained in (False, True):
        model = tiny_towers.clip()
        model.positional_embedding.requires_grad_(is_trained)
        stretch_text_tower(model, keep=4)
        assert model.positional_embedding.requires_grad == is_trained
        assert "positional_embedding" in dict(model.named_parameters())
    model.encode_text(tiny_towers.tokens([30], context_length=36)).sum().backward()
    assert (model.positional_embedding.grad[:30].abs().sum(dim=1) > 0).all()


def test_the_weights_of_a_stretched_model_load_into_another() -> None:
    model, other = tiny_towers.clip(), tiny_towers.clip()
    with torch.no_grad():
        model.positional_embedding.add_(1)
    for part in (model, other):
        stretch_text_tower(part, keep=4)
    other.load_state_dict(model.state_dict())
    tokens = tiny_towers.tokens([30], context_length=36)
    assert torch.equal(other.encode_text(tokens), model.encode_text(tokens))


def test_a_tower_without_a_table_is_refused_with_advice() -> None:
    with pytest.raises(UnsupportedModelError, match=r"TowerWithoutTable.*own context length"):
        stretch_text_tower(tiny_towers.without_table())
    assert issubclass(UnsupportedModelError, ModelError)


def test_a_hugging_face_tower_is_refused_with_advice() -> None:
    model = tiny_towers.custom_text_clip()
    tower = HFTextEncoder.__new__(HFTextEncoder)  # its own constructor wants to fetch a model
    torch.nn.Module.__init__(tower)
    tower.config = SimpleNamespace(max_position_embeddings=512)
    model.text = tower
    with pytest.raises(UnsupportedModelError, match="HFTextEncoder"):
        stretch_text_tower(model)
