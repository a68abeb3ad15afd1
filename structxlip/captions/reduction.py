"""What a filter makes of a caption: the shorter text, and what it left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from structxlip.captions.words import Unit, render, split_units

Spans = tuple[tuple[int, int], ...]
Keep = Callable[[Sequence[Unit]], list[Unit]]


@dataclass(frozen=True)
class Reduction:
    """``text`` is what is left; ``dropped`` are the spans of the whole caption that are not in it, in order."""

    text: str
    dropped: Spans


@dataclass(frozen=True)
class WeightedSpan:
    """Characters ``start`` to ``end`` of a caption, a word or a sign, and how much it counts."""

    start: int
    end: int
    weight: float


def compose(text: str, keep: Keep) -> Reduction:
    """Apply ``keep`` to ``text`` until it drops nothing more, so that filtering twice is filtering once."""
    step = compose_once(text, keep)
    whole = step
    while step.dropped:
        step = compose_once(step.text, keep)
        whole = _joined(text, whole, step)
    return whole


def compose_once(text: str, keep: Keep) -> Reduction:
    """The structural text that ``keep`` makes of ``text``.

    Args:
        text: The caption.
        keep: Given the units of a text, returns those that stay, in order; it may take characters from the front of
            one and change an article.

    Returns:
        ``text`` itself, with nothing dropped, when no word would be left or nothing is to go.
    """
    units = split_units(text)
    kept = keep(units)
    dropped = _dropped_spans(units, kept)
    if not dropped or not any(unit.is_word for unit in kept):
        return Reduction(text, ())
    return Reduction(render(text, kept), dropped)


def _joined(text: str, first: Reduction, second: Reduction) -> Reduction:
    """Say what ``second`` dropped of ``first``'s text in places of ``text``."""
    origins = _remaining(text, first.dropped)
    lost: set[int] = set()
    for start, end in second.dropped:
        lost.update(range(start, end))
    dropped = list(first.dropped)
    for origin, unit in zip(origins, split_units(first.text), strict=True):
        gone = sum(place in lost for place in range(unit.start, unit.end))
        if gone:
            dropped.append((origin.start, origin.start + gone))
    return Reduction(second.text, tuple(sorted(dropped)))


def _remaining(text: str, dropped: Spans) -> list[Unit]:
    """The units of ``text`` after ``dropped``, less the characters that went from their fronts."""
    ends = dict(dropped)
    units = []
    for unit in split_units(text):
        rest = unit.without_prefix(max(0, ends.get(unit.start, unit.start) - unit.start))
        if rest.surface:
            units.append(rest)
    return units


def _dropped_spans(units: Sequence[Unit], kept: Sequence[Unit]) -> Spans:
    """The spans of ``units`` that are not among the ``kept`` ones, or only in part."""
    kept_starts = {unit.end: unit.start for unit in kept}
    spans = ((unit.start, kept_starts.get(unit.end, unit.end)) for unit in units)
    return tuple((start, end) for start, end in spans if end > start)


def weights(text: str, reduction: Reduction, *, appearance_weight: float) -> tuple[WeightedSpan, ...]:
    """Down-weighting instead of dropping: each word and sign with 1 or, if it was dropped, ``appearance_weight``.

    Args:
        text: The caption.
        reduction: What a filter made of it.
        appearance_weight: From 0 (as if dropped) to 1 (as if there were no filter).

    Returns:
        One span for each word and sign of ``text``, in order.
    """
    if not 0.0 <= appearance_weight <= 1.0:
        raise ValueError(f"appearance_weight must lie between 0 and 1, got {appearance_weight}")
    starts = {start for start, _ in reduction.dropped}
    return tuple(
        WeightedSpan(unit.start, unit.end, appearance_weight if unit.start in starts else 1.0)
        for unit in split_units(text)
    )
