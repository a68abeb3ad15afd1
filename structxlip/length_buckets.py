"""Texts of different lengths in batches of about one length: padding is computed like words, and for nothing.

Shapes: `n` texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def split_by_length(lengths: Sequence[int], *, spare: int) -> list[list[int]]:
    """Return the cheapest division of ``n`` texts into batches, as lists of their numbers.

    A batch costs ``spare + size * longest`` tokens. In the cheapest division texts are in the order of their lengths
    and equal lengths stay together, so it is found exactly, by dynamic programming over the different lengths.

    Args:
        lengths: Of each text, in tokens.
        spare: What one more batch costs, in tokens.
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    groups = [list(members) for _, members in groupby(order, key=lambda number: lengths[number])]
    ends = [0]
    for members in groups:
        ends.append(ends[-1] + len(members))
    # best[k]: the least cost of the first k groups, and where their last batch begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(groups) + 1):
        longest = lengths[groups[stop - 1][0]]
        best.append(
            min((best[start][0] + spare + (ends[stop] - ends[start]) * longest, start) for start in range(stop))
        )
    batches: list[list[int]] = []
    stop = len(groups)
    while stop:
        start = best[stop][1]
        batches.append(order[ends[start] : ends[stop]])
        stop = start
    return batches[::-1]
