"""Decides which appearance words of a caption go, from the runs and from what stands around them.

Before a noun the run alone goes ("a red car"); after "is" the verb goes too ("the car is red"); after "in" the
preposition ("a man in red"); after "made" the whole phrase ("made of wood"). A noun of colour or material goes only
where a further noun follows or a verb says that something is so, because "orange juice", "a glass" and "an iron" are
objects. What cannot be decided stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from structxlip.captions.runs import SEPARATORS, Member, RunFinder
from structxlip.captions.vocabulary import Vocabulary
from structxlip.captions.words import JOINERS, Unit, tidy

COLOUR_PREPOSITIONS = frozenset(("in", "of", "between", "with", "by"))


class Grammar(Protocol):
    """What has to be known of the words around a run: guessed from word order, or read from a parse."""

    def continues_noun_phrase(self, start: int, end: int, *, after_noun: bool) -> bool:
        """Whether units ``start`` to ``end`` modify a noun that stands at or after ``end``.

        ``after_noun`` says that the last of them may itself be a noun, which asks for more certainty.
        """
        ...

    def starts_verb_phrase(self, position: int) -> bool:
        """Whether the unit at ``position`` is the verb of what stands before it."""
        ...

    def is_adjective(self, position: int) -> bool:
        """Whether the unit at ``position`` modifies a noun as an adjective or participle."""
        ...

    def is_material_phrase(self, start: int, end: int) -> bool:
        """Whether units ``start`` to ``end`` only say what the noun before their "of" is made of: "bars of metal"."""
        ...


def keep_structure(vocabulary: Vocabulary, units: Sequence[Unit], grammar: Grammar) -> list[Unit]:
    """The units of a caption that stay, tidied: without hanging commas, conjunctions and articles."""
    return _Decision(vocabulary, units, grammar).kept_units()


class _Decision:
    def __init__(self, vocabulary: Vocabulary, units: Sequence[Unit], grammar: Grammar) -> None:
        self._words = vocabulary
        self._units = units
        self._grammar = grammar
        self._runs = RunFinder(vocabulary, units)
        self._at = self._runs.at
        self._is_kept = [True] * len(units)

    def kept_units(self) -> list[Unit]:
        units = list(self._units)
        position = 0
        while position < len(units):
            run = self._runs.run_from(position)
            if self._at(position) in ("in", "of") and self._at(position + 1) in self._words.colour_nouns:
                position = self._drop_in_colour(position)
            elif run:
                self._drop_run(run)
                position = run[-1].end
            else:
                units[position] = units[position].without_prefix(self._runs.trimmed_length(position))
                position += 1
        return tidy(units, self._is_kept)

    def _drop(self, start: int, end: int) -> None:
        self._is_kept[start:end] = [False] * (end - start)

    def _drop_in_colour(self, position: int) -> int:
        """Drop "in color", or "in shades of brown and green" with its colours; "in shade" is a place."""
        run = self._runs.run_from(position + 1)
        if not run and (self._at(position) == "of" or not self._at(position + 1).startswith("colo")):
            return position + 1
        end = run[-1].end if run else position + 2
        if not self._grammar.continues_noun_phrase(position + 1, end, after_noun=False):
            copula = self._copula_before(position) if run else None
            self._drop(position if copula is None else copula, end)
        return end

    def _drop_run(self, run: list[Member]) -> None:
        start, end = run[0].start, run[-1].end
        has_article = self._at(start - 1) in ("a", "an") and self._is_colour_alone(run) and not run[-1].is_noun
        copula = self._copula_before(start - has_article)
        if self._is_attributive(run):
            self._drop_attributive(run)
        elif copula is not None:
            self._drop_predicate(copula, run)
        elif self._made_start(start) < start:
            self._drop_made(self._made_start(start), run)
        elif (phrase := self._phrase_start(run)) is not None:
            self._drop(phrase, end)
        elif self._at(start - 1) == "of" and self._grammar.is_material_phrase(start, end):
            self._drop(start - 1, end)
        elif self._at(start - 1) in self._words.participles_before_colour | {"("}:
            self._drop(start, end)
        else:
            self._drop_before_head(run)

    # Before a noun

    def _is_attributive(self, run: Sequence[Member]) -> bool:
        start, last = run[0].start, run[-1]
        if self._at(start - 1) == "in" and self._grammar.starts_verb_phrase(last.end):
            return False
        goes_on = self._grammar.continues_noun_phrase(start, last.end, after_noun=last.is_noun)
        return goes_on or self._joins_adjective(run)

    def _joins_adjective(self, run: Sequence[Member]) -> bool:
        """Whether an adjective and a noun follow a comma: "a white, square tile", "a red and striped shirt"."""
        start, last = run[0].start, run[-1]
        place = self._after_separators(last.end)
        if last.is_noun or place == last.end or not self._grammar.is_adjective(place):
            return False
        before = self._at(start - 1)
        opens = before in self._words.function_words and before not in {"in"} | JOINERS
        opens = opens or self._grammar.is_adjective(start - 1)
        is_predicate = self._copula_before(start) is not None
        goes_on = self._grammar.continues_noun_phrase(place, place + 1, after_noun=False)
        return opens and goes_on and not is_predicate

    def _drop_attributive(self, run: Sequence[Member]) -> None:
        start, end = run[0].start, run[-1].end
        self._drop(self._with_joined_adjective(start), self._after_separators(end))

    def _after_separators(self, place: int) -> int:
        end = place
        while end < place + 2 and self._at(end) in SEPARATORS:
            end += 1
        return end

    def _with_joined_adjective(self, start: int) -> int:
        """Take in the comma or conjunction that joins the run to an adjective: "small, white dog"."""
        place = start
        while place > start - 2 and self._at(place - 1) in SEPARATORS:
            place -= 1
        return place if place < start and self._grammar.is_adjective(place - 1) else start

    # After a verb

    def _copula_before(self, start: int) -> int | None:
        """Where the verb before the run starts ("is", "appears to be", "are all"), or None."""
        joined = self._with_joined_adjective(start)
        if joined < start and self._at(joined - 2) in self._words.copulas | self._words.degrees | SEPARATORS:
            return joined
        place = start - 1
        if self._at(place) in ("in", "of"):
            place -= 1
        while self._at(place) in self._words.copula_adverbs or self._at(place).endswith("ly"):
            place -= 1
        if self._at(place) not in self._words.copulas:
            return None
        while self._at(place - 1) in self._words.linking | self._words.copulas | self._words.copula_adverbs:
            place -= 1
        return None if self._at(place - 1) == "there" else place

    def _drop_predicate(self, copula: int, run: Sequence[Member]) -> None:
        end = run[-1].end
        if self._at(copula) in SEPARATORS:  # "is small and white" keeps "is small"
            self._drop(copula, end)
            return
        if self._at(end) == "in" and self._at(end + 1) in self._words.colour_nouns:
            end += 2
        after = self._after_separators(end)
        if after > end and (self._grammar.is_adjective(after) or self._joins_participle(after)):
            self._drop(run[0].start, after)  # "is white and parked" keeps "is parked"
            return
        if after > end and self._grammar.starts_verb_phrase(after):
            end = after  # "is black and has a collar" keeps "has a collar"
        self._drop(copula - (self._at(copula - 1) in self._words.relatives), end)

    def _joins_participle(self, position: int) -> bool:
        return self._at(position - 1) in JOINERS and self._at(position).endswith("ing")

    # After a preposition, or at the end of a phrase

    def _made_start(self, start: int) -> int:
        """Where "made of" starts before ``start``; ``start`` itself if it does not."""
        place = start - 1
        if self._at(place) not in ("of", "from"):
            return start
        place -= 1 + (self._at(place - 1) == "out")
        return place if self._at(place) in self._words.made else start

    def _drop_made(self, made: int, run: Sequence[Member]) -> None:
        copula = self._copula_before(made)
        if copula is None:
            self._drop(made, run[-1].end)
        else:
            self._drop_predicate(copula, run)

    def _phrase_start(self, run: Sequence[Member]) -> int | None:
        """Where the preposition of "in red" or "with a bright purple" stands; None if there is none."""
        start = run[0].start
        if not self._is_colour_alone(run):
            return None
        has_article = self._at(start - 1) in ("a", "an")
        place = start - 1 - has_article
        preposition = self._at(place)
        is_plain_in = preposition == "in" and not has_article
        is_sure = preposition in COLOUR_PREPOSITIONS and not run[-1].is_noun
        return place if is_plain_in or is_sure or self._goes_on_dropping(place) else None

    def _is_colour_alone(self, run: Sequence[Member]) -> bool:
        has_colour = any(member.is_colour for member in run)
        return has_colour and not any(member.is_noun and not member.is_colour for member in run)

    def _goes_on_dropping(self, place: int) -> bool:
        """Whether a conjunction joins the run to a phrase that has just gone: "in a dark red (and a pale blue)"."""
        return self._at(place) in JOINERS and place > 0 and not self._is_kept[place - 1]

    def _drop_before_head(self, run: list[Member]) -> None:
        """When nothing else fits, the last noun of the run may be its head: "red brick" keeps "brick"."""
        if len(run) < 2:
            return
        *modifiers, head = run
        is_head = head.is_noun and head.end - head.start == 1 and not head.is_separated
        if is_head and not modifiers[-1].is_noun:
            self._drop(self._with_joined_adjective(modifiers[0].start), modifiers[-1].end)
