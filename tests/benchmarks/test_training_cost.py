"""The cost of a step is measured on real steps; at a size that says nothing about speed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.training_cost import VARIANTS, measure_steps
from tests.training.builders import tiny_tree


@pytest.mark.parametrize("variant", ["plain", "all, cnn", "all, shared, padded texts"])
def test_each_variant_takes_steps(tmp_path: Path, variant: str) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_tree(tmp_path / "run", regime__pack_texts=True)))
    figures = measure_steps(config, VARIANTS[variant], 1)
    assert set(figures) == {"processor_seconds_a_step", "wall_seconds_a_step", "peak_memory_mib"}
    assert all(value > 0 for value in figures.values())
