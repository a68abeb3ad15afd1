from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from structxlip.captions.chunks import (
    MAX_WORDS,
    Chunk,
    Chunker,
    SyntacticChunker,
    WindowChunker,
    build_chunker,
    sample_evenly,
)
from structxlip.captions.words import split_units
from tests.structxlip.captions.strategies import any_text


@pytest.fixture(scope="module")
def parsing() -> SyntacticChunker:
    return SyntacticChunker()


def _texts(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


def test_noun_phrases_bring_their_prepositions_and_verbs(parsing: SyntacticChunker) -> None:
    text = "A man is wearing a hat next to the car. Two dogs jump over a hurdle."
    assert _texts(parsing.chunks(text)) == [
        "A man",
        "is wearing a hat",
        "next to the car",
        "Two dogs",
        "jump over a hurdle",
    ]


def test_a_relation_with_of_is_one_chunk(parsing: SyntacticChunker) -> None:
    text = "The boy stands on the left side of the road in front of an old house."
    assert _texts(parsing.chunks(text)) == [
        "The boy",
        "stands on the left side of the road",
        "in front of an old house",
    ]


def test_clauses_become_windows_of_nearly_equal_length() -> None:
    text = "one two three four five six seven eight nine, ten eleven"
    assert _texts(WindowChunker(8).chunks(text)) == [
        "one two three four",
        "five six seven eight nine",
        "ten eleven",
    ]


def test_a_lone_word_joins_the_next_clause() -> None:
    assert _texts(WindowChunker().chunks("Here, a dog runs.")) == ["Here, a dog runs"]
    assert _texts(WindowChunker().chunks("A dog runs. Here")) == ["A dog runs", "Here"]


@pytest.mark.parametrize("text", ["", "  ", "...", "\n"])
def test_a_caption_without_words_has_no_chunks(text: str, parsing: SyntacticChunker) -> None:
    assert WindowChunker().chunks(text) == []
    assert parsing.chunks(text) == []


def _check_cover(text: str, chunks: list[Chunk], *, may_skip: frozenset[str]) -> None:
    covered: set[int] = set()
    last = 0
    for chunk in chunks:
        assert text[chunk.start_char : chunk.end_char] == chunk.text
        assert chunk.text[0].isalnum()
        assert chunk.text[-1].isalnum()
        assert chunk.start_char >= last
        last = chunk.end_char
        covered.update(range(chunk.start_char, chunk.end_char))
    for unit in split_units(text):
        if unit.is_word and unit.lower not in may_skip:
            assert covered.issuperset(range(unit.start, unit.end)), unit


@given(any_text(), st.integers(1, 10))
def test_windows_cover_every_word_in_order(text: str, num_words: int) -> None:
    chunks = WindowChunker(num_words).chunks(text)
    _check_cover(text, chunks, may_skip=frozenset())
    assert all(sum(unit.is_word for unit in split_units(chunk.text)) <= num_words for chunk in chunks)


def test_a_word_is_not_cut_where_the_parser_ends_a_sentence_within_it(parsing: SyntacticChunker) -> None:
    assert [chunk.text for chunk in parsing.chunks(".grey-brown ")] == ["grey-brown"]


@given(text=any_text())
def test_phrases_cover_every_word_in_order(parsing: SyntacticChunker, text: str) -> None:
    chunks = parsing.chunks(text)
    _check_cover(text, chunks, may_skip=frozenset(("and", "or", "but")))
    assert all(sum(unit.is_word for unit in split_units(chunk.text)) <= MAX_WORDS for chunk in chunks)


def test_sampling_reaches_from_the_first_to_the_last_part_of_a_caption() -> None:
    # Fault 5 of the public code: only the first windows of a long caption were ever used.
    chunks = [Chunk(str(place), place, place + 1) for place in range(100)]
    assert [chunk.start_char for chunk in sample_evenly(chunks, 4)] == [12, 37, 62, 87]
    assert sample_evenly(chunks, 100) == chunks
    assert sample_evenly([], 3) == []


@given(st.integers(1, 300), st.integers(1, 64))
def test_sampling_leaves_gaps_of_nearly_equal_width(num: int, cap: int) -> None:
    places = [c.start_char for c in sample_evenly([Chunk("x", i, i + 1) for i in range(num)], cap)]
    assert len(places) == min(num, cap)
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert places[0] <= num // cap
    assert num - 1 - places[-1] <= num // cap


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_evenly([], 0)


@pytest.mark.parametrize("chunker", [WindowChunker(5), SyntacticChunker()])
def test_a_chunker_is_rebuilt_from_its_config(chunker: Chunker) -> None:
    again = build_chunker(chunker.config())
    text = "A man in a hat walks past a very long wall beside the road to the village."
    assert again.config() == chunker.config()
    assert again.chunks(text) == chunker.chunks(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "magic"}, "windows or syntactic, got 'magic'"),
        ({"kind": "windows", "size": 3}, r"got also \['size'\]"),
        ({"kind": "windows", "num_words": "x"}, "whole number, got 'x'"),
        ({"kind": "windows", "num_words": 0}, "at least 1 word, got 0"),
        ({"kind": "syntactic", "pipeline": 3}, "must be a name, got 3"),
    ],
)
def test_wrong_configs_are_refused_with_what_was_expected(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_chunker(config)  # type: ignore[arg-type]
