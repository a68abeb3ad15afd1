"""From a query's terms to one vector over both views, and from stored vectors back to two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from structxlip.calibration import QueryKind

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that a query names.

    Attributes:
        kind: What it is; a sketch has no colours.
        appearance: Unit vector of shape ``(D,)``; ``None`` for a sketch.
        structure: Unit vector of shape ``(D,)``.
        weight: Share among the query's terms, above 0.
    """

    kind: QueryKind
    appearance: Vector | None
    structure: Vector
    weight: float = 1.0

    def natural_weight(self, default: float) -> float:
        """Return how much structure counts when nobody chose: only lines can match a sketch."""
        return 1.0 if self.appearance is None else default


@dataclass(frozen=True, slots=True)
class TwoViewQuery:
    """A query's vectors, each of shape ``(D,)``, and how much structure counts (0 to 1).

    The vectors of one term are unit vectors. Those of several are weighted means, so that the scores of a hit are the
    weighted means of its scores for each term.
    """

    appearance: Vector
    structure: Vector
    structure_weight: float
    kind: QueryKind = QueryKind.TEXT

    def vector(self) -> Vector:
        """Return ``[(1 - w) q_v ; w q_e]``, shape ``(2 D,)``: its inner product with ``[v ; e]`` is the score."""
        w = np.float32(self.structure_weight)
        return np.concatenate([(1 - w) * self.appearance, w * self.structure])

    def scores(self, appearance: Vector, structure: Vector) -> tuple[float, float]:
        """Return a stored picture's two unweighted inner products (appearance, structure)."""
        return float(self.appearance @ appearance), float(self.structure @ structure)


def combine(terms: Sequence[Term], *, structure_weight: float | None, default_weight: float) -> TwoViewQuery:
    """Return one query for several terms.

    Each view is the mean over the terms that have it, ``Σ aᵢ vᵢ / Σ aᵢ``. Without a chosen weight, structure counts
    ``Σ aᵢ wᵢ / Σ aᵢ`` with ``wᵢ`` each term's natural weight: a sketch beside words counts as a sketch does alone, for
    its share of the query.

    Args:
        terms: At least one.
        structure_weight: Chosen by the caller, 0 to 1; ``None`` to leave it to the terms.
        default_weight: The model's.
    """
    if len(terms) == 1:
        term = terms[0]
        weight = term.natural_weight(default_weight) if structure_weight is None else structure_weight
        appearance = np.zeros_like(term.structure) if term.appearance is None else term.appearance
        return TwoViewQuery(appearance, term.structure, weight, term.kind)
    shares = np.array([term.weight for term in terms], dtype=np.float64)
    shares /= shares.sum()
    if structure_weight is None:
        natural = [term.natural_weight(default_weight) for term in terms]
        # Not by the shares where all agree: thirds of 1 add up to a little less.
        structure_weight = natural[0] if len(set(natural)) == 1 else min(1.0, float(shares @ natural))
    coloured = [
        (share, term.appearance) for share, term in zip(shares, terms, strict=True) if term.appearance is not None
    ]
    return TwoViewQuery(
        appearance=_mean(coloured) if coloured else np.zeros_like(terms[0].structure),
        structure=_mean([(share, term.structure) for share, term in zip(shares, terms, strict=True)]),
        structure_weight=structure_weight,
        kind=max(terms, key=lambda term: term.weight).kind,
    )


def _mean(parts: Sequence[tuple[float, Vector]]) -> Vector:
    if len(parts) == 1:
        return parts[0][1]
    total = sum(share for share, _ in parts)
    return np.asarray(sum(share * vector for share, vector in parts) / total, dtype=np.float32)
