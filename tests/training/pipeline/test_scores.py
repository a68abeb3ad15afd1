from __future__ import annotations

from pathlib import Path

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from tests.training.pipeline.examples import CONLLU
from training.pipeline.scores import Scores, score_on_gold_tokens, score_on_raw_text
from training.pipeline.treebank import Sentence, read_sentences


@pytest.fixture
def sentences(tmp_path: Path) -> list[Sentence]:
    path = tmp_path / "en-test.conllu"
    path.write_text(CONLLU, encoding="utf-8")
    return list(read_sentences(path))


GOLD = {
    "Do": ("AUX", "run", "aux"),
    "n't": ("PART", "run", "advmod"),
    "run": ("VERB", "run", "ROOT"),
    "A": ("DET", "dog", "det"),
    "dog": ("NOUN", "sits", "nsubj"),
    "sits": ("VERB", "sits", "ROOT"),
    "Cats": ("NOUN", "Cats", "ROOT"),
    "too": ("ADV", "Cats", "advmod"),
}


@Language.component("structxlip_test_oracle")
def _oracle(doc: Doc) -> Doc:
    """Parses the three example sentences rightly but for the label of "dog" and the head of "too"."""
    roots = {"run", "sits", "Cats"}
    place_of = {token.text: token.i for token in doc}
    heads, deps, pos = [], [], []
    for token in doc:
        sentence_root = next(t.i for t in doc if t.text in roots and t.i >= token.i - 1)
        tag, head, relation = GOLD.get(token.text, ("PUNCT", doc[sentence_root].text, "punct"))
        pos.append(tag)
        heads.append(place_of[head] if token.text != "too" else token.i)
        deps.append({"dog": "obj", "too": "ROOT"}.get(token.text, relation))
    words, spaces = [t.text for t in doc], [bool(t.whitespace_) for t in doc]
    return Doc(doc.vocab, words=words, spaces=spaces, pos=pos, heads=heads, deps=deps)


def test_scores_count_tags_heads_and_labels_of_all_words(sentences: list[Sentence]) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("structxlip_test_oracle")
    # 10 words: all tags right, one wrong head ("too"), one more wrong label ("dog").
    expected = Scores(upos=100.0, uas=90.0, las=80.0, words=100.0)
    assert score_on_gold_tokens(nlp, sentences) == expected


def test_raw_text_counts_wrongly_cut_words_on_both_sides(sentences: list[Sentence]) -> None:
    nlp = spacy.blank("en")
    nlp.tokenizer = spacy.tokenizer.Tokenizer(nlp.vocab)  # cuts at spaces only
    scores = score_on_raw_text(nlp, sentences)
    # 10 gold words, 7 cut by spaces (Don't, run., A, dog, sits., Cats, too), 4 of them alike.
    assert scores.words == pytest.approx(200 * 4 / 17)
    assert scores.upos == 0.0
