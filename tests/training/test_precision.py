"""In what numbers training computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.builders import tiny_config
from training.loop import train
from training.precision import computes_bfloat16, mixed_precision


def lets_compute(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool) -> None:
    """Give the processor arithmetic for bfloat16, or take it away."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": bfloat16}, raising=False)


@pytest.mark.parametrize("has_arithmetic", [True, False])
def test_bfloat16_is_used_where_the_processor_has_arithmetic_for_it(
    monkeypatch: pytest.MonkeyPatch, has_arithmetic: bool
) -> None:
    lets_compute(monkeypatch, bfloat16=has_arithmetic)
    layer, x_BD = nn.Linear(4, 4), torch.ones(2, 4)
    assert computes_bfloat16("cpu") == has_arithmetic
    with mixed_precision("bf16", "cpu"):
        assert layer(x_BD).dtype == (torch.bfloat16 if has_arithmetic else torch.float32)
    with mixed_precision("none", "cpu"):
        assert layer(x_BD).dtype == torch.float32


def test_a_gpu_and_an_older_torch_are_taken_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lets_compute(monkeypatch, bfloat16=False)
    assert computes_bfloat16("cuda:0")
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert computes_bfloat16("cpu")


@pytest.mark.parametrize("has_arithmetic", [True, False])
def test_a_run_says_that_it_trains_in_float32_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_arithmetic: bool
) -> None:
    lets_compute(monkeypatch, bfloat16=has_arithmetic)
    train(tiny_config(tmp_path, regime__amp="bf16", optimiser__epochs=1))
    assert ("training in float32 instead" in capsys.readouterr().err) == (not has_arithmetic)
