"""Runs: chains of appearance words, with the commas and conjunctions between them ("dark red, white and shiny")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from structxlip.captions.vocabulary import Vocabulary
from structxlip.captions.words import JOINERS, QUOTES, Unit, is_sentence_start

SEPARATORS = frozenset((",", "/", "-", "–")) | JOINERS
BETWEEN_MEMBERS = SEPARATORS | {"but"}
MAX_QUOTED_UNITS = 30
MAX_MODIFIERS = 3
# "snow-covered", "brick-lined": what stands before these is there as an object.
COVERINGS = frozenset(("covered", "filled", "lined", "coated", "clad", "encrusted", "topped", "capped", "based"))


@dataclass(frozen=True, slots=True)
class Member:
    """Units ``start`` to ``end`` that name one appearance.

    ``is_noun``: the last of them may name an object instead. ``is_colour``: they name a colour.
    ``is_separated``: a comma or conjunction stands between this member and the one before it.
    """

    start: int
    end: int
    is_noun: bool = False
    is_colour: bool = False
    is_separated: bool = False


class RunFinder:
    """Finds the runs of one caption by vocabulary; what may be dropped of them is decided elsewhere."""

    def __init__(self, vocabulary: Vocabulary, units: Sequence[Unit]) -> None:
        self.words = vocabulary
        self.units = units
        self.is_quoted = _quoted(units)
        words = [unit for unit in units if unit.is_word]
        self._is_title_case = 2 * sum(unit.surface[0].isupper() for unit in words) > len(words)

    def at(self, position: int) -> str:
        """The unit at ``position`` in lower case; empty beyond the ends."""
        return self.units[position].lower if 0 <= position < len(self.units) else ""

    def run_from(self, position: int) -> list[Member]:
        """The longest run that starts at ``position``; empty if none does."""
        member = self._member_at(position)
        run: list[Member] = []
        while member is not None:
            run.append(member)
            member = self._next_member(member)
        return run

    def trimmed_length(self, position: int) -> int:
        """How many characters of colour stand before a part in a hyphenated word: 6 in "white-walled"."""
        word = self.at(position)
        if "-" not in word or self.is_quoted[position] or self._is_name(position):
            return 0
        *leading, last = word.split("-")
        names_part = last.endswith("ed") and len(last) > 3 and last not in COVERINGS
        return len(word) - len(last) if names_part and self._all_appearance(leading) else 0

    def _member_at(self, position: int) -> Member | None:
        """The appearance that starts at ``position``, with the adverbs that measure it, if any."""
        word = self.at(position)
        if word not in self.words.openers and "-" not in word:
            return None
        start = position
        while position < start + MAX_MODIFIERS and self.at(position) in self.words.degrees:
            position += 1
        member = self._unmeasured(position)
        if member is None or position == start:
            return member
        return None if member.is_noun and not member.is_colour else replace(member, start=start)

    def _unmeasured(self, position: int) -> Member | None:
        if position >= len(self.units) or self.is_quoted[position] or self._is_name(position):
            return None
        if self._names_object(position):
            return None
        if self.at(position) in self.words.colour_nouns:
            return self._colour_of(position)
        member = self._shaded(position) or self._plain(position)
        return None if member is None else self._extended(member)

    def _colour_of(self, position: int) -> Member | None:
        """The member "shade of green"."""
        if self.at(position + 1) != "of":
            return None
        member = self._shaded(position + 2) or self._plain(position + 2)
        if member is None or not member.is_colour:
            return None
        return Member(position, member.end, is_colour=True)

    def _shaded(self, position: int) -> Member | None:
        """The members "light blue", "sky blue", "deep dark red", "light wood"."""
        end = position
        while end < position + MAX_MODIFIERS and self.at(end) in self.words.shades:
            # "a light, creamy yellow"
            is_list = self.at(end) in self.words.open_shades and self.at(end + 1) == ","
            end += 2 if is_list and self.at(end + 2) in self.words.shades | self.words.hues else 1
        for last in range(end, position, -1):
            word = self.at(last)
            if self._is_hue(word) and not self._names_object(last):
                return Member(position, last + 1, is_noun=word in self.words.tints, is_colour=True)
            if word in self.words.colour_participles:
                return Member(position, last + 1, is_colour=True)
            if word in self.words.materials and self.at(position) in ("light", "dark", "pale"):
                return Member(position, last + 1, is_noun=True)
        return None

    def _plain(self, position: int) -> Member | None:
        word, words = self.at(position), self.words
        end = position + 1
        if word in words.hues or ("-" in word and self._falls_whole(word)):
            return Member(position, end, is_colour=True)
        if word in words.qualities:
            return Member(position, end)
        if word in words.tints or (word in words.things and self.at(end) in words.painted):
            return Member(position, end, is_noun=True, is_colour=True)
        if word in words.materials:
            return Member(position, end, is_noun=True)
        return None

    def _extended(self, member: Member) -> Member:
        """Take in "color" or "colored" behind a colour: "brown color shirt"."""
        if self.at(member.end) not in self.words.colour_nouns | self.words.colour_participles:
            return member
        return replace(member, end=member.end + 1, is_noun=False, is_colour=True)

    def _is_hue(self, word: str) -> bool:
        is_compound = "-" in word and self._falls_whole(word)
        return word in self.words.hues or word in self.words.tints or is_compound

    def _names_object(self, position: int) -> bool:
        """Whether the word names an object together with its neighbour: "orange juice", "wine glass"."""
        word, following = self.at(position), self.at(position + 1)
        endings = self.words.compounds.get(word, frozenset())
        if following in endings or following.removesuffix("s") in endings:
            return True
        return self.at(position - 1) in self.words.object_endings.get(word, frozenset())

    def _falls_whole(self, word: str) -> bool:
        """Whether a hyphenated word tells of nothing but appearance: "grey-brown", "dark-haired"."""
        parts = [part for part in word.split("-") if part not in ("and", "ish")]
        if not parts:
            return False
        if len(parts) > 1 and parts[-1] in self.words.whole_endings:
            is_about_colour = parts[-1] in self.words.colour_participles - {"haired", "skinned"}
            return is_about_colour or self._all_appearance(parts[:1], needs_colour=False)
        return self._all_appearance(parts)

    def _all_appearance(self, parts: Sequence[str], *, needs_colour: bool = True) -> bool:
        """Whether all parts are appearance words, one of them more than a shade."""
        words = self.words
        strong = words.hues | words.qualities | words.tints | words.materials
        if not all(part in strong or part in words.shades or part in ("multi", "fair") for part in parts):
            return False
        return not needs_colour or any(part in strong for part in parts)

    def _is_name(self, position: int) -> bool:
        """Whether a capital in the middle of a sentence makes the word part of a name ("the Red Sea")."""
        if self._is_title_case or not self.units[position].surface[0].isupper():
            return False
        following = self.units[position + 1].surface[0] if position + 1 < len(self.units) else ""
        if following.isupper():
            return True
        if is_sentence_start(self.units, position) or is_sentence_start(self.units, position - 1):
            return False
        return self.units[position - 1].surface[0].isupper()

    def _next_member(self, last: Member) -> Member | None:
        adjacent = self._member_at(last.end)
        if adjacent is not None:
            return adjacent
        place = last.end
        while place < last.end + 2 and self.at(place) in BETWEEN_MEMBERS:
            place += 1
        following = self._member_at(place) if place > last.end else None
        if following is None:
            return None
        # After a noun of material a comma ends the phrase ("a glass, white plates"), but "metal and glass
        # doors" goes on.
        if last.is_noun and not last.is_colour:
            is_list = self.at(last.end) in JOINERS | {"/"} and following.is_noun and not following.is_colour
            if not is_list:
                return None
        return replace(following, is_separated=True)


def _quoted(units: Sequence[Unit]) -> list[bool]:
    """Which units stand in short quotations: words that are written in the picture, not words about it."""
    is_quoted = [False] * len(units)
    opened: int | None = None
    for place, unit in enumerate(units):
        if opened is not None and unit.surface == QUOTES[units[opened].surface]:
            if place - opened <= MAX_QUOTED_UNITS:
                is_quoted[opened : place + 1] = [True] * (place + 1 - opened)
            opened = None
        elif opened is None and unit.surface in QUOTES:
            opened = place
    return is_quoted
