"""Nearest-neighbour engines: the protocol, and the exact one that needs nothing but NumPy.

An engine holds numbers and vectors of width ``2 D`` and finds candidates by inner product. It is derived
data: the catalogue can rebuild it at any time. Callers keep `add` and `remove` apart from everything else;
searches may run side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.collection import Vector
from index.products import inner_products, inner_products_at

# Above this share a product with all vectors is quicker than one with those allowed.
MUCH_ALLOWED = 0.6
# So few scores are sorted in the time that finding the best of them takes.
_QUICKLY_SORTED = 320


class EngineKind(StrEnum):
    """How candidates are found."""

    NUMPY = "numpy"
    FLAT = "flat"
    IVF_SQ8 = "ivf_sq8"
    IVF_PQ = "ivf_pq"
    IVF_PQ4 = "ivf_pq4"
    HNSW = "hnsw"
    GPU_FLAT = "gpu_flat"
    GPU_IVF_SQ8 = "gpu_ivf_sq8"


@dataclass(frozen=True, slots=True)
class Candidates:
    """Numbers and the engine's own scores, best first.

    Attributes:
        numbers: What was found.
        scores: For each.
        block: Where the engine keeps exact vectors, if it does; good until it changes.
        places: In the block, for each.
    """

    numbers: Numbers
    scores: NDArray[np.float32]
    block: Matrix | None = None
    places: Numbers | None = None

    def first(self, num: int) -> Candidates:
        """Return the best of them."""
        if num >= len(self.numbers):
            return self
        places = None if self.places is None else self.places[:num]
        return Candidates(self.numbers[:num], self.scores[:num], self.block, places)


@dataclass(frozen=True, slots=True)
class EngineState:
    """An engine as plain values, for a snapshot."""

    kind: EngineKind
    config: Mapping[str, JsonValue]
    arrays: Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """Finds the numbers whose vectors have the highest inner products with a query."""

    @property
    def kind(self) -> EngineKind:
        """How it works."""
        ...

    @property
    def is_exact(self) -> bool:
        """Its scores are inner products of the stored vectors, up to float32 rounding, and none is missed."""
        ...

    @property
    def has_exact_scores(self) -> bool:
        """Its scores are inner products of the stored vectors, up to float32 rounding; some may be missed."""
        ...

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Whether a search among that many allowed vectors (among all, for ``None``) is exact in the same sense."""
        ...

    @property
    def over_fetch(self) -> int:
        """Candidates to ask for, for each hit wanted, so that exact scores find the best in spite of its own."""
        ...

    @property
    def parameters(self) -> Mapping[str, float]:
        """What was tuned, for example ``{"nprobe": 8}``."""
        ...

    @property
    def needs_rebuild(self) -> bool:
        """It has drifted so far from what it was built on that building it anew pays."""
        ...

    def __len__(self) -> int: ...

    def numbers(self) -> Numbers:
        """Return what it holds, in any order."""
        ...

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Hold these too; numbers it already holds are left as they are."""
        ...

    def remove(self, numbers: Numbers) -> None:
        """Forget these; numbers it does not hold are ignored."""
        ...

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return at most ``k`` candidates, only from ``allowed`` where given."""
        ...

    def vectors(self, numbers: Numbers) -> Matrix | None:
        """Return a copy of the exact vectors of numbers it holds, or ``None`` when it keeps none."""
        ...

    def settle(self) -> None:
        """Arrange what it holds for searches; called when it is made or brought back, before it is searched."""
        ...

    def state(self) -> EngineState:
        """Copy itself out; `index.engine_building.restore` is the way back."""
        ...


def best_of(scores: NDArray[np.float32], k: int) -> tuple[Numbers, NDArray[np.float32]]:
    """Return the rows and the values of the ``k`` highest scores, highest first."""
    if len(scores) <= _QUICKLY_SORTED:
        rows: Numbers = (-scores).argsort(kind="stable")[:k]
    else:
        rows = np.argpartition(scores, -k)[-k:] if k < len(scores) else np.arange(len(scores))
        rows = rows[np.argsort(-scores[rows], kind="stable")]
    return rows, scores.take(rows)


def places_of(numbers: Numbers, table: Numbers) -> Numbers:
    """Return where these stand in a table of numbers, ascending, leaving out those that are not there.

    Args:
        numbers: Not negative.
        table: Each number once; -1 stands for none.
    """
    if not len(numbers) or not len(table):
        return np.empty(0, dtype=np.int64)
    is_wanted = np.zeros(max(int(numbers.max()), int(table.max())) + 2, dtype=bool)
    is_wanted[numbers] = True
    is_wanted[-1] = False  # which -1 reads
    return np.flatnonzero(is_wanted[table])


class VectorTable:
    """Vectors in one dense block: added at the end, and a removed one is replaced by the last.

    Attributes:
        state: Replaced by another object with every change.
    """

    def __init__(self, width: int) -> None:
        self._rows: Matrix = np.empty((0, width), dtype=np.float32)
        self._numbers: Numbers = np.empty(0, dtype=np.int64)
        self._positions: dict[int, int] = {}
        self._is_in_turn = True  # each number is one more than the one before it
        self.state = object()

    @staticmethod
    def of(numbers: Numbers, rows: Matrix) -> VectorTable:
        """Take over arrays without copying them."""
        table = VectorTable(rows.shape[1])
        table._rows, table._numbers = rows, numbers
        table._positions = dict(zip(numbers.tolist(), range(len(numbers)), strict=True))
        table._is_in_turn = _is_in_turn(numbers)
        return table

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def numbers(self) -> Numbers:
        """The numbers in the order of `rows`; valid until the next change."""
        return self._numbers[: len(self)]

    @property
    def rows(self) -> Matrix:
        """The vectors; valid until the next change."""
        return self._rows[: len(self)]

    def positions(self, numbers: Numbers) -> Numbers:
        """Return where these stand, in their order, leaving out those that are not there."""
        if self._is_in_turn and len(self):
            places: Numbers = numbers - self._numbers[0]
            # What is negative is large without its sign.
            if places.view(np.uint64).max(initial=np.uint64(0)) < len(self):
                return places
        found = (self._positions.get(number) for number in numbers.tolist())
        return np.array([position for position in found if position is not None], dtype=np.int64)

    def holds(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Tell for each whether it is there."""
        return np.array([number in self._positions for number in numbers.tolist()], dtype=bool)

    def add(self, numbers: Numbers, rows: Matrix) -> NDArray[np.bool_]:
        """Append what is not there yet; tell for each whether it was not."""
        self.state = object()
        is_new = ~self.holds(numbers)
        numbers, rows = numbers[is_new], rows[is_new]
        start, end = len(self), len(self) + len(numbers)
        self._reserve(end)
        self._rows[start:end] = rows
        self._numbers[start:end] = numbers
        self._is_in_turn = self._is_in_turn and _is_in_turn(self._numbers[max(0, start - 1) : end])
        self._positions.update(zip(numbers.tolist(), range(start, end), strict=True))
        return is_new

    def remove(self, numbers: Numbers) -> None:
        """Forget these, moving the last rows into the gaps."""
        self.state = object()
        for number in numbers.tolist():
            position = self._positions.pop(number, None)
            if position is None:
                continue
            last = len(self._positions)
            if position != last:
                self._is_in_turn = False
                moved = int(self._numbers[last])
                self._rows[position] = self._rows[last]
                self._numbers[position] = moved
                self._positions[moved] = position

    def _reserve(self, num_rows: int) -> None:
        capacity = len(self._numbers)
        if num_rows <= capacity:
            return
        capacity = max(num_rows, capacity + capacity // 2, 1024)
        # In place, so that the system can move pages instead of copying them. Views do not outlive a search.
        self._rows.resize((capacity, self._rows.shape[1]), refcheck=False)
        self._numbers.resize(capacity, refcheck=False)


def _is_in_turn(numbers: Numbers) -> bool:
    return bool((np.diff(numbers) == 1).all())


class NumpyEngine:
    """Exact search by inner products with all rows; used where FAISS is not installed."""

    kind = EngineKind.NUMPY
    is_exact = True
    has_exact_scores = True
    over_fetch = 1
    needs_rebuild = False

    def __init__(self, table: VectorTable) -> None:
        self._table = table

    @property
    def parameters(self) -> Mapping[str, float]:
        """Nothing to tune."""
        return {}

    def __len__(self) -> int:
        return len(self._table)

    def is_exact_among(self, num_allowed: int | None) -> bool:
        """Always."""
        return True

    def numbers(self) -> Numbers:
        """Return what it holds."""
        return self._table.numbers.copy()

    def add(self, numbers: Numbers, vectors: Matrix) -> None:
        """Hold these too."""
        self._table.add(numbers, vectors)

    def remove(self, numbers: Numbers) -> None:
        """Forget these."""
        self._table.remove(numbers)

    def search(self, query: Vector, k: int, allowed: Allowed | None = None) -> Candidates:
        """Return the ``k`` best."""
        numbers, block = self._table.numbers, self._table.rows
        if allowed is None:
            places, scores = best_of(inner_products(block, query), k)
        else:
            standing = allowed.made(self._table.state, lambda wanted: places_of(wanted, numbers))
            is_much = len(standing) > MUCH_ALLOWED * len(numbers)
            products = inner_products(block, query)[standing] if is_much else inner_products_at(block, standing, query)
            rows, scores = best_of(products, k)
            places = standing[rows]
        return Candidates(numbers[places], scores, block, places)

    def vectors(self, numbers: Numbers) -> Matrix:
        """Return a copy of these vectors."""
        return self._table.rows[self._table.positions(numbers)]

    def settle(self) -> None:
        """Nothing to arrange: NumPy asks for huge pages by itself."""

    def state(self) -> EngineState:
        """Copy itself out."""
        arrays: dict[str, NDArray[Any]] = {
            "numbers": self._table.numbers.copy(),
            "rows": self._table.rows.copy(),
        }
        return EngineState(self.kind, {}, arrays)
