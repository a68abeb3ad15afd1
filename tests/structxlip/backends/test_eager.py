from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from structxlip.backends.eager import torch_towers
from structxlip.backends.selection import Execution
from structxlip.errors import ConfigError
from structxlip.models import load_encoder
from tests.support.tiny_open_clip import write_tiny_open_clip


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write_tiny_open_clip(tmp_path_factory.mktemp('models') / 'tiny')}"


def test_torch_in_bf16_passes_the_check_and_gives_unit_rows(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        encoder = load_encoder(name, device="cpu", execution=Execution("torch", "bf16"))
    assert encoder.describe()["execution"] == dict.fromkeys(("images", "edges", "tokens"), "torch bf16")
    assert "torch bf16 runs the images: cosine to float32 0.99" in caplog.text
    exact = torch_towers(encoder)
    tokens = encoder.tokenize(["two stools", "a red table left of a chair"]).numpy()
    rows, expected = encoder.towers.tokens(tokens), exact.tokens(tokens)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert 0 < np.abs(rows - expected).max() < 0.05


def test_the_number_of_threads_is_a_choice(name: str) -> None:
    before = torch.get_num_threads()
    try:
        load_encoder(name, device="cpu", execution=Execution("torch", threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        Execution(threads=0)


def test_the_towers_follow_weights_that_change(name: str) -> None:
    encoder = load_encoder(name, device="cpu")
    tokens = encoder.tokenize(["two stools"]).numpy()
    before = encoder.towers.tokens(tokens)
    with torch.no_grad():
        encoder.model.text_projection.mul_(-1)  # type: ignore[operator, union-attr]
    np.testing.assert_allclose(encoder.towers.tokens(tokens), -before, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_gpu_agrees_with_the_cpu(name: str, precision: str) -> None:
    on_gpu = load_encoder(name, device="cuda", execution=Execution("auto", precision))  # type: ignore[arg-type]
    on_cpu = load_encoder(name, device="cpu")
    rgb = np.random.default_rng(0).integers(0, 256, size=(3, 64, 64, 3), dtype=np.uint8)
    cosines = np.einsum("nd,nd->n", on_gpu.towers.images(rgb), on_cpu.towers.images(rgb))
    assert on_gpu.towers.images.backend == "torch"
    assert cosines.min() > 0.9995
