"""The centres of many lists: found by small codes that stay in the cache, then ranked by 8 bits a number.

Comparing a query with 4,000 centres one by one, or going through a graph of them, reads megabytes that lie anywhere;
their 4-bit codes are 256 KB in a row.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

# Untyped: the stubs that come with FAISS 1.15 contradict the library.
faiss: Any = importlib.import_module("faiss")

# Numbers that share one 4-bit code.
_PIECE = 4
# Centres by their codes for each one wanted, and at least.
_REFINED, _LEAST_RANKED = 4, 32


def quick_centres(width: int) -> Any:
    """Return an empty FAISS index for the centres of an index of lists; it learns its codes from them.

    Args:
        width: Numbers in a vector: both views, side by side.
    """
    # No piece spans both views: a query weighs them differently.
    piece = math.gcd(width // 2, _PIECE)
    codes = faiss.IndexPQFastScan(width, width // piece, 4, faiss.METRIC_INNER_PRODUCT)
    rounded = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    centres = faiss.IndexRefine(codes, rounded)
    centres.k_factor = _LEAST_RANKED  # as vectors are put into lists
    return centres


def are_quick(centres: Any) -> bool:
    """Tell whether `quick_centres` made these."""
    return isinstance(faiss.downcast_index(centres), faiss.IndexRefine)


def has_graph_of_centres(index: Any) -> bool:
    """Tell whether an index of lists finds them by a graph, as ours did until 2026-11-30: `nprobe` meant less then."""
    return isinstance(faiss.downcast_index(index.quantizer), faiss.IndexHNSW)


def centre_parameters(nprobe: int, num_lists: int) -> Any:
    """Return how a search finds the nearest of `quick_centres`.

    Args:
        nprobe: How many.
        num_lists: Of how many.
    """
    num_ranked = min(max(_REFINED * nprobe, _LEAST_RANKED), num_lists)
    return faiss.IndexRefineSearchParameters(k_factor=num_ranked / nprobe)
