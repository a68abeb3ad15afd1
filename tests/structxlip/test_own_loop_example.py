from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest
import torch

from tests.support.shared_data import REPOSITORY


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = REPOSITORY / "examples" / "use_the_losses_in_your_own_loop.py"
    spec = importlib.util.spec_from_file_location("use_the_losses_in_your_own_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_learns(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    history = example.main(num_epochs=12)
    assert history[-1] < 0.6 * history[0]
    assert capsys.readouterr().out.count("local") == 12


def test_every_loss_of_the_example_is_alive_and_reaches_the_model(example: ModuleType) -> None:
    torch.manual_seed(0)
    model, local_scale = example.build_model(), example.LogitScale(10.0)
    batch = example.prepare([example.draw_pair(shape, "red") for shape in ("square", "circle", "bar")])
    assert batch["has_edges_B"].all()
    assert (batch["chunks"].owner >= 0).sum() >= 3
    terms = example.compute_losses(model, local_scale, batch)
    assert terms.computed().keys() == {"contrastive", "structure", "consistency", "local"}
    for name, term in terms.computed().items():
        assert term.item() > 0, name
        gradients = torch.autograd.grad(term, list(model.parameters()), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients), name
