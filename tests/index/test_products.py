"""Inner products by several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from index import products
from index.products import best_at, inner_products, inner_products_at


@pytest.mark.parametrize("num_rows", [0, 1, 7, 1000, 40_001])
def test_products_are_those_of_a_matrix_product(num_rows: int) -> None:
    chance = np.random.default_rng(num_rows)
    rows = chance.standard_normal((num_rows, 48)).astype(np.float32)
    query = chance.standard_normal(48).astype(np.float32)
    np.testing.assert_allclose(inner_products(rows, query), rows @ query, atol=1e-4)


def test_many_may_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST_NUMBERS", 1000)
    chance = np.random.default_rng(0)
    rows = chance.standard_normal((3001, 32)).astype(np.float32)
    queries = chance.standard_normal((40, 32)).astype(np.float32)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda query: inner_products(rows, query), queries))
    np.testing.assert_allclose(np.stack(found), queries @ rows.T, atol=1e-4)


@pytest.mark.parametrize("has_faiss", [True, False])
@pytest.mark.parametrize("num_places", [0, 1, 7, 900, 3001])
def test_products_at_places_are_those_of_the_rows_there(
    has_faiss: bool, num_places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "LEAST_NUMBERS", 10_000)
    if not has_faiss:
        monkeypatch.setattr(products, "faiss", lambda: None)
    chance = np.random.default_rng(num_places)
    rows = chance.standard_normal((3001, 32)).astype(np.float32)
    query = chance.standard_normal(32).astype(np.float32)
    places = np.sort(chance.permutation(3001)[:num_places])
    np.testing.assert_allclose(inner_products_at(rows, places, query), rows[places] @ query, atol=1e-4)


def test_the_best_of_some_places_are_ranked() -> None:
    chance = np.random.default_rng(2)
    rows, query = chance.standard_normal((500, 24)).astype(np.float32), chance.standard_normal(24).astype(np.float32)
    places = chance.permutation(500)[:200]
    best, scores = best_at(rows, places, query, 30)
    expected = places[np.argsort(-(rows[places] @ query))[:30]]
    assert best.tolist() == expected.tolist()
    np.testing.assert_allclose(scores, rows[expected] @ query, rtol=1e-5, atol=1e-5)


def test_products_leave_the_number_of_threads_of_faiss_as_it_was() -> None:
    library = pytest.importorskip("faiss")
    rows, query = np.ones((8, 4), np.float32), np.ones(4, np.float32)
    before = library.omp_get_max_threads()
    try:
        for number in (1, 3):
            library.omp_set_num_threads(number)
            inner_products_at(rows, np.array([1, 5]), query)
            assert library.omp_get_max_threads() == number
    finally:
        library.omp_set_num_threads(before)
