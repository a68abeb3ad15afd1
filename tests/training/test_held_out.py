from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from structxlip.edge_branch import EdgeBranchConfig
from tests.training.builders import tiny_config
from tests.training.test_frozen import mobilenet_encoder
from training.config import AugmentationConfig
from training.evaluate import embed_pairs
from training.frozen import keep_features, split_image_tower
from training.held_out import embed, hold_out
from training.loop import prepare, sample_maker
from training.texts import PackedTower

CNN = EdgeBranchConfig("cnn", width=8, grid=2)


@pytest.mark.parametrize("branch", [EdgeBranchConfig(), CNN], ids=["shared", "cnn"])
@pytest.mark.parametrize("keeps", [False, True], ids=["whole", "kept"])
def test_held_out_pairs_have_the_embeddings_of_the_service(
    tmp_path: Path, branch: EdgeBranchConfig, keeps: bool
) -> None:
    config = tiny_config(tmp_path)
    source = prepare(config).val_source
    encoder = mobilenet_encoder(branch)
    kept: dict[str, Any] = {}
    if keeps:
        maker = replace(sample_maker(config, encoder), augmentation=AugmentationConfig())
        split = split_image_tower(encoder.model, 5)
        kept = {"kept": keep_features(tmp_path, encoder, split, source, maker), "num_frozen": 5}
    pairs = hold_out(encoder, source, **kept)
    expected = embed_pairs(encoder, source)
    for packed in (None, PackedTower(encoder.model)):
        found = embed(encoder, pairs, batch_size=3, packed=packed)
        assert found.keys == expected.keys
        assert found.owner.tolist() == expected.owner.tolist()
        for name in ("images", "edges", "texts", "structural_texts"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), atol=2e-3, rtol=2e-3, msg=f"{name} {packed}"
            )
