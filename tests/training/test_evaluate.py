from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from structxlip.models import load_encoder
from tests.training.builders import tiny_config
from training.config import SourceConfig
from training.data import open_source
from training.evaluate import (
    PairEmbeddings,
    best_weight,
    embed_pairs,
    evaluate_set,
    interpolated,
    measure,
    metric_of,
    sweep,
    top_hits,
)
from training.finish import finish
from training.loop import train


def pairs_of(images: Tensor, edges: Tensor, texts: Tensor, structural: Tensor, owner: list[int]) -> PairEmbeddings:
    return PairEmbeddings(
        images=F.normalize(images.float(), dim=-1),
        edges=F.normalize(edges.float(), dim=-1),
        texts=F.normalize(texts.float(), dim=-1),
        structural_texts=F.normalize(structural.float(), dim=-1),
        owner=torch.tensor(owner),
        keys=tuple(str(index) for index in range(len(images))),
    )


def random_pairs(number: int = 30, noise: float = 0.5) -> PairEmbeddings:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(number, 16, generator=generator)

    def noisy(level: float) -> Tensor:
        return base + level * torch.randn(number, 16, generator=generator)

    return pairs_of(noisy(noise), noisy(2 * noise), noisy(noise), noisy(2 * noise), list(range(number)))


def test_scores_are_those_of_the_formula() -> None:
    pairs, weight = random_pairs(), 0.3
    scores = (1 - weight) * pairs.texts @ pairs.images.T + weight * pairs.structural_texts @ pairs.edges.T
    hits = top_hits(pairs, range(30), weight, 3)
    assert hits == scores.topk(3, dim=1).indices.tolist()
    rank = (scores > scores.diag()[:, None]).sum(dim=1)
    found = measure(pairs, weight).text_to_image.summary()
    assert found["r1"] == pytest.approx(100 * float((rank == 0).float().mean()))
    assert found["r5"] == pytest.approx(100 * float((rank < 5).float().mean()))


def test_weights_0_and_1_are_the_views_alone() -> None:
    pairs = random_pairs()
    other = torch.randn(30, 16)
    without_structure = pairs_of(pairs.images, other, pairs.texts, other.flip(0), list(range(30)))
    assert measure(pairs, 0).summary() == measure(without_structure, 0).summary()
    evaluation = evaluate_set("x", pairs, structure_weight=0.4)
    assert evaluation.views["structure"] == measure(pairs, 1).summary()
    assert evaluation.views["appearance"] == evaluation.swept[0.0]


def test_several_captions_of_a_picture_count_in_both_directions() -> None:
    images = torch.eye(3)
    texts = torch.tensor([[1.0, 0, 0], [0, 1.0, 0.1], [0, 1, 0], [0, 0, 1]])
    pairs = pairs_of(images, images, texts, texts, [0, 0, 1, 2])
    found = measure(pairs, 0).summary()
    assert found["text_to_image"]["r1"] == 75
    assert found["image_to_text"]["r1"] == 100


def test_the_best_weight_is_the_smallest_of_equals() -> None:
    images = torch.eye(4)
    swept = sweep(pairs_of(images, images, images, images, [0, 1, 2, 3]), 5)
    assert list(swept) == [0, 0.25, 0.5, 0.75, 1]
    assert best_weight(swept) == 0


def test_a_measure_that_does_not_exist_is_told_with_those_that_do() -> None:
    views = evaluate_set("x", random_pairs(), structure_weight=0.5).views
    assert metric_of(views, "fused.mean.median_rank") < 0
    with pytest.raises(ValueError, match=r"view\.direction\.measure"):
        metric_of(views, "fused.r1")


def test_interpolation_starts_at_the_base_and_ends_at_the_tuned_model() -> None:
    base, tuned = {"w": torch.zeros(2), "n": torch.tensor(1)}, {"w": torch.ones(2), "n": torch.tensor(5)}
    assert torch.equal(interpolated(base, tuned, 0.25)["w"], torch.full((2,), 0.25))
    assert torch.equal(interpolated(base, tuned, 0.25)["n"], torch.tensor(5))
    with pytest.raises(ValueError, match="differ: w"):
        interpolated({"w": torch.zeros(3), "n": torch.tensor(1)}, tuned, 0.5)


def test_pictures_and_all_their_captions_are_embedded(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, optimiser__epochs=1))
    encoder = load_encoder(str(tmp_path / "best"), device="cpu")
    source = open_source(SourceConfig(kind="scenes", split="test", num_scenes=5), image_size=64)
    whole, parts = embed_pairs(encoder, source), embed_pairs(encoder, source, batch_size=2)
    assert whole.images.shape == whole.edges.shape == (5, 32)
    torch.testing.assert_close(whole.images, parts.images, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.texts, parts.texts, atol=1e-5, rtol=1e-4)


def test_a_finished_run_is_reported_and_exported(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path / "run",
        data__test={"held out": {"kind": "scenes", "split": "test", "num_scenes": 6}},
        saving__export_to=str(tmp_path / "export"),
        saving__half_precision=True,
        saving__licence="Apache-2.0",
    )
    train(config)
    said: list[str] = []
    report = finish(config, say=said.append)
    told = (tmp_path / "run" / "report.md").read_text()
    for picture in ("recall_by_weight.png", "training.png", "sheet_validation.png", "sheet_held_out.png"):
        assert picture in told
        assert (tmp_path / "run" / picture).stat().st_size > 5000
    encoder = load_encoder(str(tmp_path / "export"), device="cpu")
    assert encoder.default_structure_weight == report.evaluations[0].structure_weight
    metrics: dict[str, Any] = json.loads((tmp_path / "export" / "metrics.json").read_text())
    expected = report.evaluations[1].views["structure"]["text_to_image"]["r1"]
    assert metrics["held out, structure, text to image"]["r1"] == pytest.approx(expected, abs=0.01)
    assert metrics["held out, size"] == {"pictures": 6, "captions": 6}
    card = (tmp_path / "export" / "README.md").read_text()
    assert "held out, fused, text to image" in card
    assert "Apache-2.0" in card


def test_forgetting_and_interpolation_are_measured_against_the_base(tmp_path: Path) -> None:
    from tests.support.tiny_open_clip import write_tiny_open_clip
    from tests.training.builders import tiny_tree
    from training.config import parse_config

    base = write_tiny_open_clip(tmp_path / "base")
    short = {"kind": "scenes", "split": "val", "num_scenes": 4, "scenes_seed": 5}
    tree = tiny_tree(tmp_path / "run", data__forgetting=short, evaluation__wise_ft=[0.0, 1.0], optimiser__epochs=1)
    tree["model"] = {"start": f"local-dir:{base}", "context_length": 120}
    config = parse_config(tree)
    train(config)
    report = finish(config, say=lambda _message: None)
    before, after = report.forgetting
    start, end = report.wise_ft
    assert start.short is not None
    assert end.short is not None
    assert start.short.views["appearance"] == before.views["appearance"]
    assert end.short.views["appearance"] == after.views["appearance"]
    assert end.validation.views == report.evaluations[0].views
