"""The sketch loss: an edge map must find the hand-like drawing of its picture, and the other way round."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structxlip.losses import bounded_scale
from tests.training.builders import tiny_config
from training.data import Batch, RawPair, collate
from training.data.samples import KEPT_DRAWINGS, SampleSet
from training.data.sketches import JUDGED_BY, LEARNED_FROM, draw_sketch
from training.frozen import keep_features, split_image_tower
from training.loop import Run, epoch_batches, prepare, train
from training.objective import values_of

BRANCHES = [{"kind": "shared"}, {"kind": "cnn", "width": 8, "features": 16}]


def run_with_sketches(folder: Path, **changes: Any) -> tuple[Run, Batch]:
    run = prepare(tiny_config(folder, loss__sketch=0.5, **changes))
    return run, next(iter(epoch_batches(run)))[0]


def test_models_are_not_judged_by_the_detector_they_learn_from() -> None:
    assert JUDGED_BY not in LEARNED_FROM
    assert JUDGED_BY.config()["kind"] not in {detector.config()["kind"] for detector in LEARNED_FROM}


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("local", [0.0, 0.1])
def test_edge_maps_and_drawings_are_embedded_alike(tmp_path: Path, branch: dict[str, Any], local: float) -> None:
    run, batch = run_with_sketches(tmp_path, model__edge_branch=branch, loss__local=local)
    assert batch.sketches is not None
    features = run.extract(batch)
    embed = run.learner.encoder.embed_edges
    for name, maps in (("edge", batch.edges), ("sketch", batch.sketches)):
        found = torch.nn.functional.normalize(features[name], dim=-1)
        torch.testing.assert_close(found, embed(maps), atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_mean_of_both_directions_over_pictures_with_strokes(tmp_path: Path) -> None:
    run, batch = run_with_sketches(tmp_path)
    assert batch.sketches is not None
    blank = batch.sketches.clone()
    blank[2] = 0
    batch = replace(batch, sketches=blank)
    features = run.extract(batch)
    terms = run.objective.terms(features, [batch])
    kept = [row for row in range(len(batch)) if row != 2]
    edge, sketch = (torch.nn.functional.normalize(features[name], dim=-1)[kept] for name in ("edge", "sketch"))
    scale = float(bounded_scale(run.learner.encoder.model.logit_scale.detach()))  # type: ignore[arg-type, union-attr, operator]
    logits = (scale * edge @ sketch.T).tolist()
    total = 0.0
    for table in (logits, [list(column) for column in zip(*logits, strict=True)]):
        for own, row in enumerate(table):
            total += math.log(sum(math.exp(value - row[own]) for value in row))
    assert values_of(terms)["sketch"] == pytest.approx(total / (2 * len(kept)), rel=1e-4)


def test_the_loss_moves_the_scale_of_words_by_nothing(tmp_path: Path) -> None:
    run, batch = run_with_sketches(tmp_path, loss__structure=0, loss__consistency=0, loss__local=0)
    terms = run.objective.terms(run.extract(batch), [batch])
    assert terms.sketch is not None
    scale: Any = run.learner.encoder.model.logit_scale
    (gradient,) = torch.autograd.grad(terms.sketch, [scale], allow_unused=True)
    assert gradient is None


def test_without_the_loss_nothing_is_drawn(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path))
    batch = next(iter(epoch_batches(run)))[0]
    assert batch.sketches is None
    assert run.maker.seen(run.train_source.read(0)).sketches.shape == (0, 64, 64)


def test_each_epoch_has_its_own_drawing_and_kept_ones_take_turns(tmp_path: Path) -> None:
    run, _ = run_with_sketches(tmp_path)
    fresh = [SampleSet(run.train_source, run.maker, epoch)[3].picture.sketches for epoch in range(3)]
    assert [len(sketches) for sketches in fresh] == [1, 1, 1]
    assert len({sketches.tobytes() for sketches in fresh}) == 3
    cache: dict[Any, Any] = {}
    kept = [SampleSet(run.train_source, run.maker, epoch, cache, {})[3] for epoch in range(3)]
    assert [sample.drawing for sample in kept] == [0, 1, 0]
    assert len(kept[0].picture.sketches) == len(KEPT_DRAWINGS) == 2
    batches = [collate([sample], tokenizer=run.maker.tokenizer).sketches for sample in kept]
    assert batches[0] is not None
    assert batches[1] is not None
    assert not torch.equal(batches[0], batches[1])


def test_a_picture_without_lines_has_a_drawing_without_strokes(tmp_path: Path) -> None:
    run, _ = run_with_sketches(tmp_path)
    flat = RawPair("flat", np.full((50, 70, 3), 90, np.uint8), ("nothing",))
    assert not run.maker.seen(flat).sketches.any()
    assert (draw_sketch(flat.rgb, np.random.default_rng(0)) == 255).all()


def test_kept_features_of_drawings_are_those_of_their_number(tmp_path: Path) -> None:
    run, _ = run_with_sketches(tmp_path, data__augmentation={"flip": True})
    encoder = run.learner.encoder
    split = split_image_tower(encoder.model, 1)
    kept = keep_features(tmp_path / "kept", encoder, split, run.train_source, run.maker, batch_size=5)
    picture = run.maker.seen(run.train_source.read(4), is_mirrored=True)
    for number in KEPT_DRAWINGS:
        with torch.no_grad():
            expected = split.frozen(encoder.preprocessing.normalize([picture.sketches[number]]))
        found = kept.of("sketches", (4,), (True,), (number,))
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_run_learns_to_know_drawings(tmp_path: Path, branch: dict[str, Any]) -> None:
    """More drawings find their picture after a few steps than before, counted by the loss on the training pictures."""
    config = tiny_config(
        tmp_path,
        model__edge_branch=branch,
        loss={"contrastive": 0.0, "structure": 0, "consistency": 0, "local": 0, "sketch": 1.0},
        optimiser={"lr": 3e-3, "epochs": 12, "ema_decay": 0.0},
    )
    run = prepare(config)
    first = [run.objective.terms(run.extract(batch), [batch]) for (batch,) in epoch_batches(run)]
    train(config)
    run = prepare(config)
    last = [run.objective.terms(run.extract(batch), [batch]) for (batch,) in epoch_batches(run)]
    before, after = (sum(values_of(terms)["sketch"] for terms in found) for found in (first, last))
    assert after < 0.8 * before
