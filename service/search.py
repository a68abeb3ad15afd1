"""From a query to one vector over both views, and from stored vectors back to two numbers. No HTTP here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TwoViewQuery:
    """A query's two unit vectors, each of shape ``(D,)``, and how much structure counts (0 to 1)."""

    appearance: Vector
    structure: Vector
    structure_weight: float

    def vector(self) -> Vector:
        """Return ``[(1 - w) q_v ; w q_e]``, shape ``(2 D,)``: its inner product with ``[v ; e]`` is the score."""
        w = np.float32(self.structure_weight)
        return np.concatenate([(1 - w) * self.appearance, w * self.structure])

    def scores(self, appearance: Vector, structure: Vector) -> tuple[float, float]:
        """Return a stored picture's two unweighted inner products (appearance, structure)."""
        return float(self.appearance @ appearance), float(self.structure @ structure)
