from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.builders import tiny_config
from training.config import FreezingConfig, OptimiserConfig
from training.freezing import freeze, layer_depths, set_training
from training.loop import Run, prepare
from training.muon import MuonInFloat32, is_hidden_matrix
from training.optimisation import (
    MovingAverage,
    NamedParameter,
    build_optimiser,
    learning_rate,
    trained_parameters,
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return prepare(tiny_config(tmp_path, model__edge_branch={"kind": "cnn", "width": 8, "grid": 2}))


def test_nothing_but_matrices_decays(run: Run) -> None:
    decays = {known.name: known.decays for known in run.parameters}
    assert decays["model.visual.transformer.resblocks.0.mlp.c_fc.weight"]
    assert decays["edge_branch.projection.weight"]
    for name in (
        "model.visual.transformer.resblocks.0.mlp.c_fc.bias",
        "model.visual.ln_pre.weight",
        "model.visual.positional_embedding",
        "model.visual.class_embedding",
        "model.positional_embedding",
        "model.token_embedding.weight",
        "model.logit_scale",
        "local_scale.log_scale",
        "edge_branch.stem.1.weight",
    ):
        assert not decays[name], name


def test_every_parameter_is_in_one_group(run: Run) -> None:
    grouped = [id(p) for group in run.learner.optimiser.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(known.parameter) for known in run.parameters)
    assert len(set(grouped)) == len(grouped)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_moves(tmp_path: Path, kind: str) -> None:
    branch = {"kind": "cnn", "width": 8, "grid": 2}
    run = prepare(tiny_config(tmp_path, model__edge_branch=branch, optimiser__kind=kind, optimiser__weight_decay=0.0))
    before = {known.name: known.parameter.detach().clone() for known in run.parameters}
    for known in run.parameters:
        known.parameter.grad = torch.randn_like(known.parameter)
    run.learner.optimiser.step()
    for known in run.parameters:
        assert (known.parameter != before[known.name]).float().mean() > 0.9, known.name
    run.learner.optimiser.zero_grad(set_to_none=True)
    assert all(known.parameter.grad is None for known in run.parameters)


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_muon_steps_along_a_gradient_whose_directions_all_count_alike(is_channels_last: bool) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(16, 12, 3, 3))
    if is_channels_last:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    optimiser = build_optimiser(
        [NamedParameter("model.conv", weight, lr_factor=0.5, decays=True)],
        OptimiserConfig(kind="muon", lr=0.1, matrix_lr_factor=2.0),
    )
    # Singular values that lie far apart: 1, 1/2, 1/4 …
    left, right = (torch.linalg.qr(torch.randn(size, 16))[0] for size in (16, 108))
    grad = left @ torch.diag(0.5 ** torch.arange(16)) @ right.T
    weight.grad = grad.view(16, 12, 3, 3).contiguous(memory_format=torch.preserve_format)
    optimiser.step()
    moved = weight.detach().reshape(16, 108)
    expected = -0.1 * 0.2 * 108**0.5 * left @ right.T
    # Five rounds of Newton and Schulz leave the six largest singular values between 0.7 and 1.2; smaller ones less.
    along = torch.diagonal(left.T @ moved @ right) / torch.diagonal(left.T @ expected @ right)
    assert along[:6].min() > 0.6
    assert along.max() < 1.3
    assert weight.is_contiguous(memory_format=torch.channels_last) == is_channels_last


def test_muon_in_float32_steps_as_torchs_own_does_in_bfloat16() -> None:
    torch.manual_seed(0)
    shapes = [(24, 40), (40, 24), (16, 16)]
    moved: list[list[torch.Tensor]] = []
    for kind in (torch.optim.Muon, MuonInFloat32):
        chance = torch.Generator().manual_seed(1)
        matrices = [torch.nn.Parameter(torch.randn(shape, generator=chance)) for shape in shapes]
        optimiser = kind(matrices, lr=0.05, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=chance)
            optimiser.step()
        moved.append([matrix.detach() for matrix in matrices])
        assert all("momentum_buffer" in optimiser.state[matrix] for matrix in matrices)
    chance = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=chance) for shape in shapes]
    for by_torch, by_us, before in zip(*moved, start, strict=True):
        assert (by_us - by_torch).norm() < 0.02 * (by_torch - before).norm()
        assert (by_torch - before).norm() > 0.1


def test_muon_moves_matrices_between_features_and_nothing_else(tmp_path: Path) -> None:
    branch = {"kind": "cnn", "width": 8, "grid": 2}
    run = prepare(tiny_config(tmp_path, model__edge_branch=branch, optimiser__kind="muon"))
    hidden = {known.name for known in run.parameters if is_hidden_matrix(known.name, known.parameter)}
    assert {
        "model.visual.transformer.resblocks.0.attn.in_proj_weight",
        "model.transformer.resblocks.1.mlp.c_proj.weight",
        "edge_branch.stages.0.conv1.weight",
        "edge_branch.projection.weight",
    } <= hidden
    for name in (
        "model.visual.conv1.weight",
        "model.visual.positional_embedding",
        "model.token_embedding.weight",
        "edge_branch.stem.0.weight",
        "model.logit_scale",
    ):
        assert name not in hidden
        assert name in {known.name for known in run.parameters}


def test_the_rate_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    config = OptimiserConfig(lr=1.0, warmup=0.1, final_lr=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
    assert 0.1 <= rates[-1] < 0.102


def test_layers_further_from_the_output_learn_more_slowly(run: Run) -> None:
    config = OptimiserConfig(layer_decay=0.5, edge_lr_factor=3, text_lr_factor=0.1)
    factors = {
        known.name: known.lr_factor
        for known in trained_parameters(run.learner.encoder, run.learner.local_scale, config)
    }
    assert factors["model.visual.proj"] == 1
    assert factors["model.visual.transformer.resblocks.1.mlp.c_fc.weight"] == 0.5
    assert factors["model.visual.transformer.resblocks.0.mlp.c_fc.weight"] == 0.25
    assert factors["model.visual.conv1.weight"] == 0.125
    assert factors["model.transformer.resblocks.1.mlp.c_fc.weight"] == pytest.approx(0.05)
    assert factors["model.logit_scale"] == 1
    assert factors["edge_branch.projection.weight"] == 3


@pytest.mark.parametrize(
    ("config", "trained", "frozen"),
    [
        (
            FreezingConfig(mode="backbone"),
            ["visual.proj", "text_projection", "logit_scale"],
            ["visual.transformer.resblocks.1.mlp.c_fc.weight", "token_embedding.weight"],
        ),
        (
            FreezingConfig(mode="towers", last_layers=1),
            ["visual.transformer.resblocks.1.mlp.c_fc.weight", "transformer.resblocks.1.mlp.c_fc.weight"],
            ["visual.transformer.resblocks.0.mlp.c_fc.weight", "positional_embedding", "visual.conv1.weight"],
        ),
        (
            FreezingConfig(mode="towers", last_layers=0, train_text=True),
            ["token_embedding.weight", "positional_embedding"],
            ["visual.transformer.resblocks.1.mlp.c_fc.weight"],
        ),
    ],
    ids=["backbone", "last layer", "text"],
)
def test_freezing_keeps_what_it_says(run: Run, config: FreezingConfig, trained: list[str], frozen: list[str]) -> None:
    freeze(run.learner.encoder, config)
    learns = {name: p.requires_grad for name, p in run.learner.encoder.model.named_parameters()}
    assert all(learns[name] for name in trained)
    assert not any(learns[name] for name in frozen)


def test_layers_of_a_timm_tower_are_known() -> None:
    from structxlip.architecture import build_model
    from tests.support.tiny_open_clip import tiny_architecture

    architecture = tiny_architecture()
    architecture["vision_cfg"] = {
        "image_size": 64,
        "timm_model_name": "mobilenetv2_050",
        "timm_pool": "avg",
        "timm_proj": "linear",
    }
    depths = layer_depths(build_model(architecture))
    assert depths["visual.head.proj.weight"] == 0
    assert depths["visual.trunk.conv_head.weight"] == 0
    assert depths["visual.trunk.blocks.6.0.conv_pw.weight"] == 1
    assert depths["visual.trunk.blocks.0.0.conv_dw.weight"] == 7
    assert depths["visual.trunk.conv_stem.weight"] == 8


def test_a_frozen_normalisation_keeps_its_statistics() -> None:
    from structxlip.edge_branch import EdgeBranchConfig
    from tests.training.test_frozen import mobilenet_encoder

    encoder = mobilenet_encoder(EdgeBranchConfig())
    freeze(encoder, FreezingConfig(mode="towers", last_layers=1))
    set_training(encoder, True)
    trunk = encoder.model.visual.trunk  # type: ignore[union-attr]
    before = trunk.bn1.running_mean.clone(), trunk.blocks[6][0].bn1.running_mean.clone()  # type: ignore[union-attr, index, operator]
    encoder.embed_pixels(torch.randn(4, 3, 64, 64))
    assert torch.equal(trunk.bn1.running_mean, before[0])  # type: ignore[union-attr, arg-type]
    assert not torch.equal(trunk.blocks[6][0].bn1.running_mean, before[1])  # type: ignore[union-attr, index, arg-type]


def test_batch_normalisations_of_a_pretrained_tower_can_keep_their_statistics() -> None:
    from structxlip.edge_branch import EdgeBranchConfig
    from tests.training.test_frozen import mobilenet_encoder

    encoder = mobilenet_encoder(EdgeBranchConfig())
    images = torch.randn(4, 3, 64, 64)
    before = {name: buffer.clone() for name, buffer in encoder.model.named_buffers()}
    expected = encoder.embed_pixels(images)
    set_training(encoder, True, keeps_statistics=True)
    torch.testing.assert_close(encoder.embed_pixels(images), expected)
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.model.named_buffers())
    set_training(encoder, True)
    assert not torch.allclose(encoder.embed_pixels(images), expected, atol=1e-3)


def test_the_moving_average_follows_its_formula(run: Run) -> None:
    encoder = run.learner.encoder
    average = MovingAverage(encoder, decay=0.9)
    scale: torch.nn.Parameter = encoder.model.logit_scale  # type: ignore[assignment]
    expected = float(scale.detach())
    for number in range(1, 30):
        with torch.no_grad():
            scale.add_(0.1)
        average.update()
        keep = min(0.9, (1 + number) / (10 + number))
        expected = keep * expected + (1 - keep) * float(scale.detach())
    assert float(average.state_dict()["model.logit_scale"]) == pytest.approx(expected, rel=1e-5)


def test_without_a_decay_the_weights_themselves_are_used(run: Run) -> None:
    average = MovingAverage(run.learner.encoder, decay=0)
    average.update()
    assert float(average.state_dict()["model.logit_scale"]) == float(run.learner.encoder.model.logit_scale.detach())  # type: ignore[operator, union-attr, arg-type]
