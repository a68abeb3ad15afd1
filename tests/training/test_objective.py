from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.builders import tiny_config
from training.loop import Run, epoch_batches, prepare


def _text_gradients(run: Run, term: str) -> float:
    """Return the length of the gradient that one loss sends into the text tower."""
    batch = next(epoch_batches(run))[0]
    terms = run.objective.terms(run.extract(batch), [batch])
    run.learner.encoder.model.zero_grad()
    terms.computed()[term].backward()  # type: ignore[no-untyped-call]
    named = run.learner.encoder.model.named_parameters()
    text = [each for name, each in named if not name.startswith(("visual.", "logit_"))]
    gradients = [each.grad for each in text if each.grad is not None]
    return float(sum(gradient.norm() for gradient in gradients))


@pytest.mark.parametrize("term", ["structure", "local"])
def test_edge_maps_and_regions_leave_the_text_tower_alone_when_told_to(tmp_path: Path, term: str) -> None:
    fixed = prepare(tiny_config(tmp_path / "fixed", loss__text_stop_gradient=True))
    assert _text_gradients(fixed, term) == 0
    assert _text_gradients(fixed, "contrastive") > 0
    free = prepare(tiny_config(tmp_path / "free"))
    assert _text_gradients(free, term) > 0


def test_the_losses_are_the_same_whether_the_text_tower_is_left_alone(tmp_path: Path) -> None:
    found = []
    for name, fixed in (("free", False), ("fixed", True)):
        run = prepare(tiny_config(tmp_path / name, loss__text_stop_gradient=fixed))
        batch = next(epoch_batches(run))[0]
        found.append(run.objective.terms(run.extract(batch), [batch]).computed())
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], msg=name)
