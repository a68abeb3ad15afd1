from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.builders import tiny_config
from training.config import FreezingConfig, OptimiserConfig
from training.freezing import freeze, layer_depths, set_training
from training.loop import Run, prepare
from training.optimisation import MovingAverage, learning_rate, trained_parameters


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
