from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from structxlip.architecture import build_model
from structxlip.pooling import TextChunks, pool_chunks, text_tower_hidden_states
from structxlip.text_tower import TextTower
from structxlip.tokenizer import TextTokenizer
from tests.support.tiny_open_clip import tiny_architecture
from tests.training.builders import tiny_config
from training.config import FreezingConfig
from training.freezing import freeze, num_frozen_text_layers
from training.loop import add_gradients, epoch_batches, prepare
from training.objective import weight_schedule
from training.texts import PackedTower, is_packable

FULL = ["a red house", "two boats by the old bridge, under a grey sky", "tree", "a dog left of a small cat", "hi"]
STRUCTURAL = ["a house", "two boats by the bridge, under a sky", "tree", "a dog left of a small cat", ""]


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return build_model(tiny_architecture())


@pytest.fixture
def sets() -> list[Tensor]:
    tokenizer = TextTokenizer(tiny_architecture())
    return [tokenizer.pad([tokenizer.encode(text).ids for text in texts]) for texts in (FULL, STRUCTURAL)]


def chunks_of_structural() -> TextChunks:
    owner, start, end = torch.tensor([[0, 1, 2], [1, 1, 4], [1, 5, 9], [3, 2, 5], [-1, 0, 1]]).unbind(1)
    return TextChunks(owner, start, end, 4)


@pytest.mark.parametrize("num_groups", [1, 2, 5, 30])
def test_packed_texts_have_the_embeddings_and_chunks_of_one_padded_pass(
    model: Any, sets: list[Tensor], num_groups: int
) -> None:
    chunks = chunks_of_structural()
    found = PackedTower(model, num_groups=num_groups)(sets, chunks=chunks, chunked_set=1)
    for embedding, tokens in zip(found.embeddings, sets, strict=True):
        torch.testing.assert_close(embedding, TextTower(model).embed(tokens), atol=1e-5, rtol=1e-4)
    expected = pool_chunks(text_tower_hidden_states(model, sets[1]).hidden, chunks)
    assert found.chunks is not None
    torch.testing.assert_close(found.chunks[:4], expected[:4], atol=1e-5, rtol=1e-4)


def test_packed_texts_send_back_the_gradients_of_one_padded_pass(model: Any, sets: list[Tensor]) -> None:
    weights = [torch.randn(len(FULL), 32, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]

    def gradients(embeddings: Any) -> dict[str, Tensor]:
        model.zero_grad()
        sum((e * w).sum() for e, w in zip(embeddings, weights, strict=True)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    padded = gradients([TextTower(model).embed(tokens) for tokens in sets])
    packed = gradients(PackedTower(model, num_groups=2)(sets).embeddings)
    assert padded.keys() == packed.keys()
    for name, gradient in padded.items():
        scale = float(gradient.abs().max()) + 1e-6  # fresh embeddings are small, so that some gradients are large
        torch.testing.assert_close(packed[name] / scale, gradient / scale, atol=1e-4, rtol=1e-4, msg=name)


def test_the_frozen_layers_of_a_text_run_once_and_are_shared_between_models(model: Any, sets: list[Tensor]) -> None:
    packed = PackedTower(model, num_frozen=1)
    expected = [TextTower(model).embed(tokens) for tokens in sets]
    for _ in range(2):
        for embedding, known in zip(packed(sets).embeddings, expected, strict=True):
            torch.testing.assert_close(embedding, known, atol=2e-3, rtol=2e-3)
    with torch.no_grad():
        model.transformer.resblocks[0].mlp[0].weight.zero_()
    for embedding, known in zip(packed.of(model)(sets).embeddings, expected, strict=True):
        torch.testing.assert_close(embedding, known, atol=2e-3, rtol=2e-3)


def test_only_a_causal_tower_of_known_layers_is_packed(model: Any) -> None:
    assert is_packable(model)
    model.attn_mask = None
    assert not is_packable(model)


@pytest.mark.parametrize(
    ("freezing", "expected"),
    [
        (FreezingConfig(), 0),
        (FreezingConfig("towers", 1), 1),
        (FreezingConfig("towers", 0, text_layers=2), 0),
        (FreezingConfig("towers", 2, text_layers=0), 2),
        (FreezingConfig("towers", 1, train_text=True), 0),
        (FreezingConfig("backbone"), 2),
    ],
)
def test_frozen_text_layers_are_counted_up_to_the_first_that_learns(
    tmp_path: Path, freezing: FreezingConfig, expected: int
) -> None:
    encoder = prepare(tiny_config(tmp_path)).learner.encoder
    freeze(encoder, freezing)
    assert num_frozen_text_layers(encoder.model) == expected


def test_a_step_has_the_same_losses_and_gradients_packed_or_padded(tmp_path: Path) -> None:
    found = []
    for name, packs in (("padded", False), ("packed", True)):
        run = prepare(tiny_config(tmp_path / name, regime__pack_texts=packs))
        assert (run.extract.packed is not None) is packs
        batches = next(epoch_batches(run))
        loss, _ = add_gradients(run, batches, weight_schedule(run.config.loss).at(0))
        found.append((loss, [p.parameter.grad for p in run.parameters]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for padded, packed in zip(found[0][1], found[1][1], strict=True):
        assert padded is not None
        assert packed is not None
        scale = float(padded.abs().max()) + 1e-6
        torch.testing.assert_close(packed / scale, padded / scale, atol=1e-3, rtol=1e-3)
