"""Words and signs of a caption with their places, and the text that is left when some of them go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

# A word is letters and digits joined by hyphens and apostrophes; any other visible character is a sign of its own.
_PATTERN = re.compile(r"[^\W_]+(?:['’\-‐‑][^\W_]+)*|[^\s]")

SENTENCE_ENDS = frozenset(".!?")
CLOSING = frozenset(".,;:!?)]}%”’")
OPENING = frozenset("([{“‘")
QUOTES = {'"': '"', "“": "”"}
JOINERS = frozenset(("and", "or", "nor", "&"))
PAIRS = frozenset(("()", "[]", "{}", '""', "“”"))
VOWEL_SOUND = re.compile(r"(?!uni|use|eu|one|once|u-)[aeiou]|hour|honest|heir|8|11\b|18\b")


@dataclass(frozen=True, slots=True)
class Unit:
    """One word or sign: ``surface`` as it is written from ``start`` to ``end`` of the text, ``lower`` for look-ups."""

    surface: str
    lower: str
    start: int
    end: int

    @property
    def is_word(self) -> bool:
        """Whether it is made of letters or digits."""
        return self.surface[0].isalnum()

    def without_prefix(self, length: int) -> Unit:
        """The same unit less its first ``length`` characters."""
        if not length:
            return self
        return replace(self, surface=self.surface[length:], lower=self.lower[length:], start=self.start + length)


def split_units(text: str) -> list[Unit]:
    """Words and signs of ``text`` in order; white space is left out."""
    return [Unit(m.group(), m.group().lower(), m.start(), m.end()) for m in _PATTERN.finditer(text)]


def is_sentence_start(units: Sequence[Unit], position: int) -> bool:
    """Whether a sentence may start at ``position``: at the front, or after a full stop, colon or opening sign."""
    return position == 0 or units[position - 1].surface in SENTENCE_ENDS | OPENING | {":", '"'}


def with_article_for(article: Unit, following: Unit) -> Unit:
    """``article`` ("a" or "an", in its own case) in the form that goes before ``following``."""
    fitting = "an" if VOWEL_SOUND.match(following.lower) else "a"
    surface = fitting.capitalize() if article.surface[0].isupper() else fitting
    return replace(article, surface=surface, lower=fitting)


@dataclass(frozen=True, slots=True)
class _Kept:
    unit: Unit
    follows_gap: bool
    """Whether something between this unit and the kept one before it was dropped."""


def tidy(units: Sequence[Unit], is_kept: Sequence[bool]) -> list[Unit]:
    """The kept units, less the commas, conjunctions and articles that hang in the air where something went."""
    stack: list[_Kept] = []
    gap = False
    for unit, keep in zip(units, is_kept, strict=True):
        if not keep:
            gap = True
            continue
        gap = _drop_hanging(stack, unit, gap)
        if gap and _may_not_follow_gap(stack, unit):
            continue
        if gap and stack and stack[-1].unit.lower in ("a", "an") and unit.is_word:
            stack[-1] = replace(stack[-1], unit=with_article_for(stack[-1].unit, unit))
        stack.append(_Kept(unit, gap))
        gap = False
    if gap:
        _drop_hanging(stack, None, gap)
    return _without_hollow_sentences(stack)


def _drop_hanging(stack: list[_Kept], following: Unit | None, gap: bool) -> bool:
    """Take from the stack what cannot stand before ``following`` now that something between them is gone."""
    while gap and stack:
        last = stack[-1].unit
        ends_clause = following is None or following.surface in ".,;:!?)]}”"
        is_pair = following is not None and last.surface + following.surface in PAIRS
        hangs = (last.lower in JOINERS or last.surface in ",;/-–" or last.lower in ("a", "an")) and ends_clause
        if is_pair or not hangs:
            break
        stack.pop()
    return gap


def _may_not_follow_gap(stack: list[_Kept], unit: Unit) -> bool:
    """Whether ``unit`` has nothing to close or join after a gap."""
    at_start = not stack or stack[-1].unit.surface in SENTENCE_ENDS
    if at_start:
        return unit.surface in ",;:-–/" or unit.lower in JOINERS
    if stack[-1].unit.surface + unit.surface in PAIRS:
        stack.pop()
        return True
    return False


def _without_hollow_sentences(stack: Sequence[_Kept]) -> list[Unit]:
    """Leave out sentences that lost something and kept no word of content ("It is white." -> "It.")."""
    kept: list[Unit] = []
    sentence: list[_Kept] = []
    for place, item in enumerate(stack):
        sentence.append(item)
        if item.unit.surface in SENTENCE_ENDS or place == len(stack) - 1:
            after_gap = any(each.follows_gap for each in sentence)
            if not (after_gap and _is_hollow(sentence)):
                kept.extend(each.unit for each in sentence)
            sentence = []
    return kept


_HOLLOW = frozenset(
    (
        *("it", "they", "he", "she", "this", "that", "these", "those", "there", "the", "a", "an", "its", "his", "her"),
        *("their", "some", "one", "both", "and", "or", "but", "is", "are", "was", "were", "be", "also", "which"),
        *("in", "on", "of", "with"),
    )
)


def _is_hollow(sentence: Sequence[_Kept]) -> bool:
    return not any(each.unit.is_word and each.unit.lower not in _HOLLOW for each in sentence)


def render(text: str, units: Sequence[Unit]) -> str:
    """Write the kept ``units`` of ``text``: its own spacing between neighbours, one space where something went."""
    parts: list[str] = []
    previous: Unit | None = None
    for unit in units:
        surface = unit.surface
        if previous is not None:
            parts.append(_spacing(text, previous, unit))
        if (previous is None or previous.surface in SENTENCE_ENDS) and surface[0].islower():
            surface = _capitalised_like_original(text, unit, surface)
        parts.append(surface)
        previous = unit
    return "".join(parts)


def _spacing(text: str, left: Unit, right: Unit) -> str:
    between = text[left.end : right.start]
    if not between or between.isspace():
        return between
    if "\n" in between:
        return "\n"
    right_is_glued = not text[right.start - 1].isspace()
    left_is_glued = not text[left.end].isspace()
    if (right.surface in CLOSING and right_is_glued) or (left.surface in OPENING and left_is_glued):
        return ""
    return " "


def _capitalised_like_original(text: str, unit: Unit, surface: str) -> str:
    """Give a word that has come to the front of its sentence the capital that the dropped first word had."""
    before = text[: unit.start].rstrip()
    first = re.search(r"(?:^|[.!?])\s*([^\s.!?][^.!?]*)$", before[-200:])
    starts_with_capital = first is not None and first.group(1)[0].isupper()
    return surface[0].upper() + surface[1:] if starts_with_capital else surface
