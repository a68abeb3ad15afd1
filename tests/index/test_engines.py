from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index import engine_fast_scan
from index.allowed import Allowed
from index.catalogue import Matrix
from index.effort import Effort
from index.engine import Engine, EngineKind
from index.engine_building import EngineBuilder, num_lists
from index.engine_choice import Machine, choose_engine, engine_bytes, first_engine, look_at_machine
from index.engine_fast_scan import FastScanEngine
from index.engine_ivf import IvfEngine
from index.engine_tuning import (
    Trial,
    find_candidates,
    find_efforts,
    ladders_among_tenth_of,
    ladders_of,
    mixed_queries,
    recall,
    set_efforts,
    tenth_scores,
    tune,
    twin_of,
)
from index.errors import SnapshotError
from index.list_centres import centre_parameters, quick_centres
from index.settings import LocalSettings
from tests.index.builders import QUIET, Rows, open_local, picture, query_vector, shown, unit, wait_until

WIDTH = 16
CPU_KINDS = [
    EngineKind.NUMPY,
    EngineKind.FLAT,
    EngineKind.IVF_SQ8,
    EngineKind.IVF_PQ,
    EngineKind.IVF_PQ4,
    EngineKind.HNSW,
]
ROOT = Path(__file__).parents[2]


def pairs_of_units(num: int, seed: int = 0) -> Matrix:
    halves = np.random.default_rng(seed).standard_normal((num, 2, WIDTH // 2)).astype(np.float32)
    halves /= np.linalg.norm(halves, axis=2, keepdims=True)
    return np.ascontiguousarray(halves.reshape(num, WIDTH))


def built(kind: EngineKind, source: Rows, settings: LocalSettings = QUIET) -> Engine:
    seen: list[float] = []
    engine = EngineBuilder(WIDTH, settings).build(kind, source, seen.append)
    assert seen == sorted(seen)
    assert not seen or seen[-1] == 1.0
    return engine


def truth(query: NDArray[np.float32], rows: dict[int, NDArray[np.float32]], k: int) -> list[int]:
    return sorted(rows, key=lambda number: -float(rows[number] @ query))[:k]


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_an_engine_follows_adds_and_removals(kind: EngineKind) -> None:
    chooser = np.random.default_rng(1)
    vectors = pairs_of_units(600)
    held = dict(enumerate(vectors[:300]))
    engine = built(kind, Rows(np.arange(300), vectors[:300]))
    for step in range(40):
        new = np.arange(300 + 5 * step, 305 + 5 * step)
        engine.add(new, vectors[new])
        held.update(zip(new.tolist(), vectors[new], strict=True))
        gone = chooser.choice(sorted(held), size=6, replace=False)
        engine.remove(np.append(gone, 10_000))
        for number in gone.tolist():
            del held[number]
        assert len(engine) == len(held)
        query = vectors[chooser.integers(600)]
        found = engine.search(query, 60)
        assert set(found.numbers.tolist()) <= set(held)
        assert len(set(truth(query, held, 5)) & set(found.numbers.tolist())) >= (5 if engine.is_exact else 2)
        assert (np.diff(found.scores) <= 0).all()
    assert sorted(engine.numbers().tolist()) == sorted(held)


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_an_engine_tells_whether_its_scores_are_those_of_the_stored_vectors(kind: EngineKind) -> None:
    vectors = pairs_of_units(600)
    engine = built(kind, Rows(np.arange(600), vectors))
    off = 0.0
    for query in pairs_of_units(20, seed=9):
        found = engine.search(query, 30)
        off = max(off, float(np.abs(found.scores - vectors[found.numbers] @ query).max()))
    assert (off < 1e-5) == engine.has_exact_scores


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_an_engine_restored_from_its_state_finds_the_same(kind: EngineKind) -> None:
    vectors = pairs_of_units(300)
    engine = built(kind, Rows(np.arange(300) * 7, vectors))
    engine.remove(np.array([7, 14]))
    restored = EngineBuilder(WIDTH, QUIET).restore(engine.state())
    assert restored.kind is kind
    assert dict(restored.parameters) == dict(engine.parameters)
    for query in vectors[:10]:
        np.testing.assert_array_equal(restored.search(query, 20).numbers, engine.search(query, 20).numbers)
    restored.add(np.array([7]), vectors[1:2])
    restored.remove(np.array([21]))
    assert len(restored) == len(engine)


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_a_selector_leaves_only_what_is_allowed(kind: EngineKind) -> None:
    vectors = pairs_of_units(400)
    engine = built(kind, Rows(np.arange(400), vectors))
    allowed = np.arange(0, 400, 9)
    found = engine.search(vectors[5], 500, Allowed(allowed)).numbers
    assert set(found.tolist()) <= set(allowed.tolist())
    if engine.is_exact:
        assert sorted(found.tolist()) == allowed.tolist()
    assert len(engine.search(vectors[5], 5, Allowed(np.array([9999]))).numbers) == 0


@pytest.mark.parametrize("kind", [EngineKind.HNSW, EngineKind.IVF_SQ8, EngineKind.IVF_PQ4])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("kept", ["any", "nearest", "farthest"])
def test_a_filter_loses_nothing_wherever_what_it_keeps_lies(
    kind: EngineKind, share: float, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((24, WIDTH))
    vectors = unit(centres[chance.integers(0, 24, 6000)] + 0.6 * chance.standard_normal((6000, WIDTH)))
    source = Rows(np.arange(6000), vectors)
    engine = built(kind, source)
    tune(engine, source, target=0.98, num_stored=32, over_fetch=None)
    monkeypatch.setattr("index.engine_hnsw._SCANNED_ANYWAY", 0)
    monkeypatch.setattr("index.engine_hnsw._SCANNED_A_CANDIDATE", 0)
    monkeypatch.setattr("index.engine_fast_scan._SCANNED", 0)
    queries = unit(vectors[:40] + 0.1 * chance.standard_normal((40, WIDTH)))
    num_found = 0
    for query in queries:
        order = np.argsort(-(vectors @ query))
        order = {"any": chance.permutation(order), "nearest": order, "farthest": order[::-1]}[kept]
        allowed = np.sort(order[: int(share * len(vectors))])
        best = allowed[np.argsort(-(vectors[allowed] @ query))[:10]]
        found = engine.search(query, 10 * engine.over_fetch + 16, Allowed(allowed)).numbers
        assert np.isin(found, allowed).all()
        num_found += len(set(found.tolist()) & set(best.tolist()))
    assert num_found >= 0.97 * 10 * len(queries)


def test_a_graph_scans_what_is_left_where_little_is() -> None:
    vectors = pairs_of_units(5000)
    engine = built(EngineKind.HNSW, Rows(np.arange(5000), vectors))
    engine.remove(np.arange(10))
    allowed = np.arange(0, 5000, 7)
    assert engine.is_exact_among(len(allowed))
    assert not engine.is_exact_among(None)
    found = engine.search(vectors[3], 800, Allowed(allowed))
    assert sorted(found.numbers.tolist()) == allowed[allowed >= 10].tolist()
    np.testing.assert_allclose(found.scores, vectors[found.numbers] @ vectors[3], atol=1e-6)


@pytest.mark.parametrize("kind", CPU_KINDS)
def test_an_engine_begins_empty_and_takes_what_comes(kind: EngineKind) -> None:
    engine = built(kind, Rows(np.empty(0, np.int64), np.empty((0, WIDTH), np.float32)))
    vectors = pairs_of_units(50)
    assert len(engine.search(vectors[0], 3).numbers) == 0
    engine.add(np.arange(50), vectors)
    engine.add(np.arange(50), vectors)
    assert len(engine) == 50
    if kind is EngineKind.IVF_PQ:  # its codes were made of nothing; it asks to be made anew
        assert engine.needs_rebuild
    else:
        assert engine.search(vectors[20], 3).numbers[0] == 20
    engine.remove(np.arange(50))
    assert len(engine.search(vectors[0], 3).numbers) == 0


def test_the_flat_engine_scores_as_index_flat_ip_does() -> None:
    vectors = pairs_of_units(500)
    reference = faiss.IndexFlatIP(WIDTH)
    reference.add(vectors)
    engine = built(EngineKind.FLAT, Rows(np.arange(500), vectors))
    for query in pairs_of_units(20, seed=9):
        scores, numbers = reference.search(query[None], 25)
        found = engine.search(query, 25)
        np.testing.assert_array_equal(found.numbers, numbers[0])
        np.testing.assert_allclose(found.scores, scores[0], atol=1e-6)


def test_exact_engines_have_recall_one_and_a_broken_one_does_not() -> None:
    vectors = pairs_of_units(800)
    source = Rows(np.arange(800), vectors)
    engine = built(EngineKind.FLAT, source)
    queries = mixed_queries(source, 10, seed=3)
    assert queries.shape == (30, WIDTH)
    tenths = tenth_scores(queries, source)
    brute = -np.sort(-(queries @ vectors.T), axis=1)[:, 9]
    np.testing.assert_allclose(tenths, brute, atol=1e-6)
    assert recall(queries, tenths, find_candidates(engine, queries, 1), source) == 1.0
    nowhere = [np.empty(0, np.int64)] * len(queries)
    assert recall(queries, tenths, nowhere, source) == 0.0
    worst = [np.argsort(vectors @ query)[:26] for query in queries]
    assert recall(queries, tenths, worst, source) < 0.1


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (EngineKind.IVF_SQ8, 0.99),
        (EngineKind.IVF_PQ, 0.95),
        (EngineKind.IVF_PQ4, 0.99),
        (EngineKind.HNSW, 0.99),
    ],
)
def test_tuning_reaches_the_target_with_the_cheapest_setting(kind: EngineKind, target: float) -> None:
    vectors = pairs_of_units(4000)
    source = Rows(np.arange(4000), vectors)
    engine = built(kind, source)
    over_fetch = None if kind is EngineKind.IVF_PQ else 1
    low = tune(engine, source, target=0.3, num_stored=16, over_fetch=over_fetch)
    cheap = max(engine.parameters[name] for name in ("nprobe", "ef_search") if name in engine.parameters)
    high = tune(engine, source, target=target, num_stored=16, over_fetch=over_fetch)
    dear = max(engine.parameters[name] for name in ("nprobe", "ef_search") if name in engine.parameters)
    assert low >= 0.3
    assert high >= target
    assert cheap < dear


def test_many_lists_are_found_by_codes_of_their_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.engine_ivf._MANY_LISTS", 64)
    vectors = pairs_of_units(4000)
    source = Rows(np.arange(4000), vectors)
    engine = built(EngineKind.IVF_PQ4, source)
    assert tune(engine, source, target=0.98, num_stored=16, over_fetch=None) >= 0.98
    again = EngineBuilder(WIDTH, LocalSettings()).restore(engine.state())
    assert isinstance(engine, FastScanEngine)
    assert isinstance(again, FastScanEngine)
    assert engine._has_quick_centres
    assert again._has_quick_centres
    for query in pairs_of_units(20, seed=9):
        assert again.search(query, 10).numbers.tolist() == engine.search(query, 10).numbers.tolist()


def test_the_nearest_centres_are_found_by_their_codes() -> None:
    chance = np.random.default_rng(3)
    basis = chance.standard_normal((16, 128)).astype(np.float32)

    def drawn(num: int) -> Matrix:
        return unit(chance.standard_normal((num, 16)) @ basis + 0.5 * chance.standard_normal((num, 128)))

    centres = drawn(3000)
    index = quick_centres(128)
    index.train(centres)
    index.add(centres)
    for nprobe, least in ((1, 0.95), (10, 0.95), (2000, 0.97), (3000, 1.0)):
        num_met = 0
        queries = drawn(40)
        for query in queries:
            found = index.search(query[None], nprobe, params=centre_parameters(nprobe, len(centres)))[1][0]
            num_met += len(np.intersect1d(found, np.argsort(-(centres @ query))[:nprobe]))
        assert num_met >= least * nprobe * len(queries)


def test_a_snapshot_whose_lists_are_found_by_a_graph_is_made_anew() -> None:
    engine = built(EngineKind.IVF_PQ4, Rows(np.arange(1000), pairs_of_units(1000)))
    state = engine.state()
    index = faiss.deserialize_index(state.arrays["index"])
    centres = index.quantizer.reconstruct_n(0, index.nlist)
    graph = faiss.IndexHNSWFlat(index.d, 8, faiss.METRIC_INNER_PRODUCT)
    graph.add(centres)
    index.own_fields = False
    index.quantizer = graph
    arrays = {**state.arrays, "index": faiss.serialize_index(index)}
    with pytest.raises(SnapshotError, match="graph"):
        EngineBuilder(WIDTH, LocalSettings()).restore(replace(state, arrays=arrays))


def test_a_filter_that_keeps_much_is_sifted_unless_it_keeps_what_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fast_scan, "_SCORED_OF_MANY", 1e9)  # else so few are scored one and all
    chance = np.random.default_rng(0)
    centres = unit(chance.standard_normal((2, WIDTH)))
    is_second = np.arange(12_000) % 2 == 1
    vectors = unit(centres[is_second.astype(int)] + 0.2 * chance.standard_normal((12_000, WIDTH)))
    source = Rows(np.arange(12_000), vectors)
    engine = built(EngineKind.IVF_PQ4, source)
    assert isinstance(engine, FastScanEngine)
    tune(engine, source, target=0.99, num_stored=32, over_fetch=None)
    by_chance, far = Allowed(np.flatnonzero(chance.random(12_000) < 0.5)), Allowed(np.flatnonzero(is_second))
    queries = unit(centres[0] + 0.2 * chance.standard_normal((20, WIDTH)))
    num_found = {"by chance": 0, "far": 0}
    for query in queries:
        assert engine.sifted(query, 10, by_chance) is not None
        assert engine.sifted(query, 10, far) is None
        for name, allowed in (("by chance", by_chance), ("far", far)):
            found = engine.search(query, 10, allowed).numbers
            assert np.isin(found, allowed.numbers).all()
            exact = allowed.numbers[np.argsort(-(vectors[allowed.numbers] @ query))[:10]]
            num_found[name] += len(np.intersect1d(found, exact))
    assert min(num_found.values()) >= 0.95 * 10 * len(queries)


def test_searches_with_a_filter_are_tuned_with_one_that_keeps_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fast_scan, "_SCORED_OF_MANY", 1e9)
    monkeypatch.setattr(engine_fast_scan, "_SCANNED", 100)
    chance = np.random.default_rng(0)
    centres = unit(chance.standard_normal((50, WIDTH)))
    vectors = unit(centres[chance.integers(0, 50, 12_000)] + 0.3 * unit(chance.standard_normal((12_000, WIDTH))))
    source = Rows(np.arange(12_000), vectors)
    engine = built(EngineKind.IVF_PQ4, source)
    assert isinstance(engine, FastScanEngine)
    tune(engine, source, target=0.98, num_stored=64, over_fetch=None)
    assert engine.nprobe_among_tenth is not None
    _check_that_a_twin_is_tuned_alike(engine, source)
    restored = EngineBuilder(WIDTH, QUIET).restore(engine.state())
    assert isinstance(restored, FastScanEngine)
    assert restored.nprobe_among_tenth == engine.nprobe_among_tenth
    assert restored.refine_among_tenth == engine.refine_among_tenth
    for share in (0.05, 0.1, 0.5):
        allowed = Allowed(np.flatnonzero(chance.random(12_000) < share))
        num_found = 0
        for query in unit(vectors[::400] + 0.1 * chance.standard_normal((30, WIDTH))):
            found = restored.sifted(query, 26, allowed)
            assert found is not None
            exact = allowed.numbers[np.argsort(-(vectors[allowed.numbers] @ query))[:10]]
            num_found += len(np.intersect1d(found.numbers, exact))
        assert num_found >= 0.95 * 10 * 30


def _check_that_a_twin_is_tuned_alike(engine: FastScanEngine, source: Rows) -> None:
    ladders = (*ladders_of(engine), *ladders_among_tenth_of(engine))
    tuned = {ladder: ladder.at(engine) for ladder in ladders}
    set_efforts(engine, dict.fromkeys(ladders, Effort.even(1)))

    @contextmanager
    def look() -> Iterator[Trial]:
        yield Trial(twin_of(engine), source, lambda: None)

    found = find_efforts(look, target=0.98, num_stored=64, over_fetch=None)
    assert found.efforts == tuned
    assert {ladder: ladder.at(engine) for ladder in ladders} == found.before == dict.fromkeys(ladders, Effort.even(1))
    set_efforts(engine, found.efforts)


def test_what_no_filter_of_a_tenth_can_be_tuned_for_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fast_scan, "_SCANNED", 100)
    chance = np.random.default_rng(0)
    source = Rows(np.arange(8000), unit(chance.standard_normal((8000, WIDTH))))
    engine = built(EngineKind.IVF_PQ4, source)
    assert isinstance(engine, FastScanEngine)
    tune(engine, source, target=0.99, num_stored=32, over_fetch=None)
    assert engine.nprobe_among_tenth is None
    assert engine.sifted(source.pairs([0])[1][0], 26, Allowed(np.arange(0, 8000, 10))) is None


def test_what_cannot_reach_the_target_does_not_read_everything_for_it() -> None:
    # Clusters far apart: reading more lists than a few finds nothing more, and codes of two bits stay what they are.
    chance = np.random.default_rng(0)
    centres = np.linalg.qr(chance.standard_normal((WIDTH, WIDTH)))[0]
    rows = centres[chance.integers(0, WIDTH, 4000)] + 0.05 * chance.standard_normal((4000, WIDTH))
    source = Rows(np.arange(4000), rows.astype(np.float32))
    engine = built(EngineKind.IVF_PQ, source)
    assert tune(engine, source, target=1.1, num_stored=16, over_fetch=1) < 1
    assert engine.parameters["nprobe"] < engine.parameters["nlist"]


def test_more_lists_for_more_vectors_but_never_thin_ones() -> None:
    assert [num_lists(n) for n in (0, 1, 38, 78, 10_000, 1_000_000)] == [1, 1, 1, 2, 256, 4000]
    of_quick_codes = [num_lists(n, EngineKind.IVF_PQ4) for n in (0, 78, 10_000, 100_000, 1_000_000)]
    assert of_quick_codes == [1, 2, 256, 2500, 4000]


CPU = Machine(has_faiss=True, num_gpus=0)
GPU = Machine(has_faiss=True, num_gpus=2)
BARE = Machine(has_faiss=False, num_gpus=0)


@pytest.mark.parametrize(
    ("num", "settings", "machine", "current", "expected"),
    [
        (0, LocalSettings(), CPU, None, EngineKind.FLAT),
        (100_000, LocalSettings(), CPU, None, EngineKind.FLAT),
        (100_001, LocalSettings(), CPU, None, EngineKind.IVF_PQ4),
        (100_001, LocalSettings(), CPU, EngineKind.FLAT, EngineKind.IVF_PQ4),
        (100_001, LocalSettings(), CPU, EngineKind.HNSW, EngineKind.IVF_PQ4),
        (100_001, LocalSettings(large_engine="hnsw"), CPU, None, EngineKind.HNSW),
        (60_000, LocalSettings(), CPU, EngineKind.IVF_PQ4, EngineKind.IVF_PQ4),
        (60_000, LocalSettings(large_engine="hnsw"), CPU, EngineKind.HNSW, EngineKind.HNSW),
        (50_000, LocalSettings(), CPU, EngineKind.IVF_PQ4, EngineKind.FLAT),
        # 8 GiB: a quarter holds 0.9 million vectors with their codes, 3.2 of 8 bits, 7.7 of codes alone.
        (900_000, LocalSettings(), CPU, None, EngineKind.IVF_PQ4),
        (1_000_000, LocalSettings(), CPU, None, EngineKind.IVF_SQ8),
        (1_000_000, LocalSettings(), CPU, EngineKind.IVF_PQ4, EngineKind.IVF_PQ4),
        (1_300_000, LocalSettings(), CPU, EngineKind.IVF_PQ4, EngineKind.IVF_SQ8),
        (3_200_000, LocalSettings(), CPU, None, EngineKind.IVF_SQ8),
        (4_000_000, LocalSettings(), CPU, None, EngineKind.IVF_PQ),
        (10**9, LocalSettings(), CPU, None, EngineKind.IVF_PQ),
        (10, LocalSettings(), GPU, None, EngineKind.GPU_FLAT),
        (10, LocalSettings(use_gpu=False), GPU, None, EngineKind.FLAT),
        (10**6, LocalSettings(), GPU, None, EngineKind.GPU_IVF_SQ8),
        (10**6, LocalSettings(engine="flat"), GPU, None, EngineKind.FLAT),
        (10**6, LocalSettings(), BARE, None, EngineKind.NUMPY),
        (10**6, LocalSettings(engine="hnsw"), BARE, None, EngineKind.NUMPY),
    ],
)
def test_the_engine_is_chosen_by_size_and_machine(
    num: int, settings: LocalSettings, machine: Machine, current: EngineKind | None, expected: EngineKind
) -> None:
    assert choose_engine(num, 512, settings, machine, current) is expected


def test_where_nothing_was_saved_an_exact_scan_serves_first_if_it_fits() -> None:
    assert first_engine(EngineKind.HNSW, 10**6, 512, CPU) is EngineKind.FLAT
    assert first_engine(EngineKind.IVF_PQ4, 10**6, 512, CPU) is EngineKind.FLAT
    assert first_engine(EngineKind.IVF_PQ, 2 * 10**6, 512, CPU) is EngineKind.IVF_PQ
    assert first_engine(EngineKind.FLAT, 100, 512, CPU) is EngineKind.FLAT
    assert first_engine(EngineKind.GPU_IVF_SQ8, 10**6, 512, GPU) is EngineKind.GPU_IVF_SQ8
    assert first_engine(EngineKind.NUMPY, 10**6, 512, BARE) is EngineKind.NUMPY


@pytest.mark.parametrize("kind", [EngineKind.HNSW, EngineKind.IVF_SQ8, EngineKind.IVF_PQ, EngineKind.IVF_PQ4])
def test_a_large_engine_takes_about_the_memory_it_is_chosen_by(kind: EngineKind) -> None:
    rows = np.random.default_rng(0).standard_normal((10_000, 256), dtype=np.float32)
    source = Rows(np.arange(10_000), rows)
    engine = EngineBuilder(256, LocalSettings()).build(kind, source, lambda _: None)
    saved = sum(array.nbytes for array in engine.state().arrays.values())
    # In memory there is more: tables of where each number stands.
    assert 0.5 < saved / engine_bytes(kind, 10_000, 256) < 1.2


def test_this_machine_has_faiss() -> None:
    machine = look_at_machine()
    assert machine.has_faiss
    assert machine.memory_bytes > 1 << 30


@pytest.mark.parametrize("large", ["ivf_sq8", "ivf_pq", "ivf_pq4", "hnsw"])
def test_a_growing_collection_changes_its_engine_while_it_is_used(folder: Path, large: str) -> None:
    settings = replace(QUIET, flat_limit=100, large_engine=large, over_fetch=10)  # type: ignore[arg-type]
    with open_local(folder / "c", settings) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(100)])
        assert collection.status().engine == "flat"
        for start in range(100, 400, 10):  # the swap falls into these
            collection.add([picture(f"p{i:03d}", i) for i in range(start, start + 10)])
            collection.delete(f"p{start - 100:03d}")
            assert len(collection.search(query_vector(0), limit=600).items) == collection.count()
        wait_until(lambda: collection.status().engine == large and collection.status().activity is None)
        assert collection.self_check() >= 0.9
        assert collection.status().self_check_recall == collection._maintenance.self_check_recall
        assert collection.status().search_parameters
        collection.add([picture("late", 9999)])
        target = picture("late", 9999)
        query = np.concatenate([target.appearance, target.structure])
        assert collection.search(query, limit=1).items[0].record.id == "late"
        expected = shown(collection.search(query_vector(1), limit=10))
    with open_local(folder / "c", settings) as collection:
        assert collection.status().engine == large
        assert shown(collection.search(query_vector(1), limit=10)) == expected


def test_without_a_snapshot_an_exact_scan_serves_until_the_large_engine_is_made(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(QUIET, flat_limit=100, large_engine="ivf_sq8", over_fetch=10)
    with open_local(folder / "c", replace(QUIET, engine="flat")) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(300)])
    shutil.rmtree(folder / "c" / "snapshots")
    caplog.set_level(logging.INFO, "index.maintenance")
    with open_local(folder / "c", settings) as collection:
        assert collection.status().is_ready
        wait_until(lambda: collection.status().engine == "ivf_sq8" and collection.status().activity is None)
        assert len(collection.search(query_vector(1), limit=300).items) == 300
    made = [message for message in caplog.messages if message.startswith("rebuilt the index")]
    assert [message.split("(")[1].split(")")[0] for message in made] == ["flat", "ivf_sq8"]


def test_lists_are_made_anew_as_the_collection_grows(folder: Path) -> None:
    settings = replace(QUIET, engine="ivf_sq8", retrain_growth=2.0)
    with open_local(folder / "c", settings) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(50)])
        wait_until(lambda: not collection._live.needs_rebuild)
        few = collection.status().search_parameters["nlist"]
        collection.add([picture(f"q{i:03d}", 100 + i) for i in range(200)])
        wait_until(lambda: collection.status().search_parameters["nlist"] > few)


def test_a_graph_with_many_dead_entries_is_made_anew(folder: Path) -> None:
    with open_local(folder / "c", replace(QUIET, engine="hnsw")) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(300)])
        for i in range(200):
            collection.delete(f"p{i:03d}")
        wait_until(lambda: not collection._live.needs_rebuild)
        assert len(collection.search(query_vector(0), limit=300).items) == 100


def test_self_checks_run_by_themselves(folder: Path) -> None:
    settings = replace(QUIET, self_check_seconds=0.05)
    with open_local(folder / "c", settings) as collection:
        assert collection.status().self_check_recall is None
        collection.add([picture(f"p{i:03d}", i) for i in range(30)])
        wait_until(lambda: collection.status().self_check_recall == 1.0)


def test_an_engine_that_finds_too_little_looks_further(folder: Path) -> None:
    settings = replace(QUIET, engine="ivf_sq8", over_fetch=1, retrain_growth=1e9, self_check_seconds=3600)
    with open_local(folder / "c", settings) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(600)])
        # Its lists, made of nothing, are made anew by itself; afterwards nobody puts another engine in its place.
        wait_until(lambda: not collection._live.needs_rebuild and collection.status().activity is None)
        engine = collection._live._engine
        assert isinstance(engine, IvfEngine)
        assert engine.parameters["nlist"] > 8
        engine.nprobe = Effort.even(1)  # as if pictures of another kind had come, which other lists hold
        assert collection.self_check() < 0.9
        collection._maintenance._check_time -= 3600
        wait_until(lambda: engine.nprobe.largest > 1 and collection.status().activity is None)
        recall_now = collection.status().self_check_recall
        assert recall_now is not None
        assert recall_now >= settings.recall_target


def test_an_engine_is_tuned_again_before_its_lists_are_made_anew(folder: Path) -> None:
    settings = replace(QUIET, engine="ivf_sq8", retrain_growth=2.0)
    with open_local(folder / "c", settings) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(600)])
        wait_until(lambda: not collection._live.needs_rebuild and collection.status().activity is None)
        engine = collection._live._engine
        assert isinstance(engine, IvfEngine)
        engine.nprobe = Effort.even(1)  # as if that had been enough for as many
        collection.add([picture(f"q{i:03d}", 1000 + i) for i in range(140)])
        assert collection.self_check() < 0.9
        collection.add([picture(f"r{i:03d}", 2000 + i) for i in range(20)])
        wait_until(lambda: engine.nprobe.largest > 1 and collection.status().activity is None)
        assert collection._live._engine is engine
        assert collection.self_check() >= 0.9
        collection.snapshot()
        tuned = engine.nprobe
    with open_local(folder / "c", settings) as collection:
        engine = collection._live._engine
        assert isinstance(engine, IvfEngine)
        assert engine.nprobe == tuned


def test_tuning_again_is_also_for_searches_with_a_filter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_fast_scan, "_SCORED_OF_MANY", 1e9)
    monkeypatch.setattr(engine_fast_scan, "_SCANNED", 50)
    with open_local(folder / "c", replace(QUIET, engine="ivf_pq4", num_tuning_queries=16)) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(600)])
        wait_until(lambda: not collection._live.needs_rebuild and collection.status().activity is None)
        engine = collection._live._engine
        assert isinstance(engine, FastScanEngine)
        tuned = engine.nprobe_among_tenth, engine.refine_among_tenth
        engine.nprobe_among_tenth = engine.refine_among_tenth = least = Effort.even(1)  # enough for fewer, say
        assert tuned != (least, least)
        collection._maintenance._tune_again()
        assert collection._live._engine is engine
        assert (engine.nprobe_among_tenth, engine.refine_among_tenth) != (least, least)


def test_searches_do_not_notice_that_an_engine_is_being_tuned(folder: Path) -> None:
    settings = replace(QUIET, engine="ivf_sq8")
    with open_local(folder / "c", settings) as collection:
        collection.add([picture(f"p{i:03d}", i) for i in range(300)])
        wait_until(lambda: not collection._live.needs_rebuild and collection.status().activity is None)
        engine = collection._live._engine
        assert isinstance(engine, IvfEngine)
        before, twin = engine.nprobe, twin_of(engine)
        set_efforts(twin, {ladder: Effort.even(1) for ladder in ladders_of(engine)})
        assert engine.nprobe == before
        assert set(twin.search(query_vector(0), 300).numbers) < set(engine.numbers())
        assert len(engine.search(query_vector(0), 300).numbers) > len(twin.search(query_vector(0), 300).numbers)


def test_an_engine_that_fails_is_made_anew_from_the_catalogue(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_local(folder / "c") as collection:
        collection.add([picture("a", 1)])
        engine = collection._live._engine
        assert engine is not None

        def broken(*_: object) -> None:
            raise MemoryError("no memory")

        monkeypatch.setattr(engine, "add", broken)
        collection.add([picture("b", 2)])
        wait_until(lambda: collection.status().is_ready)
        assert len(collection.search(query_vector(0), limit=5).items) == 2
    assert "made anew" in caplog.text


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_index_never_loads_torch(folder: Path) -> None:
    code = (
        "import sys, pathlib, pkgutil, importlib, index\n"
        "names = [each.name for each in pkgutil.iter_modules(index.__path__, 'index.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "from index.local import LocalCollection\n"
        f"LocalCollection.open(pathlib.Path({str(folder)!r}) / 'c', dimension=4, fingerprint='f').close()\n"
        "assert len(names) > 20, names\n"
        "assert 'faiss' in sys.modules\n"
        "assert 'torch' not in sys.modules and 'structxlip' not in sys.modules\n"
    )
    run_python(code)


def test_without_faiss_a_collection_is_searched_by_numpy(folder: Path) -> None:
    code = (
        "import sys, pathlib, logging, importlib.abc\n"
        "class No(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'faiss': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "import importlib.util; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'faiss' else real(name, *a)\n"
        "logging.basicConfig(stream=sys.stdout)\n"
        "from tests.index.builders import *\n"
        f"with open_local(pathlib.Path({str(folder)!r}) / 'c') as c:\n"
        "    c.add([picture(str(i), i) for i in range(5)])\n"
        "    print(c.status().engine, len(c.search(query_vector(0), limit=9).items))\n"
    )
    output = run_python(code)
    assert "numpy 5" in output
    assert "FAISS is not installed" in output
