from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from structxlip.edge_branch import EdgeBranchConfig, EdgeCNN, build_edge_branch
from structxlip.errors import ConfigError


def edge_maps(count: int = 3, side: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(255 * (rng.random((count, side, side)) < 0.1).astype(np.uint8))


@pytest.fixture
def branch() -> EdgeCNN:
    torch.manual_seed(0)
    return EdgeCNN(48)


@pytest.mark.parametrize("side", [32, 64, 97, 224])
def test_maps_of_any_size_become_unit_vectors(branch: EdgeCNN, side: int) -> None:
    embeddings = branch(edge_maps(side=side))
    assert embeddings.shape == (3, 48)
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))


def test_a_map_without_a_line_still_becomes_a_finite_unit_vector(branch: EdgeCNN) -> None:
    embedding = branch(torch.zeros(1, 64, 64, dtype=torch.uint8))
    torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(1))


def test_a_map_embeds_alike_alone_and_in_a_batch_in_training_and_in_serving(branch: EdgeCNN) -> None:
    maps = edge_maps()
    together = branch.train()(maps)
    alone = torch.cat([branch.eval()(one[None]) for one in maps])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_bytes_and_floats_from_0_to_1_mean_the_same(branch: EdgeCNN) -> None:
    maps = edge_maps()
    torch.testing.assert_close(branch(maps), branch(maps.float() / 255))


def test_it_knows_where_a_line_is(branch: EdgeCNN) -> None:
    maps = torch.zeros(2, 64, 64, dtype=torch.uint8)
    maps[0, :, 8], maps[1, :, 56] = 255, 255
    left, right = branch(maps)
    assert left @ right < 0.999


def test_gradients_reach_every_weight(branch: EdgeCNN) -> None:
    target = torch.nn.functional.normalize(torch.randn(3, 48), dim=-1)
    (1 - (branch(edge_maps()) * target).sum(-1)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in branch.parameters())


def test_the_shared_branch_has_no_network_of_its_own() -> None:
    assert build_edge_branch(EdgeBranchConfig(), dimension=8) is None
    branch = build_edge_branch(EdgeBranchConfig(kind="cnn", width=16, features=24, grid=2), dimension=8)
    assert isinstance(branch, EdgeCNN)
    assert branch.projection.weight.shape == (8, 24 * 2 * 2)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kind": "vit"}, "unknown edge branch 'vit'; known: shared, cnn"),
        ({"kind": "cnn", "width": 12}, "multiple of 8"),
        ({"kind": "cnn", "grid": 0}, "grid must be at least 1"),
        ({"kind": "cnn", "features": 20}, "features must be a multiple of 8"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EdgeBranchConfig(**config)
