"""The lexicon filter: drops appearance words by vocabulary and word order, with no model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from structxlip.captions.decisions import keep_structure
from structxlip.captions.reduction import Reduction, compose
from structxlip.captions.vocabulary import Vocabulary, load_vocabulary
from structxlip.captions.words import QUOTES, Unit


class LexiconFilter:
    """Drops appearance words by vocabulary and word order; needs no model files.

    Filtering twice is filtering once, and no caption becomes empty.
    """

    def __init__(self) -> None:
        self._vocabulary = load_vocabulary()

    def structural_text(self, text: str) -> str:
        """The caption without its appearance words; the caption itself when no word would be left."""
        return self.reduce(text).text

    def structural_texts(self, texts: Sequence[str]) -> list[str]:
        """`structural_text` of each caption."""
        return [self.structural_text(text) for text in texts]

    def reduce(self, text: str) -> Reduction:
        """The structural text with the character spans of ``text`` that it leaves out."""
        return compose(text, self._keep)

    def config(self) -> dict[str, JsonValue]:
        """What `build_caption_filter` needs to make this filter again."""
        return {"kind": "lexicon"}

    def _keep(self, units: Sequence[Unit]) -> list[Unit]:
        return keep_structure(self._vocabulary, units, WordOrder(self._vocabulary, units))


class WordOrder:
    """A grammar guessed from word classes and endings alone."""

    def __init__(self, vocabulary: Vocabulary, units: Sequence[Unit]) -> None:
        self._words = vocabulary
        self._units = units

    def _at(self, position: int) -> str:
        return self._units[position].lower if 0 <= position < len(self._units) else ""

    def continues_noun_phrase(self, start: int, end: int, *, after_noun: bool) -> bool:
        """Whether the next unit looks like more of a noun phrase."""
        word, before = self._at(end), self._at(start - 1)
        if not word or not word[0].isalnum():
            return word in QUOTES and not after_noun and self._at(end + 1)[:1].isalnum()
        if word.replace("’", "'").partition("'")[0] in self._words.function_words or word.endswith("n't"):
            return False
        if word in self._words.finite_verbs:
            return not after_noun and before not in self._words.determiners | self._words.copulas
        if self._is_verb_in_ing(end):
            return False
        if not after_noun:
            return True
        # "a glass stands": after "a" a further word in -s is a verb.
        is_singular = before in ("a", "an", "one")
        is_verb = is_singular and word.endswith("s") and not word.endswith(("ss", "us", "is"))
        return not is_verb and not self._is_participle(word)

    def starts_verb_phrase(self, position: int) -> bool:
        """Whether the word is a verb of the list, or ends in -ing with no noun after it."""
        words = self._words
        is_finite = self._at(position) in words.finite_verbs | words.plain_verbs | words.copulas | {"has", "have"}
        return is_finite or self._is_verb_in_ing(position)

    def is_adjective(self, position: int) -> bool:
        """Whether the word is on the list of structural adjectives or ends like a participle."""
        word = self._at(position)
        return word in self._words.structure_adjectives or (len(word) > 4 and word.endswith(("ed", "ular")))

    def is_material_phrase(self, start: int, end: int) -> bool:
        """Never: word order cannot tell "bars of metal" from "a pile of wood"."""
        return False

    def _is_verb_in_ing(self, position: int) -> bool:
        word, following = self._at(position), self._at(position + 1)
        ends_phrase = following in self._words.function_words or not following[:1].isalnum()
        is_verbal = len(word) > 4 and word.endswith("ing") and word not in self._words.adjective_participles
        return is_verbal and (ends_phrase or following.endswith("ly"))

    def _is_participle(self, word: str) -> bool:
        is_verbal = len(word) > 4 and word.endswith(("ing", "ed"))
        return is_verbal and "-" not in word and word not in self._words.adjective_participles
