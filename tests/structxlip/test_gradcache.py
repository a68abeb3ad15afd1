from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from structxlip.gradcache import gradcache_step
from structxlip.losses import (
    LogitScale,
    LossTerms,
    LossWeights,
    combine,
    consistency_loss,
    local_alignment_loss,
    masked_contrastive_loss,
)

Batch = dict[str, Tensor]
NUM_PAIRS, NUM_CHUNKS, NUM_REGIONS = 8, 2, 3


class Towers(nn.Module):
    """Stands for a model with every embedding that the losses take."""

    def __init__(self, *, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(12) if batch_norm else nn.LayerNorm(12)
        self.image = nn.Sequential(nn.Linear(6, 12), norm, nn.GELU(), nn.Dropout(dropout), nn.Linear(12, 5))
        self.text = nn.Sequential(nn.Linear(4, 12), nn.GELU(), nn.Dropout(dropout), nn.Linear(12, 5))
        self.frozen = nn.Linear(6, 5).requires_grad_(False)

    def forward(self, batch: Batch) -> Batch:
        return {
            "image": self.image(batch["image"]),
            "edges": self.image(batch["image"].abs()),
            "text": self.text(batch["text"]),
            "structural_text": self.text(batch["text"].round()),
            "chunks": self.text(batch["chunks"]).flatten(0, 1),
            "regions": self.image(batch["regions"].flatten(0, 1)).unflatten(0, (-1, NUM_REGIONS)),
            "frozen": self.frozen(batch["image"]),
            "valid": batch["valid"],
        }


class AllLosses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.local_scale = LogitScale(10.0), LogitScale(5.0)

    def forward(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        image, text, edges, valid = (embeddings[name] for name in ("image", "text", "edges", "valid"))
        owners = torch.arange(len(image)).repeat_interleave(NUM_CHUNKS)
        mask = valid[:, None].expand(-1, NUM_REGIONS)
        terms = LossTerms(
            contrastive=masked_contrastive_loss(
                image, text, logit_scale=self.scale(), hard_negative_margin=0.5, margin_features=text
            ),
            structure=masked_contrastive_loss(
                edges,
                embeddings["structural_text"],
                logit_scale=self.scale().detach(),
                valid_B=valid,
            ),
            consistency=consistency_loss(image, edges, valid),
            local=local_alignment_loss(
                embeddings["chunks"], owners, embeddings["regions"], mask, scale=self.local_scale()
            ),
        )
        frozen = consistency_loss(embeddings["frozen"], image, stop_gradient=False)
        return combine(terms, LossWeights(1.0, 0.5, 0.5, 0.5)) + 0.1 * frozen


def whole_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(NUM_PAIRS, 6, generator=generator),
        "text": torch.randn(NUM_PAIRS, 4, generator=generator),
        "chunks": torch.randn(NUM_PAIRS, NUM_CHUNKS, 4, generator=generator),
        "regions": torch.randn(NUM_PAIRS, NUM_REGIONS, 6, generator=generator),
        "valid": torch.tensor([True, False, True, True, False, True, True, True]),
    }


def pieces(batch: Batch, sizes: list[int]) -> list[Batch]:
    split = {name: tensor.split(sizes) for name, tensor in batch.items()}
    return [{name: parts[index] for name, parts in split.items()} for index in range(len(sizes))]


def gradients(*modules: nn.Module) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": parameter.grad.clone()
        for index, module in enumerate(modules)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def clear(*modules: nn.Module) -> None:
    for module in modules:
        module.zero_grad(set_to_none=True)


def with_step(
    model: Towers, losses: AllLosses, sizes: list[int], encode: Callable[[Batch], Any] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    clear(model, losses)
    value = gradcache_step(model, pieces(whole_batch(), sizes), encode=encode or model, loss=losses)
    return value, gradients(model, losses)


@pytest.mark.parametrize("sizes", [[8], [4, 4], [3, 3, 2], [1] * 8])
def test_a_step_in_pieces_has_the_loss_and_gradients_of_the_whole_batch(sizes: list[int]) -> None:
    torch.manual_seed(0)
    model, losses = Towers(), AllLosses()
    whole = losses(model(whole_batch()))
    whole.backward()
    expected = gradients(model, losses)
    value, found = with_step(model, losses, sizes)
    torch.testing.assert_close(value, whole.detach(), rtol=0, atol=1e-5)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert all(gradient.abs().max() > 0 for gradient in found.values())


def test_dropout_is_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    model, losses = Towers(dropout=0.5), AllLosses()
    torch.manual_seed(7)
    embeddings = [model(piece) for piece in pieces(whole_batch(), [4, 4])]
    whole = losses({name: torch.cat([part[name] for part in embeddings]) for name in embeddings[0]})
    whole.backward()
    expected = gradients(model, losses)
    torch.manual_seed(7)
    value, found = with_step(model, losses, [4, 4])
    torch.testing.assert_close(value, whole.detach())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_two_steps_draw_different_dropout() -> None:
    torch.manual_seed(0)
    model, losses = Towers(dropout=0.5), AllLosses()
    assert with_step(model, losses, [4, 4])[0] != with_step(model, losses, [4, 4])[0]


def test_gradients_add_to_those_that_are_there() -> None:
    torch.manual_seed(0)
    model, losses = Towers(), AllLosses()
    _, once = with_step(model, losses, [4, 4])
    gradcache_step(model, pieces(whole_batch(), [4, 4]), encode=model, loss=losses)
    torch.testing.assert_close(gradients(model, losses), {name: 2 * grad for name, grad in once.items()})


def test_running_statistics_move_once() -> None:
    torch.manual_seed(0)
    model, losses = Towers(batch_norm=True), AllLosses()
    once = copy.deepcopy(model)
    for piece in pieces(whole_batch(), [4, 4]):
        once(piece)
    with_step(model, losses, [4, 4])
    assert dict(model.named_buffers()).keys()
    torch.testing.assert_close(dict(model.named_buffers()), dict(once.named_buffers()))


@pytest.mark.parametrize("is_around_the_step", [True, False])
def test_autocast_gives_the_gradients_of_the_whole_batch_under_autocast(is_around_the_step: bool) -> None:
    torch.manual_seed(0)
    model, losses = Towers(), AllLosses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = losses(model(whole_batch()))
    whole.backward()
    expected = gradients(model, losses)

    def encode_in_bfloat16(batch: Batch) -> Batch:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeddings: Batch = model(batch)
            return embeddings

    if is_around_the_step:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, found = with_step(model, losses, [4, 4])
    else:
        value, found = with_step(model, losses, [4, 4], encode_in_bfloat16)
    torch.testing.assert_close(value, whole.detach(), rtol=1e-5, atol=0)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # bfloat16 has three digits, and the pieces' gradients are rounded before they are summed.
        assert (found[name] - gradient).norm() <= 0.05 * gradient.norm()


def test_one_micro_batch_at_a_time_has_a_graph() -> None:
    model, losses = Towers(), AllLosses()
    with_graph: list[bool] = []

    def encode(batch: Batch) -> Batch:
        embeddings: Batch = model(batch)
        with_graph.append(embeddings["image"].requires_grad)
        return embeddings

    with_step(model, losses, [4, 4], encode)
    assert with_graph == [False, False, True, True]


def test_no_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        gradcache_step(Towers(), [], encode=lambda batch: batch, loss=AllLosses())


def test_pieces_with_different_names_are_refused() -> None:
    named = [{"image": torch.ones(1, 2)}, {"text": torch.ones(1, 2)}]
    with pytest.raises(ValueError, match="text"):
        gradcache_step(nn.Module(), named, encode=lambda batch: batch, loss=AllLosses())
