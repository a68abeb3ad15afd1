from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from structxlip.captions import LexiconFilter
from tests.training.scenes.claims import claims
from training.scenes import SPLITS, Chance, SceneDataset, describe_scene, described_scene
from training.scenes.palette import COLOURS, SYNONYMS
from training.scenes.vocabulary import COUNTS, KINDS

indexes = st.integers(0, 10**9)
PATTERN_WORDS = {
    "striped": ("stripe", "striped"),
    "banded": ("horizontal", "band"),
    "dotted": ("dot", "spot"),
    "checkered": ("check", "chequered"),
}


@pytest.mark.parametrize("split", SPLITS)
def test_captions_have_40_to_120_words(split: str) -> None:
    lengths = [len(SceneDataset(split, 300).caption(index).split()) for index in range(300)]
    assert min(lengths) >= 40
    assert max(lengths) <= 120
    assert max(lengths) - min(lengths) > 25


@settings(max_examples=200)
@given(st.sampled_from(SPLITS), indexes, indexes)
def test_every_relation_and_position_that_a_caption_states_is_true_of_the_boxes(
    split: str, index: int, telling: int
) -> None:
    scene = described_scene(split, index)
    for claim in claims(scene, describe_scene(scene, Chance("test", telling))):
        assert claim.is_true, claim


def test_captions_state_several_relations_and_positions_each() -> None:
    numbers = []
    for index in range(100):
        scene = described_scene("test", index)
        numbers.append(len(list(claims(scene, describe_scene(scene, Chance(index))))))
    assert sum(numbers) / len(numbers) > 4
    assert min(numbers) >= 2


def test_the_reader_of_claims_notices_a_false_one() -> None:
    swaps = (("left", "right"), ("upper", "lower"), ("above", "below"), ("top", "bottom"))
    scene = described_scene("test", 5)
    caption = describe_scene(scene, Chance(0))
    for first, second in swaps:
        caption = caption.replace(first, "§").replace(second, first).replace("§", second)
    assert not all(claim.is_true for claim in claims(scene, caption))


@settings(max_examples=200)
@given(indexes)
def test_kind_number_pattern_and_colour_of_every_group_are_told(index: int) -> None:
    scene = described_scene("test", index)
    caption = describe_scene(scene, Chance(index)).lower()
    for group in scene.groups:
        assert any(re.search(rf"\b{names[group.count > 1]}\b", caption) for names in KINDS[group.kind].names)
        assert any(word in caption for word in SYNONYMS.get(group.paint.name, (group.paint.name,)))
        if group.count > 1:
            assert COUNTS[group.count] in caption
        if group.pattern != "plain":
            assert any(word in caption for word in PATTERN_WORDS[group.pattern])


@settings(max_examples=200)
@given(st.sampled_from(SPLITS), indexes)
def test_captions_read_as_clean_sentences(split: str, index: int) -> None:
    caption = SceneDataset(split, index + 1).caption(index)
    assert re.search(r"\ba [aeio]", caption, re.IGNORECASE) is None
    assert re.search(r"\ban [^aeiou]", caption, re.IGNORECASE) is None
    assert re.search(r"[{}]|  | ,|,,|\.\.|None|_", caption) is None
    assert re.search(r"\b(\w+) \1\b", caption) is None
    for sentence in re.split(r"(?<=\.) ", caption):
        assert sentence[0].isupper()
        assert sentence.endswith(".")


def test_one_scene_is_told_in_many_ways() -> None:
    dataset = SceneDataset("train", 1)
    assert len({dataset.caption(0, phrasing) for phrasing in range(50)}) == 50


def test_no_form_of_one_kind_is_described_by_the_name_of_another() -> None:
    nouns = {noun for kind in KINDS.values() for names in kind.names for noun in names}
    for kind in KINDS.values():
        for phrase in (phrase for variant in kind.variants for phrase in variant):
            assert not any(re.search(rf"\b{noun}\b", phrase) for noun in nouns), phrase


def test_the_lexicon_filter_takes_nearly_all_colours_and_leaves_kinds_numbers_and_patterns() -> None:
    num_left = 0
    colours = {*COLOURS, *(word for words in SYNONYMS.values() for word in words)}
    for index in range(150):
        scene = described_scene("test", index)
        text = LexiconFilter().structural_text(describe_scene(scene, Chance(index))).lower()
        num_left += len(colours & set(re.findall(r"\w+", text)))
        for group in scene.groups:
            assert any(re.search(rf"\b{names[group.count > 1]}\b", text) for names in KINDS[group.kind].names), text
            if group.pattern != "plain":
                assert any(word in text for word in PATTERN_WORDS[group.pattern]), text
    # Each caption names about six colours.
    assert num_left / 150 < 0.05
