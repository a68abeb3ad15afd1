from __future__ import annotations

from pathlib import Path

import pytest

from structxlip.captions import LexiconFilter, Reduction, SyntacticFilter
from training.pipeline.judge import LabelledSentence, ReducingFilter, judge, read_labelled

LABELLED = Path(__file__).parents[2] / "structxlip" / "captions" / "labelled_sentences.jsonl"


class _Drops:
    """Drops given words."""

    def __init__(self, *words: str) -> None:
        self._words = words

    def reduce(self, text: str) -> Reduction:
        spans = sorted((text.index(word), text.index(word) + len(word)) for word in self._words)
        return Reduction(text, tuple(spans))


def test_precision_and_recall_count_content_words() -> None:
    text = "The dog is red and a wooden box stands on stone."
    labels = tuple((text.index(word), text.index(word) + len(word)) for word in ("red", "wooden", "stone"))
    result = judge(_Drops("is", "red", "and", "dog"), [LabelledSentence(text, labels, "x")])
    assert (result.num_right, result.num_wrong, result.num_missed) == (1, 1, 2)
    assert result.precision == pytest.approx(1 / 2)
    assert result.recall == pytest.approx(1 / 3)
    assert result.mistakes[0] == f"wrongly dropped: 'dog' in {text!r}"


def test_the_labels_are_spans_of_whole_words() -> None:
    sentences = read_labelled(LABELLED)
    assert [s.part for s in sentences].count("fresh") == 60
    assert [s.part for s in sentences].count("tuned") == 60
    for sentence in sentences:
        for start, end in sentence.appearance:
            assert sentence.text[start:end].strip() == sentence.text[start:end] != ""


@pytest.mark.parametrize("build", [LexiconFilter, SyntacticFilter])
def test_filters_keep_structure_and_find_most_appearance_in_fresh_sentences(
    build: type[LexiconFilter] | type[SyntacticFilter],
) -> None:
    fresh = [sentence for sentence in read_labelled(LABELLED) if sentence.part == "fresh"]
    caption_filter: ReducingFilter = build()
    result = judge(caption_filter, fresh)
    assert result.precision >= 0.97
    assert result.recall >= 0.85
