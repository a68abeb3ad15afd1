from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structxlip.captions import LexiconFilter
from structxlip.captions.words import split_units
from tests.structxlip.captions.strategies import APPEARANCE, STRUCTURE, any_text, captions

FILTER = LexiconFilter()


@pytest.mark.parametrize(
    "caption",
    [
        "A man walks down the street.",
        "a striped towel beside a checkered tablecloth and a plaid shirt with dotted sleeves",
        "a glass of orange juice",
        "an orange and a banana",
        "An orange sits beside an iron.",
        "a glass of water next to a wine glass",
        "A glass stands on the table.",
        "A glass filled with water",
        "Two olives and a rose on a plate with cream.",
        "The olive tree and the rose bush",
        "cream cheese on toast",
        "a blackboard and a greenhouse",
        "The lamp is a light.",
        "Two street lights and a traffic light are on.",
        "a pile of wood",
        "gold is found in the stone",
        "a golden retriever",
        "The boy sits in the dark.",
        "a stained glass window",
        "orange",
        "",
        "   ",
        "She drives past the Red Cross tent.",
        'The word "green" stands on a sign.',
        "a snow-covered mountain",
    ],
)
def test_structure_is_left_alone(caption: str) -> None:
    assert FILTER.structural_text(caption) == caption


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red and white striped shirt.", "A striped shirt."),
        ("A grey-brown dog runs.", "A dog runs."),
        ("a brown elephant", "an elephant"),
        ("an orange balloon", "a balloon"),
        ("An old blue car", "An old car"),
        ("a light blue wall under a light", "a wall under a light"),
        ("a dark-haired woman", "a woman"),
        ("a white-walled tire", "a walled tire"),
        ("a small, white, fluffy dog", "a small dog"),
        ("a white, square tile", "a square tile"),
        ("a tall and white tower", "a tall tower"),
        ("a man and white dog", "a man and dog"),
        ("a silver car and a wooden house", "a car and a house"),
        ("an olive jacket", "a jacket"),
        ("a medal of gold and a gold medal", "a medal of gold and a medal"),
        ("A woman in red walks a dog.", "A woman walks a dog."),
        ("a man dressed in black and white", "a man dressed"),
        ("a border of bright purple", "a border"),
        ("The sky is blue and the grass is green.", "The sky and the grass."),
        ("The dog is black and has a collar.", "The dog has a collar."),
        ("The car is white and parked on the road.", "The car is parked on the road."),
        ("The tower is tall and white.", "The tower is tall."),
        ("The stem which is brown holds a leaf.", "The stem holds a leaf."),
        ("The wall appears to be dark brown in color with a door.", "The wall with a door."),
        ("A table made of wood stands here.", "A table stands here."),
        ("a table that is made of dark wood", "a table"),
        ("a box painted in shades of green and blue", "a box painted"),
        ("the bricks vary in color", "the bricks vary"),
        ("a man wearing a blue color shirt", "a man wearing a shirt"),
        ("shiny metal on a red brick", "metal on a brick"),
        ("White clouds drift. It is white.", "Clouds drift."),
        ("a black-and-white photo of metal and glass doors", "a photo of doors"),
        ("a box (red) on a table", "a box on a table"),
        ("a brown dog's neck", "a dog's neck"),
        ("the boys in blue play a game", "the boys play a game"),
        ("a light, creamy yellow house", "a house"),
        ("The floor is a muted, slightly bluish shade of light grey.", "The floor."),
    ],
)
def test_appearance_goes_and_grammar_stays(caption: str, expected: str) -> None:
    assert FILTER.structural_text(caption) == expected


def test_a_caption_of_appearance_words_alone_is_kept_whole() -> None:
    reduction = FILTER.reduce("They are red.")
    assert reduction.text == "They are red."
    assert reduction.dropped == ()


def test_dropped_spans_point_into_the_caption() -> None:
    caption = "A red and white striped shirt on a white-walled shelf."
    dropped = [caption[start:end] for start, end in FILTER.reduce(caption).dropped]
    assert dropped == ["red", "and", "white", "white-"]


def test_line_breaks_and_double_spaces_survive() -> None:
    assert FILTER.structural_text("A red  dog.\n\nIt sits  down.") == "A dog.\n\nIt sits  down."


@settings(max_examples=300)
@given(any_text())
def test_filtering_twice_is_filtering_once(caption: str) -> None:
    once = FILTER.structural_text(caption)
    assert FILTER.structural_text(once) == once


@settings(max_examples=300)
@given(any_text())
def test_nothing_becomes_empty_and_nothing_is_added(caption: str) -> None:
    reduction = FILTER.reduce(caption)
    assert bool(reduction.text) == bool(caption)
    assert any(unit.is_word for unit in split_units(reduction.text)) == any(
        unit.is_word for unit in split_units(caption)
    )
    kept = caption
    for start, end in reversed(reduction.dropped):
        kept = kept[:start] + " " + kept[end:]
    assert _letters(reduction.text) == _letters(kept)


def _letters(text: str) -> str:
    """Visible signs in lower case, articles made alike: what a filter may not add to."""
    return re.sub(r"\s", "", re.sub(r"(?<![^\W_])an(?![^\W_])", "a", text.lower()))


@given(captions(), st.integers(0, 30))
def test_structural_words_are_never_dropped(caption: str, place: int) -> None:
    words = caption.split()
    words.insert(min(place, len(words)), "striped")
    assert "striped" in FILTER.structural_text(" ".join(words)).lower()  # it may have become the first word


def test_time_grows_with_the_length_of_the_caption() -> None:
    words = random.Random(7).choices(APPEARANCE + STRUCTURE, k=20_000)
    for pathological in (words, ["very"] * 20_000, ["red", "and"] * 10_000, ["shade", "of"] * 10_000):
        start = time.process_time()
        FILTER.structural_text(" ".join(pathological))
        assert time.process_time() - start < 10.0
