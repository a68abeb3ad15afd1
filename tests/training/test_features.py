from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from structxlip.pooling import image_tower_patch_features, project_regions, roi_pool
from tests.training.builders import TINY_PREPROCESSING, tiny_config
from training.data import Batch
from training.freezing import set_training
from training.loop import Run, epoch_batches, prepare

CNN = {"kind": "cnn", "width": 8, "grid": 4}


def run_of(folder: Path, **changes: Any) -> tuple[Run, Batch]:
    run = prepare(tiny_config(folder, **changes))
    return run, next(epoch_batches(run))[0]


@pytest.mark.parametrize("branch", [{"kind": "shared"}, CNN], ids=["shared", "cnn"])
def test_features_are_the_vectors_that_serving_computes(tmp_path: Path, branch: dict[str, Any]) -> None:
    run, batch = run_of(tmp_path, model__edge_branch=branch)
    encoder = run.learner.encoder
    with torch.no_grad():
        features = run.extract(batch)
    pairs = [run.train_source.read(index) for index in batch.indices]
    served = encoder.encode_images([encoder.prepare_image(pair.rgb) for pair in pairs])
    told = encoder.encode_texts([encoder.prepare_text(pair.captions[0]) for pair in pairs])
    for name, expected in (
        ("image", served.appearance),
        ("edge", served.structure),
        ("text", told.appearance),
        ("structural", told.structure),
    ):
        found = F.normalize(features[name], dim=-1)
        torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=1e-4, msg=name)


def test_pictures_that_were_never_looked_at_are_not_trained_on(tmp_path: Path) -> None:
    run, batch = run_of(tmp_path)
    with pytest.raises(ValueError, match="no features of rgb are kept"):
        run.extract(replace(batch, rgb=None))


def test_the_whole_picture_as_a_region_of_the_cnn_branch_is_its_embedding(tmp_path: Path) -> None:
    run, batch = run_of(tmp_path, model__edge_branch=CNN)
    batch.boxes[:, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    features = run.extract(batch)
    torch.testing.assert_close(features["regions"][:, 0], features["edge"])
    expected = run.learner.encoder.embed_edges(batch.edges)
    torch.testing.assert_close(F.normalize(features["edge"], dim=-1), expected, atol=1e-5, rtol=1e-4)


def test_a_region_of_the_cnn_branch_is_its_cells_alone(tmp_path: Path) -> None:
    run, batch = run_of(tmp_path, model__edge_branch=CNN)
    branch: Any = run.learner.encoder.edge_branch
    batch.boxes[0, 0] = torch.tensor([0.25, 0.5, 0.5, 1.0])  # column 1, rows 2 and 3 of a 4 × 4 grid
    cells = F.adaptive_avg_pool2d(branch.features(batch.edges[:1]), 4)
    masked = torch.zeros_like(cells)
    masked[:, :, 2:4, 1] = cells[:, :, 2:4, 1]
    torch.testing.assert_close(run.extract(batch)["regions"][0, 0], branch.projection(masked.flatten(1))[0])


def test_regions_of_the_shared_branch_are_pooled_from_the_one_pass(tmp_path: Path) -> None:
    run, batch = run_of(tmp_path)
    encoder = run.learner.encoder
    patches = image_tower_patch_features(encoder.model, encoder.preprocessing.normalize_tensor(batch.edges)).patches
    expected = project_regions(encoder.model, roi_pool(patches, batch.boxes))
    torch.testing.assert_close(run.extract(batch)["regions"], expected, atol=1e-5, rtol=1e-4)


def test_crops_are_embedded_one_by_one(tmp_path: Path) -> None:
    run, batch = run_of(tmp_path, loss__region_embedding="crop")
    features = run.extract(batch)
    left, top, right, bottom = (batch.boxes[0, 0] * 64).round().int().tolist()
    crop = F.interpolate(batch.edges[:1, None, top:bottom, left:right].float(), (64, 64), mode="bilinear")
    expected = run.learner.encoder.embed_edges(crop[:, 0].round().to(torch.uint8))[0]
    assert F.cosine_similarity(features["regions"][0, 0], expected, dim=0) > 0.9


def test_losses_of_weight_zero_cost_no_pass(tmp_path: Path) -> None:
    run, batch = run_of(tmp_path, loss={"structure": 0, "consistency": 0, "local": 0})
    assert run.extract(batch).keys() == {"image", "text"}
    assert not batch.chunks.owner.ge(0).any()


def test_a_shared_batch_norm_sees_both_views_at_once(tmp_path: Path) -> None:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    run, batch = run_of(
        tmp_path,
        model={
            "architecture": {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text},
            "preprocessing": TINY_PREPROCESSING,
        },
        loss__local=0,
    )
    encoder = run.learner.encoder
    norm: Any = encoder.model.visual.bn1  # type: ignore[union-attr]
    seen = []
    norm.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[0]))
    set_training(encoder, True)
    run.extract(batch)
    assert seen == [2 * len(batch)]
