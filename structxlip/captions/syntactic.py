"""The syntactic filter: drops appearance words by their sense and by the part they play in the parsed sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from structxlip.captions.decisions import keep_structure
from structxlip.captions.lexicon import WordOrder
from structxlip.captions.pipeline import BUNDLED, Parser
from structxlip.captions.reduction import Reduction, compose_once
from structxlip.captions.vocabulary import Vocabulary, load_vocabulary
from structxlip.captions.words import Unit

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

NOUN_PHRASE_PARTS = frozenset(("NOUN", "PROPN", "ADJ", "NUM", "X", "SYM"))
MODIFIER_RELATIONS = frozenset(("amod", "compound", "nummod", "nmod", "det", "poss"))
ADJECTIVE_TAGS = frozenset(("JJ", "JJR", "JJS", "VBN", "AFX"))
VERB_TAGS = frozenset(("VBZ", "VBP", "VBD", "VBG", "MD"))


class SyntacticFilter:
    """Drops appearance words where a tagger and a parser confirm what word order suggests.

    Objects, parts, counts, actions, and prepositional and spatial relations stay. Many threads may use one filter;
    parsing takes turns.

    Args:
        pipeline: ``"bundled"``, the name of an installed spaCy pipeline, or the path of one.

    Raises:
        PipelineError: If the pipeline cannot be loaded. There is no silent change to another filter, because a
            model must be served with the filter that it was trained with; the message names the lexicon filter.
    """

    def __init__(self, pipeline: str = BUNDLED) -> None:
        self._vocabulary = load_vocabulary()
        self._parser = Parser(pipeline)

    def structural_text(self, text: str) -> str:
        """The caption without its appearance words; the caption itself when no word would be left."""
        return self.reduce(text).text

    def structural_texts(self, texts: Sequence[str]) -> list[str]:
        """`structural_text` of each caption, parsed in batches."""
        return [reduction.text for reduction in self.reduce_all(texts)]

    def reduce(self, text: str) -> Reduction:
        """The structural text with the character spans of ``text`` that it leaves out."""
        return self.reduce_all([text])[0]

    def reduce_all(self, texts: Sequence[str]) -> list[Reduction]:
        """`reduce` of each caption, parsed in batches."""
        docs = self._parser.parse(texts)
        return [self._reduce_parsed(text, doc) for text, doc in zip(texts, docs, strict=True)]

    def config(self) -> dict[str, JsonValue]:
        """What `build_caption_filter` needs to make this filter again."""
        return {"kind": "syntactic", "pipeline": self._parser.name}

    def _reduce_parsed(self, text: str, doc: Doc) -> Reduction:
        def keep(units: Sequence[Unit]) -> list[Unit]:
            return keep_structure(self._vocabulary, units, ParsedGrammar(self._vocabulary, units, doc))

        return compose_once(text, keep)


class ParsedGrammar:
    """A grammar read from a parse, with the word classes as a second opinion where an object is at stake."""

    def __init__(self, vocabulary: Vocabulary, units: Sequence[Unit], doc: Doc) -> None:
        self._words = vocabulary
        self._order = WordOrder(vocabulary, units)
        self._tokens = _last_tokens(units, doc)

    def _token(self, position: int) -> Token | None:
        return self._tokens[position] if 0 <= position < len(self._tokens) else None

    def continues_noun_phrase(self, start: int, end: int, *, after_noun: bool) -> bool:
        """Whether the next word is tagged as part of a noun phrase; a noun at stake needs word order to agree."""
        token = self._token(end)
        if token is None or not token.text[0].isalnum():
            return self._order.continues_noun_phrase(start, end, after_noun=after_noun)
        if token.pos_ == "ADV" and token.head.pos_ == "ADJ" and token.head.i == token.i + 1:
            return True
        goes_on = token.pos_ in NOUN_PHRASE_PARTS or _modifies(token)
        agrees = self._order.continues_noun_phrase(start, end, after_noun=after_noun)
        if not after_noun:
            return goes_on or agrees
        return goes_on and (agrees or self._is_modifier_of(end - 1, token))

    def starts_verb_phrase(self, position: int) -> bool:
        """Whether the word is tagged as a verb that is no modifier, or is a verb of the list."""
        token = self._token(position)
        is_verb = token is not None and token.tag_ in VERB_TAGS and not _modifies(token)
        return is_verb or self._order.starts_verb_phrase(position)

    def is_adjective(self, position: int) -> bool:
        """Whether the word is tagged as an adjective or past participle, or is on the list."""
        token = self._token(position)
        is_tagged = token is not None and token.tag_ in ADJECTIVE_TAGS
        return is_tagged or self._order.is_adjective(position)

    def is_material_phrase(self, start: int, end: int) -> bool:
        """Whether the material belongs to a noun that is no measure of it, and nothing else hangs on it."""
        material, thing = self._token(end - 1), self._token(start - 2)
        if material is None or thing is None or thing.pos_ != "NOUN" or thing.lower_ in self._words.measures:
            return False
        return material.pos_ == "NOUN" and _belongs_to(material, thing)

    def _is_modifier_of(self, position: int, following: Token) -> bool:
        """Whether the parse hangs the noun at ``position`` on a noun from ``following`` on that is no common verb."""
        token = self._token(position)
        if token is None or following.lower_ in self._words.finite_verbs:
            return False
        return _modifies(token) and token.head.i >= following.i and following.pos_ in ("NOUN", "ADJ")


def _belongs_to(material: Token, thing: Token) -> bool:
    """Whether ``material`` hangs on ``thing`` directly or, in the scheme that makes prepositions heads, over "of"."""
    head = material.head
    return head.i == thing.i or (head.lower_ == "of" and head.head.i == thing.i)


def _modifies(token: Token) -> bool:
    """Whether the token modifies a noun to its right."""
    relation = token.dep_.partition(":")[0]
    return relation in MODIFIER_RELATIONS and token.head.i > token.i


def _last_tokens(units: Sequence[Unit], doc: Doc) -> list[Token | None]:
    """The parser's last token in each unit: of "grey-brown" it is "brown"."""
    found: list[Token | None] = []
    tokens = [token for token in doc if not token.is_space]
    place = 0
    for unit in units:
        last = None
        while place < len(tokens) and tokens[place].idx < unit.end:
            last = tokens[place]
            place += 1
        found.append(last)
    return found
