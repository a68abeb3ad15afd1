"""How far an engine looks goes with the share of structure in a query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from index.effort import STRUCTURE_WEIGHTS, Effort, among, structure_weight
from index.engine import EngineKind
from index.engine_building import EngineBuilder
from index.engine_fast_scan import FastScanEngine
from index.engine_ivf import IvfEngine
from index.engine_tuning import find_candidates, mixed_queries, part_of, recall, tenth_scores, tune
from index.errors import SnapshotError
from index.settings import LocalSettings
from tests.index.builders import Rows

_HALF = 8


def _query(weight: float) -> np.ndarray:
    unit = np.full(_HALF, _HALF**-0.5)
    return np.concatenate([(1 - weight) * unit, weight * unit]).astype(np.float32)


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_weight_is_read_from_the_query_whatever_its_length(weight: float) -> None:
    assert structure_weight(_query(weight)) == pytest.approx(weight, abs=1e-6)
    assert structure_weight(7 * _query(weight)) == pytest.approx(weight, abs=1e-6)


def test_a_query_of_nothing_is_looked_for_as_one_of_both_views() -> None:
    assert structure_weight(np.zeros(2 * _HALF, np.float32)) == 0.5


def test_between_the_weights_that_are_known_it_goes_in_a_line_and_is_rounded_up() -> None:
    effort = Effort((10, 2, 32))
    asked = (0.0, 0.24, 0.5, 0.76, 1.0)
    # 10 - 8 × 0.48 = 6.16; 2 + 30 × 0.52 = 17.6
    assert [effort.at(_query(weight)) for weight in asked] == [10, 7, 2, 18, 32]
    assert effort.largest == 32
    assert effort.replaced(1, 5) == Effort((10, 5, 32))
    assert [Effort.even(4).at(_query(weight)) for weight in asked] == [4] * 5


def test_a_known_weight_takes_its_value_though_float32_is_a_little_off() -> None:
    chance = np.random.default_rng(0)
    views = chance.standard_normal((500, 2, _HALF)).astype(np.float32)
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    weights = {structure_weight(query) for query in 0.5 * views.reshape(500, 2 * _HALF)}
    assert max(weights) > 0.5 > min(weights)
    assert {Effort((3, 1, 2)).for_weight(weight) for weight in weights} == {1}
    assert {Effort((2000, 16, 3000)).for_weight(weight) for weight in weights} == {16}
    assert among(0.1, 3, 7) == 7
    assert among(1.0, 3, 7) == 3


def _one_view_is_harder(num: int, width: int) -> np.ndarray:
    """Appearances in tight clusters, which decide the lists, and structures anywhere."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((40, width // 2))
    appearance = centres[chance.integers(0, 40, num)] + 0.05 * chance.standard_normal((num, width // 2))
    structure = chance.standard_normal((num, width // 2))
    views = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (2 * appearance, structure)]
    return np.concatenate(views, axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", [EngineKind.IVF_SQ8, EngineKind.IVF_PQ4])
def test_each_weight_looks_as_far_as_it_must(kind: EngineKind) -> None:
    rows = _one_view_is_harder(4000, 32)
    source = Rows(np.arange(4000), rows)
    engine = EngineBuilder(32, LocalSettings()).build(kind, source, lambda part: None)
    assert isinstance(engine, IvfEngine)
    reached = tune(engine, source, target=0.95, num_stored=64, over_fetch=None)
    appearance, _, structure = engine.nprobe.values
    assert structure > 2 * appearance
    assert reached >= 0.95
    queries = mixed_queries(source, 64, seed=5)
    tenths, found = tenth_scores(queries, source), find_candidates(engine, queries, None)
    for place in range(len(STRUCTURE_WEIGHTS)):
        part = part_of(queries, place)
        assert recall(queries[part], tenths[part], found[part], source) >= 0.9
    # With what appearance needs, structure would find too little: the weights are really told apart.
    engine.nprobe = Effort.even(appearance)
    part = part_of(queries, 2)
    little = find_candidates(engine, queries[part], None)
    assert recall(queries[part], tenths[part], little, source) < 0.9


def test_a_snapshot_keeps_them_and_one_from_before_is_still_read() -> None:
    rows = _one_view_is_harder(2000, 32)
    builder = EngineBuilder(32, LocalSettings())
    engine = builder.build(EngineKind.IVF_PQ4, Rows(np.arange(2000), rows), lambda part: None)
    assert isinstance(engine, FastScanEngine)
    engine.nprobe, engine.refine = Effort((1, 2, 3)), Effort((4, 5, 6))
    state = engine.state()
    again = builder.restore(state)
    assert isinstance(again, FastScanEngine)
    assert (again.nprobe, again.refine) == (Effort((1, 2, 3)), Effort((4, 5, 6)))
    before = builder.restore(replace(state, config={**state.config, "nprobe": 8, "refine": 4}))
    assert isinstance(before, FastScanEngine)
    assert (before.nprobe, before.refine) == (Effort.even(8), Effort.even(4))
    for wrong in ([1, 2], "8", [1, 2, "3"], None):
        with pytest.raises(SnapshotError, match="nprobe to be three whole numbers"):
            builder.restore(replace(state, config={**state.config, "nprobe": wrong}))
