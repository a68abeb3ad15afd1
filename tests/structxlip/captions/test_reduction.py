from __future__ import annotations

import pytest
from hypothesis import given

from structxlip.captions import LexiconFilter, weights
from tests.structxlip.captions.strategies import any_text

FILTER = LexiconFilter()


def test_appearance_words_count_less_and_keep_their_places() -> None:
    text = "A red car."
    found = weights(text, FILTER.reduce(text), appearance_weight=0.25)
    assert [(text[w.start : w.end], w.weight) for w in found] == [
        ("A", 1.0),
        ("red", 0.25),
        ("car", 1.0),
        (".", 1.0),
    ]


@given(any_text())
def test_every_word_and_sign_has_one_weight(text: str) -> None:
    reduction = FILTER.reduce(text)
    found = weights(text, reduction, appearance_weight=0.0)
    assert "".join(text[w.start : w.end] for w in found) == "".join(text.split())
    assert sum(w.weight == 0.0 for w in found) == len(reduction.dropped)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_weights_outside_zero_to_one_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got"):
        weights("a red car", FILTER.reduce("a red car"), appearance_weight=weight)
