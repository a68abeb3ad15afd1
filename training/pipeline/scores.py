"""Scores a pipeline on a treebank: UPOS, UAS and LAS, with given words and on raw text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from spacy.language import Language
from spacy.tokens import Doc, Token

from training.pipeline.treebank import Sentence, group_paragraphs


@dataclass(frozen=True)
class Scores:
    """Percentages; over all words, punctuation included, as the CoNLL shared tasks count."""

    upos: float
    uas: float
    las: float
    words: float

    def as_dict(self) -> dict[str, float]:
        """Rounded to two digits for reports."""
        return {name: round(value, 2) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class _Word:
    span: tuple[int, int]
    upos: str
    head: tuple[int, int] | None
    relation: str


def score_on_gold_tokens(nlp: Language, sentences: Sequence[Sentence]) -> Scores:
    """Words and sentence borders given: only tags and trees are predicted."""
    docs = [Doc(nlp.vocab, words=list(s.words), spaces=list(s.spaces)) for s in sentences]
    predicted = [_predicted_words(doc) for doc in nlp.pipe(docs)]
    return _scores([(_gold_words([s]), words) for s, words in zip(sentences, predicted, strict=True)])


def score_on_raw_text(nlp: Language, sentences: Sequence[Sentence]) -> Scores:
    """Paragraphs as plain text: words and sentence borders are predicted too; F1 over words with equal spans."""
    groups = list(group_paragraphs(iter(sentences), max_sentences=1000))
    predicted = [_predicted_words(doc) for doc in nlp.pipe(_text(group) for group in groups)]
    return _scores([(_gold_words(group), words) for group, words in zip(groups, predicted, strict=True)])


def _text(sentences: Sequence[Sentence]) -> str:
    return "".join(word + " " * space for s in sentences for word, space in zip(s.words, s.spaces, strict=True))


def _gold_words(sentences: Sequence[Sentence]) -> list[_Word]:
    words: list[_Word] = []
    position = 0
    for sentence in sentences:
        spans: list[tuple[int, int]] = []
        for word, space in zip(sentence.words, sentence.spaces, strict=True):
            spans.append((position, position + len(word)))
            position += len(word) + space
        for index, (tag, head, relation) in enumerate(
            zip(sentence.upos, sentence.heads, sentence.relations, strict=True)
        ):
            words.append(_Word(spans[index], tag, None if head == index else spans[head], relation))
    return words


def _predicted_words(doc: Doc) -> list[_Word]:
    return [_predicted_word(token) for token in doc if not token.is_space]


def _predicted_word(token: Token) -> _Word:
    head = None if token.head.i == token.i else _span(token.head)
    return _Word(_span(token), token.pos_, head, token.dep_)


def _span(token: Token) -> tuple[int, int]:
    return token.idx, token.idx + len(token.text)


def _scores(pairs: Sequence[tuple[list[_Word], list[_Word]]]) -> Scores:
    num_gold = num_predicted = num_same = num_upos = num_heads = num_labelled = 0
    for gold, predicted in pairs:
        by_span = {word.span: word for word in predicted}
        matched = [(word, by_span[word.span]) for word in gold if word.span in by_span]
        num_gold += len(gold)
        num_predicted += len(predicted)
        num_same += len(matched)
        num_upos += sum(left.upos == right.upos for left, right in matched)
        num_heads += sum(left.head == right.head for left, right in matched)
        num_labelled += sum(left.head == right.head and left.relation == right.relation for left, right in matched)
    total = num_gold + num_predicted
    percent = [200.0 * count / total for count in (num_upos, num_heads, num_labelled, num_same)]
    return Scores(*percent)
