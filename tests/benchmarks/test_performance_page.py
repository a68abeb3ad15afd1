"""The page of measurements says what the results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.performance import PAGE, draw, growth, read_results, render


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text() == render(read_results()), "run: python -m benchmarks.performance"


def test_every_plot_of_the_page_is_drawn(tmp_path: Path) -> None:
    draw(read_results(), tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn
    assert all(f"images/{name}" in PAGE.read_text() for name in drawn)
    assert all((PAGE.parent / "images" / name).is_file() for name in drawn)


def test_growth_is_the_exponent_of_a_power_law() -> None:
    assert growth([10, 100, 1000], [2, 20, 200]) == pytest.approx(1)
    assert growth([10, 1000], [3, 30]) == pytest.approx(0.5)
