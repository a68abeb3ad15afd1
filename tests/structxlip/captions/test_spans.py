from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import ftfy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from structxlip.captions.chunks import Chunk, SyntacticChunker, WindowChunker, sample_evenly
from structxlip.captions.spans import TokenSpans, token_spans
from structxlip.tokenizer import TextTokenizer
from tests.structxlip.captions.strategies import captions
from tests.support.shared_data import shared_path

TOKENIZER = SimpleTokenizer()
CHUNKER = WindowChunker()


def texts_of(path: Path, key: str) -> list[str]:
    return [json.loads(line)[key] for line in path.read_text(encoding="utf-8").splitlines()]


def _squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def _wrong_spans(spans: TokenSpans) -> Iterator[tuple[str, str]]:
    """Chunks whose ids decode to something else than their words, as written or as the tokenizer repairs them.

    All forms count, because mojibake is repaired by its context: `"Ø¤0"` alone becomes another letter, and
    stays what it is behind a no-break space; control characters go in either case.
    """
    for chunk, (start, end) in zip(spans.chunks, spans.spans, strict=True):
        decoded = _squeezed(TOKENIZER.decode(spans.ids[start:end].tolist()))
        as_written = ftfy.fix_text(chunk.text, fix_encoding=False).lower()
        forms = {TOKENIZER.clean_fn(chunk.text), chunk.text.lower(), as_written}
        if decoded not in {_squeezed(form) for form in forms}:
            yield chunk.text, decoded


def test_a_span_decodes_to_the_words_of_its_chunk() -> None:
    text = "A man's dog, isn't  it?  It RUNS 23 laps."
    chunks = [Chunk("man's dog", 2, 11), Chunk("RUNS 23", 28, 35)]
    assert [text[c.start_char : c.end_char] for c in chunks] == [c.text for c in chunks]
    found = token_spans(TOKENIZER, text, chunks, 77)
    assert [TOKENIZER.decode(found.ids[a:b].tolist()).strip() for a, b in found.spans] == [
        "man 's dog",
        "runs 2 3",
    ]


def test_spans_index_the_text_that_is_encoded_and_not_a_filtered_one() -> None:
    # Fault 1 of the public code: spans counted on the filtered caption, used on the ids of the whole one.
    whole, filtered = "A red and white dog sits.", "A dog sits."
    chunk = Chunk("dog sits", 2, 10)
    assert token_spans(TOKENIZER, filtered, [chunk], 77).spans == ((2, 4),)
    with pytest.raises(ValueError, match="not of this caption"):
        token_spans(TOKENIZER, whole, [chunk], 77)


def test_chunks_beyond_the_context_are_left_out() -> None:
    text = "one two three four five six seven eight nine ten"
    chunks = [Chunk("one two", 0, 7), Chunk("nine ten", 40, 48)]
    found = token_spans(TOKENIZER, text, chunks, 8)
    assert found.chunks == (chunks[0],)
    assert len(found.ids) == 8
    assert found.ids[-1] == TOKENIZER.eot_token_id


def test_the_last_token_that_fits_may_end_a_span() -> None:
    text = "one two three"
    assert token_spans(TOKENIZER, text, [Chunk(text, 0, 13)], 5).spans == ((1, 4),)
    assert token_spans(TOKENIZER, text, [Chunk(text, 0, 13)], 4).spans == ()


@pytest.mark.parametrize(
    "text",
    [
        "a “curly” dog’s bone &amp; a cat",
        "ﬁre &lt;b&gt; Ｗｉｄｅ letters \u00a0 there",
        "İstanbul and ΣΊΣΥΦΟΣ, x² ½",
        "<end_of_text> in the middle <start_of_text>",
        "schön Ã¤rger mojibake",
        "\xa0Ø¤0",
        "\xa0Ø\x1b¤0",
    ],
)
def test_texts_that_the_tokenizer_repairs_get_right_spans_or_none(text: str) -> None:
    found = token_spans(TOKENIZER, text, CHUNKER.chunks(text), 77)
    assert list(_wrong_spans(found)) == []


@settings(max_examples=300)
@given(st.one_of(captions(60), st.text(max_size=120)), st.integers(3, 100), st.integers(1, 9))
def test_any_caption_gets_the_ids_of_the_tokenizer_and_right_spans(
    text: str, context_length: int, num_words: int
) -> None:
    chunks = WindowChunker(num_words).chunks(text)
    found = token_spans(TOKENIZER, text, chunks, context_length)
    expected = TOKENIZER(text, context_length)[0].numpy()
    np.testing.assert_array_equal(found.ids, expected[: len(found.ids)])
    assert not expected[len(found.ids) :].any()
    assert list(_wrong_spans(found)) == []


def test_endless_runs_of_letters_get_the_ids_that_the_encoder_sees() -> None:
    text = "a " + "x" * 700 + " dog"
    tokenizer = TextTokenizer({"text_cfg": {"context_length": 77}})
    found = token_spans(TOKENIZER, text, CHUNKER.chunks(text), 77)
    np.testing.assert_array_equal(found.ids, tokenizer.encode(text).ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "key"),
    [("data/photos/captions.jsonl", "long"), ("data/texts/long_descriptions.jsonl", "text")],
)
def test_every_chunk_of_the_real_captions_gets_its_span(file: str, key: str) -> None:
    texts = texts_of(shared_path(file), key)
    num_chunks = num_found = 0
    for text in texts:
        chunks = CHUNKER.chunks(text)
        found = token_spans(TOKENIZER, text, chunks, 4000)
        num_chunks += len(chunks)
        num_found += len(found.spans)
        assert list(_wrong_spans(found)) == []
    assert num_chunks > len(texts)
    assert num_found == num_chunks


@pytest.mark.slow
def test_every_noun_phrase_of_the_long_descriptions_gets_its_span() -> None:
    texts = texts_of(shared_path("data/texts/long_descriptions.jsonl"), "text")[:100]
    for text, chunks in zip(texts, SyntacticChunker().chunks_of_all(texts), strict=True):
        found = token_spans(TOKENIZER, text, chunks, 4000)
        assert len(found.spans) == len(chunks)
        assert list(_wrong_spans(found)) == []


def test_sampled_chunks_keep_their_spans() -> None:
    text = "A dog runs. " * 40
    chunks = sample_evenly(CHUNKER.chunks(text), 5)
    found = token_spans(TOKENIZER, text, chunks, 248)
    assert len(found.spans) == 5
    assert found.spans[-1][0] > 120
