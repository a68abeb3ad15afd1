"""The judge of matches: its formula by hand, its order statistics by brute force, and its way through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from structxlip.calibration import Background, MatchCalibration, QueryKind, growth, gumbel_level
from tests.support.calibrations import plain_calibration, plain_level, unit_rows

WEIGHTS = st.floats(0, 1)


def test_the_expected_score_is_the_formula() -> None:
    level = plain_level(offset=0.2, per_mean=0.5, per_spread=3.0)
    expected = level.expected(np.array([0.1]), np.array([0.04]), num_images=32, length=2.0)
    grown = (2**-0.2 - 1) / -0.2
    assert expected == pytest.approx([2 * (0.2 + 0.1 * grown) + 0.5 * 0.1 + 3 * 0.04])
    assert level.scale(32) == pytest.approx(0.05 * 2**-0.2)


def test_growth_is_a_power_and_in_the_limit_the_logarithm() -> None:
    assert growth(1.0, -0.3) == 0.0
    assert growth(4.0, -0.5) == pytest.approx(1.0)
    assert growth(1e30, -0.5) == pytest.approx(2.0)
    assert growth(np.e**3, 0.0) == pytest.approx(3.0)
    assert growth(np.e**3, -1e-7) == pytest.approx(3.0, abs=1e-5)


def test_the_former_kind_is_read_as_the_law_that_its_heights_follow() -> None:
    heights = [growth(2.0**octave, -0.2) for octave in range(9)]
    rows = [
        {"kind": kind.value, "structure_weight": 0.0, "growth": heights, "per_growth": 0.3, "num_images": 100.0}
        | dict.fromkeys(("offset", "per_mean", "per_spread", "residual", "level", "slope", "intercept"), 0.1)
        for kind in QueryKind
    ]
    background = plain_calibration().background
    told = {"background": background.digest(), "levels": rows}
    read = MatchCalibration.from_statistics(told, background=background, false_accept_rate=0.05)
    level = read.level_at(QueryKind.TEXT, 0.0)
    assert level.shape == pytest.approx(-0.2)
    nothing = np.zeros(1)
    rise = level.expected(nothing, nothing, num_images=200) - level.expected(nothing, nothing, num_images=50)
    assert rise == pytest.approx(0.3 * (growth(200, -0.2) - growth(50, -0.2)), rel=0.01)


@given(weight=WEIGHTS, kind=st.sampled_from(QueryKind), num=st.integers(1, 10**6), scale=st.floats(0.1, 10))
def test_confidence_rises_with_the_score_and_not_with_the_collection(
    weight: float, kind: QueryKind, num: int, scale: float
) -> None:
    calibration = plain_calibration()
    v, e = unit_rows(2, 8, seed=5)
    judged = calibration.judge(v, e, structure_weight=weight, kind=kind, num_images=num)
    scores = np.linspace(-1, 1, 21)
    confidence = [judged.confidence(score) for score in scores]
    assert confidence == sorted(confidence)
    assert all(0 <= value <= 1 for value in confidence)
    larger = calibration.judge(v, e, structure_weight=weight, kind=kind, num_images=4 * num)
    assert larger.min_score >= judged.min_score
    assert judged.is_match(judged.min_score + 1e-9)
    assert not judged.is_match(judged.min_score - 1e-6)


def test_the_level_of_a_rare_false_alarm_is_lower_among_fewer_pictures() -> None:
    calibration = plain_calibration()
    v, e = unit_rows(2, 8, seed=5)

    def level(num_images: int, rate: float) -> float:
        return calibration.judge(
            v, e, structure_weight=0.5, kind=QueryKind.PICTURE, num_images=num_images, false_accept_rate=rate
        ).min_score

    levels = [level(num, 0.001) for num in (1, 4, 16, 64, 1024)]
    assert levels == sorted(levels)
    # One picture against sixteen: the law's rise between them, and no wider spread on top of it.
    assert levels[2] - levels[0] == pytest.approx(-0.1 * growth(1 / 16, -0.2), abs=1e-6)
    assert level(16, 0.001) > level(16, 0.01)


@given(weight=WEIGHTS, length=st.floats(0.1, 5))
def test_a_longer_query_is_judged_alike(weight: float, length: float) -> None:
    calibration = plain_calibration(offset=0.3)
    v, e = unit_rows(2, 8, seed=6)
    asked = {"structure_weight": weight, "kind": QueryKind.TEXT, "num_images": 100}
    plain = calibration.judge(v, e, **asked)  # type: ignore[arg-type]
    longer = calibration.judge((length * v).astype(np.float32), (length * e).astype(np.float32), **asked)  # type: ignore[arg-type]
    assert longer.surprise(0.4 * length) == pytest.approx(plain.surprise(0.4), abs=1e-3)


@given(weight=st.floats(0.01, 1))
def test_a_sketch_is_judged_by_its_lines_whatever_the_weight(weight: float) -> None:
    calibration = plain_calibration(offset=0.3)
    nothing, e = np.zeros(8, np.float32), unit_rows(1, 8, seed=7)[0]
    asked = {"kind": QueryKind.SKETCH, "num_images": 50}
    alone = calibration.judge(nothing, e, structure_weight=1.0, **asked)  # type: ignore[arg-type]
    part = calibration.judge(nothing, e, structure_weight=weight, **asked)  # type: ignore[arg-type]
    assert part.surprise(0.3 * weight) == pytest.approx(alone.surprise(0.3), abs=1e-3)


def test_coefficients_between_two_weights_are_between() -> None:
    ends = {kind: [(0.0, plain_level(level=1.0)), (0.5, plain_level(level=3.0))] for kind in QueryKind}
    calibration = MatchCalibration(plain_calibration().background, 0.05, ends)
    levels = [calibration.level_at(QueryKind.TEXT, w).level for w in (0.0, 0.125, 0.5, 1.0)]
    assert levels == pytest.approx([1.0, 1.5, 3.0, 3.0])


def test_it_comes_back_from_json() -> None:
    calibration = plain_calibration()
    told = json.loads(json.dumps(calibration.statistics()))
    back = MatchCalibration.from_statistics(told, background=calibration.background, false_accept_rate=0.05)
    assert back.levels == calibration.levels
    other = Background(unit_rows(32, 8, seed=9), unit_rows(32, 8, seed=10))
    with pytest.raises(ValueError, match="not the ones"):
        MatchCalibration.from_statistics(told, background=other, false_accept_rate=0.05)
    cut = told | {"levels": told["levels"][:1]}
    with pytest.raises(ValueError, match="levels for"):
        MatchCalibration.from_statistics(cut, background=calibration.background, false_accept_rate=0.05)


def test_gumbel_levels_are_those_of_the_distribution() -> None:
    draws = np.random.default_rng(0).gumbel(size=400_000)
    standard = (draws - draws.mean()) / draws.std()
    for rate in (0.2, 0.05, 0.01):
        assert gumbel_level(rate) == pytest.approx(np.quantile(standard, 1 - rate), abs=0.05)
