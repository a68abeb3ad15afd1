from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from structxlip.captions import LexiconFilter
from structxlip.checkpoint import EncoderConfig, build_encoder
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import PercentileCanny
from structxlip.encoder import TwoViewEncoder
from structxlip.errors import UnsupportedModelError
from structxlip.preprocessing import Preprocessing
from tests.support.tiny_open_clip import tiny_architecture
from tests.training.builders import TINY_PREPROCESSING, tiny_config
from training.config import AugmentationConfig, FreezingConfig
from training.freezing import num_frozen_layers
from training.frozen import keep_features, split_image_tower
from training.loop import epoch_batches, prepare, train


def mobilenet_encoder(branch: EdgeBranchConfig, name: str = "mobilenetv2_050") -> TwoViewEncoder:
    architecture = tiny_architecture()
    architecture["vision_cfg"] = {
        "image_size": 64,
        "timm_model_name": name,
        "timm_pool": "avg",
        "timm_proj": "linear",
    }
    torch.manual_seed(0)
    fields: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in TINY_PREPROCESSING.items()}
    return build_encoder(
        EncoderConfig(
            architecture=architecture,
            preprocessing=Preprocessing(**fields),
            edges=PercentileCanny().config(),
            edge_branch=branch,
            captions=LexiconFilter().config(),
        )
    )


@pytest.mark.parametrize("num_frozen", [0, 3, 7])
def test_both_parts_of_an_efficientnet_make_the_whole(num_frozen: int) -> None:
    encoder = mobilenet_encoder(EdgeBranchConfig())
    images = torch.randn(3, 3, 64, 64)
    split = split_image_tower(encoder.model, num_frozen)
    with torch.no_grad():
        rest: Any = split.rest
        torch.testing.assert_close(rest.encode_image(split.frozen(images)), encoder.model.encode_image(images))  # type: ignore[operator]


@pytest.mark.parametrize("num_frozen", [0, 1, 2])
def test_both_parts_of_a_transformer_make_the_whole(tmp_path: Path, num_frozen: int) -> None:
    model: Any = prepare(tiny_config(tmp_path)).learner.encoder.model
    images = torch.randn(3, 3, 64, 64)
    split = split_image_tower(model, num_frozen)
    with torch.no_grad():
        rest: Any = split.rest
        torch.testing.assert_close(rest.encode_image(split.frozen(images)), model.encode_image(images))


def test_the_rest_shares_its_weights_with_the_model() -> None:
    model: Any = mobilenet_encoder(EdgeBranchConfig()).model
    rest: Any = split_image_tower(model, 5).rest
    assert rest.visual.trunk.blocks[0] is model.visual.trunk.blocks[5]
    assert rest.logit_scale is model.logit_scale


def test_another_tower_is_refused_with_its_name() -> None:
    encoder = mobilenet_encoder(EdgeBranchConfig(), "test_resnet")
    with pytest.raises(UnsupportedModelError, match="ResNet cannot be kept"):
        split_image_tower(encoder.model, 1)


def test_kept_features_are_those_of_the_picture_and_of_its_mirror_image(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path, data__augmentation={"flip": True}))
    encoder = run.learner.encoder
    split = split_image_tower(encoder.model, 1)
    kept = keep_features(tmp_path / "kept", encoder, split, run.train_source, run.maker, batch_size=5)
    for is_mirrored in (False, True):
        picture = run.maker.seen(run.train_source.read(4), is_mirrored=is_mirrored)
        for view in ("rgb", "edges"):
            with torch.no_grad():
                expected = split.frozen(encoder.preprocessing.normalize([getattr(picture, view)]))
            torch.testing.assert_close(kept.of(view, (4,), (is_mirrored,)), expected, atol=2e-3, rtol=2e-3)


def test_features_are_computed_once_and_anew_for_other_weights(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path))
    encoder, said = run.learner.encoder, []
    for _ in range(2):
        keep_features(
            tmp_path / "kept",
            encoder,
            split_image_tower(encoder.model, 1),
            run.train_source,
            run.maker,
            say=said.append,
        )
    assert len(said) == 1
    with torch.no_grad():
        encoder.model.visual.conv1.weight.add_(0.1)  # type: ignore[union-attr, operator, arg-type]
    keep_features(
        tmp_path / "kept", encoder, split_image_tower(encoder.model, 1), run.train_source, run.maker, say=said.append
    )
    assert len(said) == 2


def test_training_on_kept_features_takes_the_steps_of_training_without_them(tmp_path: Path) -> None:
    freezing = {"mode": "towers", "last_layers": 1}
    changes: dict[str, Any] = {"data__augmentation": {"flip": True}, "regime__micro_batch": 4}

    def losses(name: str, cache: str) -> list[float]:
        config = tiny_config(tmp_path / name, freezing={**freezing, "cache_folder": cache}, **changes)
        train(config)
        from training.logs import read_table

        return [row["loss"] for row in read_table(tmp_path / name / "steps.csv")]

    assert losses("kept", str(tmp_path / "features")) == pytest.approx(losses("fresh", ""), rel=2e-3)


def test_a_frozen_tower_counts_its_layers(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path))
    model = run.learner.encoder.model
    assert num_frozen_layers(model, FreezingConfig(mode="backbone")) == 2
    assert num_frozen_layers(model, FreezingConfig(mode="towers", last_layers=1)) == 1
    assert num_frozen_layers(model, FreezingConfig()) == 0


def test_mirroring_follows_the_epoch(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path, data__augmentation={"flip": True}))
    assert {run.maker.is_mirrored(3, epoch) for epoch in range(20)} == {False, True}
    assert not replace(run.maker, augmentation=AugmentationConfig()).is_mirrored(3, 1)
    batch = next(epoch_batches(run))[0]
    assert batch.mirrored == tuple(run.maker.is_mirrored(index, 0) for index in batch.indices)
