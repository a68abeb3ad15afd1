"""Inner products of many rows with one query, as fast as memory is read, on threads that sleep when nothing is asked.

A matrix product of NumPy's BLAS is as fast, but its threads go on spinning for some 25 ms after each product, on cores
that the model wants. FAISS takes one core, and 2.5 times as long (100,000 x 512, two cores, 2026-11-25).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.catalogue import Matrix, Numbers
from index.collection import Vector

# Reading memory takes few cores: more of them only wait for each other.
MAX_THREADS = 4
# Fewer numbers than these are done before another thread has woken up: about a tenth of a millisecond.
LEAST_NUMBERS = 1 << 19
# So few are ranked in one call.
NUM_QUICKLY_RANKED = 1024

Scores = NDArray[np.float32]
WritePart = Callable[[slice, Scores], None]


def inner_products(rows: Matrix, query: Vector) -> Scores:
    """Return ``rows · query``, float32 ``(N,)``.

    Args:
        rows: ``(N, W)``.
        query: ``(W,)``.
    """
    return _in_parts(len(rows), rows.size, partial(_write_products, rows, query))


def inner_products_at(rows: Matrix, places: Numbers, query: Vector) -> Scores:
    """Return ``rows[places] · query``, float32 ``(P,)``, without copying the rows where FAISS is installed.

    Args:
        rows: ``(N, W)``, C-contiguous.
        places: ``(P,)``, int64; ascending ones are read fastest.
        query: ``(W,)``.
    """
    write = _write_copied if faiss() is None else _write_at
    return _in_parts(len(places), len(places) * rows.shape[1], partial(write, rows, places, query))


def best_at(rows: Matrix, places: Numbers, query: Vector, k: int) -> tuple[Numbers, Scores]:
    """Return the ``k`` of some places whose rows have the highest products with a query, highest first, and these.

    One call of FAISS, on one thread: for no more than `NUM_QUICKLY_RANKED` places.

    Args:
        rows: ``(N, W)``, C-contiguous.
        places: ``(P,)``, int64.
        query: ``(W,)``, C-contiguous.
        k: At most ``P``.
    """
    best, scores = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
    library = faiss()
    pointer = library.swig_ptr
    _on_one_thread(
        library.knn_inner_products_by_idx,
        pointer(query),
        pointer(rows),
        pointer(places),
        rows.shape[1],
        1,
        len(rows),
        len(places),
        k,
        pointer(scores),
        pointer(best),
    )
    return best, scores


def _in_parts(num_rows: int, num_numbers: int, write: WritePart) -> Scores:
    """Write the scores of all rows, on as many threads as pay."""
    found = np.empty(num_rows, dtype=np.float32)
    num_parts = min(_num_threads(), max(1, num_numbers // LEAST_NUMBERS))
    if num_parts == 1:
        write(slice(None), found)
        return found
    edges = np.linspace(0, num_rows, num_parts + 1).astype(int).tolist()
    parts = [slice(start, end) for start, end in pairwise(edges)]
    # The caller does the last part itself.
    others = [_threads().submit(write, part, found[part]) for part in parts[:-1]]
    write(parts[-1], found[parts[-1]])
    for other in others:
        other.result()
    return found


def _write_products(rows: Matrix, query: Vector, part: slice, out: Scores) -> None:
    np.einsum("nw,w->n", rows[part], query, out=out)


def _write_copied(rows: Matrix, places: Numbers, query: Vector, part: slice, out: Scores) -> None:
    np.einsum("nw,w->n", rows[places[part]], query, out=out)


def _write_at(rows: Matrix, places: Numbers, query: Vector, part: slice, out: Scores) -> None:
    library, which = faiss(), places[part]
    pointer = library.swig_ptr
    _on_one_thread(
        library.fvec_inner_products_by_idx,
        pointer(out),
        pointer(query),
        pointer(rows),
        pointer(which),
        rows.shape[1],
        1,
        len(which),
    )


def _on_one_thread(call: Callable[..., None], *arguments: object) -> None:
    """Call FAISS, which would share the work between threads.

    Where another thread of the process has such helpers too, waking them takes longer than the work does (260 rows of
    512: 86 and 26 microseconds).
    """
    library = faiss()
    num_threads = library.omp_get_max_threads()
    library.omp_set_num_threads(1)
    call(*arguments)
    library.omp_set_num_threads(num_threads)


@cache
def faiss() -> Any:
    """Return FAISS where it is installed. Untyped: the stubs that come with 1.15 contradict the library."""
    try:
        return importlib.import_module("faiss")
    except ImportError:
        return None


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _num_threads() - 1), thread_name_prefix="products")


@cache
def _num_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_THREADS, cores)
