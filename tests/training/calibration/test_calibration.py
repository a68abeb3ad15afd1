"""Fitting on made-up scores where the truth is known, and the command on a tiny checkpoint."""

from __future__ import annotations

from math import comb
from pathlib import Path

import numpy as np
import pytest

from structxlip.calibration import Background, QueryKind, growth
from structxlip.checkpoint import read_checkpoint_config
from structxlip.models import load_encoder
from tests.support.calibrations import unit_rows
from tests.support.tiny_open_clip import write_tiny_open_clip
from training.calibration.command import calibrate_checkpoint
from training.calibration.copies import COPIES
from training.calibration.fitting import cautious_rate, fit_calibration, fit_growth, fit_level, fit_logistic
from training.calibration.queries import (
    CalibrationSet,
    QuerySet,
    embed_queries,
    joined,
    num_of_one_picture,
)
from training.calibration.reliability import cross_measured, measure_reliability, reliability_table
from training.config import parse_source
from training.data import DataError, open_source
from training.data.sketches import draw_sketch
from training.scenes import SceneDataset

DIMENSION = 24


def rows_with_a_common_part(num: int, *, seed: int) -> np.ndarray:
    """Unit rows that have one direction in common, as the pictures of a real model have."""
    moved = unit_rows(num, DIMENSION, seed=seed) + unit_rows(1, DIMENSION, seed=99)
    return unit(moved)


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def made_up(num: int, *, nearness: float, seed: int) -> CalibrationSet:
    """Pictures at random; each query leans towards its own, and to a direction of its own strength as queries do."""
    random = np.random.default_rng(seed)
    common = unit_rows(1, DIMENSION, seed=99)[0]

    def near(rows: np.ndarray, strength: float) -> np.ndarray:
        lean = random.uniform(0, 1.5, (num, 1)) * common
        moved = strength * rows + lean + random.normal(size=rows.shape) / np.sqrt(DIMENSION)
        return unit(moved)

    images = Background(rows_with_a_common_part(num, seed=seed), rows_with_a_common_part(num, seed=seed + 1))
    owner = np.arange(num)
    text = QuerySet(near(images.appearance, nearness), near(images.structure, nearness), owner)
    picture = QuerySet(near(images.appearance, 3 * nearness), near(images.structure, 3 * nearness), owner)
    sketch = QuerySet(np.zeros_like(text.appearance), near(images.structure, nearness), owner)
    return CalibrationSet(images, {QueryKind.TEXT: text, QueryKind.PICTURE: picture, QueryKind.SKETCH: sketch})


@pytest.fixture(scope="module")
def background() -> Background:
    return Background(rows_with_a_common_part(400, seed=71), rows_with_a_common_part(400, seed=72)).rounded()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("num_held_out", [150, 600, 2400])
def test_the_stated_rate_holds_on_other_pictures_at_any_weight_and_size(
    background: Background, weight: float, num_held_out: int
) -> None:
    calibration = fit_calibration(
        background, made_up(400, nearness=1.2, seed=3), default_weight=0.3, false_accept_rate=0.1
    )
    held_out = made_up(num_held_out, nearness=1.2, seed=50)
    for kind in (QueryKind.TEXT, QueryKind.PICTURE):
        found = measure_reliability(calibration, held_out, kind, weight)
        assert 0.03 < found.false_accept_rate < 0.2
        assert found.calibration_error() < 0.1
    if weight == 1.0:
        assert 0.03 < measure_reliability(calibration, held_out, QueryKind.SKETCH, weight).false_accept_rate < 0.2


def test_a_level_from_few_pictures_holds_on_others() -> None:
    """A hundred pictures, some of which come up for everything: the rate is seldom beyond 1.5 times the stated one."""
    rates = []
    for seed in range(20):
        random = np.random.default_rng([seed, 100])
        known, fitted, others = (prominent_rows(num, random) for num in (256, 100, 800))
        background = Background(known, known)
        level = fit_level(background, Background(fitted, fitted), near(fitted, random), 0.0, 0.05)
        surprises = []
        for rows in np.array_split(others, 8):
            queries = near(rows, random)
            scores = queries.scores(Background(rows, rows), 0.0).astype(np.float64)
            np.fill_diagonal(scores, -np.inf)
            of_known = queries.scores(background, 0.0).astype(np.float64)
            expected = level.expected(of_known.mean(axis=1), of_known.std(axis=1), num_images=99)
            surprises.append((scores.max(axis=1) - expected) / level.scale(99))
        rates.append(np.mean(np.concatenate(surprises) >= level.level))
    assert 0.005 <= float(np.mean(rates)) <= 0.05
    assert sum(rate > 1.5 * 0.05 for rate in rates) <= 2


@pytest.mark.parametrize("num", [60, 100, 200, 280])
def test_a_cautious_rate_is_the_largest_that_can_be_trusted(num: int) -> None:
    k = round(cautious_rate(0.05, num) * num)

    def at_most(k: int) -> float:
        return sum(comb(num, i) * 0.075**i * 0.925 ** (num - i) for i in range(k + 1))

    assert at_most(k) <= 0.05 < at_most(k + 1)


def test_a_cautious_rate_of_many_is_the_stated_one_and_of_hardly_any_none() -> None:
    assert cautious_rate(0.05, 400) == cautious_rate(0.05, 100_000) == 0.05
    assert cautious_rate(0.05, 20) == 0
    assert cautious_rate(0.8, 40) == 0.8


def test_a_cautious_rate_keeps_its_promise_for_any_draws() -> None:
    """Levels from 150 draws each: how many of those to come exceed them does not hang on what is drawn."""
    random = np.random.default_rng(0)
    drawn = random.uniform(size=(4000, 150))
    levels = np.quantile(drawn, 1 - cautious_rate(0.05, 150), axis=1)
    assert float(np.mean(1 - levels > 1.5 * 0.05)) <= 0.06


def prominent_rows(num: int, random: np.random.Generator) -> np.ndarray:
    """Return unit rows with more or less of one direction, a few with very much of it."""
    share = random.standard_t(3, size=(num, 1)).clip(-4, 4)
    return unit(random.normal(size=(num, 16)) + share)


def near(rows: np.ndarray, random: np.random.Generator) -> QuerySet:
    asked = unit(rows + 0.8 * random.normal(size=rows.shape))
    return QuerySet(asked, asked, np.arange(len(rows)))


@pytest.mark.parametrize("shape", [-0.1, -0.3])
def test_growth_is_fitted_where_the_best_of_many_follows_the_law(shape: float) -> None:
    # Draws whose best of any number has the extreme-value distribution of this shape, by its quantiles.
    uniform = np.random.default_rng(0).random((20_000, 64))
    draws = np.expm1(shape * -np.log(-np.log(uniform))) / shape
    best = {num: draws[:, :num].max(axis=1) for num in (8, 16, 32, 64)}
    residual, mean = float(best[64].std()), float(best[64].mean())
    found = fit_growth([(num / 64, best[num] - mean) for num in (8, 16, 32)], residual=residual)
    assert found[1] == pytest.approx(shape, abs=0.03)
    # From the smallest collection to the whole one; then to one that is as much larger again.
    assert found[0] * growth(8 / 64, found[1]) == pytest.approx(best[8].mean() - mean, rel=0.03)
    assert best[8].std() == pytest.approx(residual * (8 / 64) ** found[1], rel=0.05)


def test_growth_without_an_upper_end_is_that_of_the_logarithm() -> None:
    draws = np.random.default_rng(0).gumbel(size=(20_000, 64))
    best = {num: draws[:, :num].max(axis=1) for num in (8, 16, 32, 64)}
    samples = [(num / 64, best[num] - best[64].mean()) for num in (8, 16, 32)]
    rise, shape = fit_growth(samples, residual=float(best[64].std()))
    assert shape == pytest.approx(0, abs=0.03)
    assert rise == pytest.approx(1, abs=0.05)


def test_it_accepts_more_than_a_flat_threshold_where_queries_differ(background: Background) -> None:
    calibration = fit_calibration(
        background, made_up(400, nearness=1.2, seed=3), default_weight=0.0, false_accept_rate=0.05
    )
    found = measure_reliability(calibration, made_up(400, nearness=1.2, seed=50), QueryKind.TEXT, 0.0)
    assert found.true_accept_rate > found.flat_true_accept_rate


def test_a_view_that_knows_nothing_earns_no_confidence(background: Background) -> None:
    examples = made_up(200, nearness=0.0, seed=3)
    calibration = fit_calibration(background, examples, default_weight=0.0, false_accept_rate=0.05)
    found = measure_reliability(calibration, made_up(200, nearness=0.0, seed=50), QueryKind.TEXT, 0.5)
    assert found.confidence.max() < 0.2


def test_the_logistic_function_is_the_likeliest() -> None:
    random = np.random.default_rng(0)
    surprise = random.normal(1, 2, 20_000)
    is_right = random.random(20_000) < 1 / (1 + np.exp(-(1.5 * surprise - 2)))
    assert fit_logistic(surprise, is_right) == pytest.approx((1.5, -2), abs=0.1)


def test_a_logistic_function_of_parted_hits_stays_finite() -> None:
    slope, intercept = fit_logistic(np.array([-2.0, -1.0, 5.0, 6.0]), np.array([False, False, True, True]))
    assert 0 < slope < 100
    assert np.isfinite(intercept)


def test_crossed_halves_give_a_table(background: Background) -> None:
    measured = cross_measured(background, made_up(80, nearness=1.2, seed=3), default_weight=0.3, false_accept_rate=0.05)
    assert [(row.kind.value, row.structure_weight) for row in measured[:4]] == [
        ("text", 0.0),
        ("text", 0.3),
        ("text", 1.0),
        ("picture", 0.0),
    ]
    assert all(row.num_queries == 80 for row in measured)
    told = reliability_table(measured, false_accept_rate=0.05, num_pictures=80)
    assert told.count("\n") == 3 + len(measured)
    assert told.startswith("Set for 5.0 % false accepts, by 1.2 % of 80 pictures, which are few; ")
    assert reliability_table(measured, false_accept_rate=0.05, num_pictures=400).startswith(
        "Set for 5.0 % false accepts; "
    )


def test_copies_and_sketches_are_pictures_that_repeat() -> None:
    rgb = SceneDataset("val", 1, size=96)[0].rgb
    makers = [*COPIES.values(), draw_sketch]
    for make in makers:
        first, again = (make(rgb, np.random.default_rng(4)) for _ in range(2))
        assert first.dtype == np.uint8
        assert first.ndim == 3
        assert not np.array_equal(first, rgb)
        np.testing.assert_array_equal(first, again)


@pytest.mark.slow
def test_few_pictures_are_altered_and_drawn_several_times(tmp_path: Path) -> None:
    assert [num_of_one_picture(num) for num in (40, 200, 499, 500, 5000)] == [4, 3, 2, 1, 1]
    encoder = load_encoder(f"local-dir:{write_tiny_open_clip(tmp_path / 'model')}", device="cpu")
    source = open_source(parse_source("scenes:val,num_scenes=6"), image_size=encoder.image_size)
    once = embed_queries(encoder, source, np.arange(6), seed=5)
    thrice = embed_queries(encoder, source, np.arange(6), seed=5, num_each=3)
    assert len(thrice.queries[QueryKind.PICTURE]) == 3 * len(once.queries[QueryKind.PICTURE]) == 18
    assert thrice.queries[QueryKind.PICTURE].num_pictures == 6
    assert len(thrice.queries[QueryKind.TEXT]) == 6  # one caption each
    first = thrice.first_of_each()
    for kind, queries in once.queries.items():
        assert np.array_equal(first.queries[kind].owner, queries.owner)
        assert np.allclose(first.queries[kind].structure, queries.structure, atol=1e-5)


def test_joined_queries_mean_their_own_pictures() -> None:
    first, second = made_up(5, nearness=1.2, seed=1), made_up(7, nearness=1.2, seed=2)
    both = joined(first, second)
    assert len(both) == 12
    for kind, queries in both.queries.items():
        own = np.concatenate([(of.queries[kind].structure * of.images.structure).sum(axis=1) for of in (first, second)])
        assert np.allclose((queries.structure * both.images.structure[queries.owner]).sum(axis=1), own)


def test_the_command_writes_a_checkpoint_that_judges(tmp_path: Path) -> None:
    plain = f"local-dir:{write_tiny_open_clip(tmp_path / 'tiny')}"
    with pytest.raises(DataError, match="--out"):
        calibrate_checkpoint(plain, "scenes:val,num_scenes=84")
    folder = tmp_path / "calibrated"
    table = calibrate_checkpoint(plain, "scenes:val,num_scenes=84", out=folder, plot=tmp_path / "plot.png")
    assert "| sketch | 1 | 168 |" in table
    assert (tmp_path / "plot.png").stat().st_size > 1000
    encoder = load_encoder(str(folder))
    assert encoder.calibration is not None
    assert len(encoder.calibration.background.appearance) == 42
    fingerprint = read_checkpoint_config(folder).fingerprint
    calibrate_checkpoint(str(folder), "scenes:val,num_scenes=84", false_accept_rate=0.2)
    config = read_checkpoint_config(folder)
    assert (config.fingerprint, config.calibration and config.calibration.false_accept_rate) == (fingerprint, 0.2)
    assert len(list(folder.glob("background-*"))) == 1
    with pytest.raises(DataError, match="at least 40"):
        calibrate_checkpoint(str(folder), "scenes:val,num_scenes=70")
