from __future__ import annotations

import time

import numpy as np
import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from structxlip import tokenizer as module
from structxlip.errors import UnsupportedModelError
from structxlip.tokenizer import TextTokenizer

START, END = 49406, 49407


def architecture(context_length: int = 77, **text: object) -> dict[str, object]:
    return {"text_cfg": {"context_length": context_length, **text}}


@pytest.fixture(scope="module")
def ours() -> TextTokenizer:
    return TextTokenizer(architecture())


@pytest.fixture(scope="module")
def theirs() -> SimpleTokenizer:
    return SimpleTokenizer()


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(["a", "red", "table's", "12", "&amp;", "ﬁne"])).map(" ".join))
def test_padded_tokens_are_those_of_open_clip(ours: TextTokenizer, theirs: SimpleTokenizer, text: str) -> None:
    padded = ours.pad([ours.encode(text).ids], length=77)
    np.testing.assert_array_equal(padded.numpy(), theirs([text]).numpy())


def test_the_true_length_is_told_and_what_does_not_fit_is_cut_off(ours: TextTokenizer) -> None:
    short, full, long = (ours.encode(" ".join(["dog"] * count)) for count in (3, 75, 200))
    assert (short.num_tokens, short.is_truncated, len(short.ids)) == (5, False, 5)
    assert (full.num_tokens, full.is_truncated, len(full.ids)) == (77, False, 77)
    assert (long.num_tokens, long.is_truncated, len(long.ids)) == (202, True, 77)
    assert (long.ids[0], long.ids[-1]) == (START, END)


def test_an_empty_text_is_a_start_and_an_end(ours: TextTokenizer) -> None:
    assert ours.encode("").ids.tolist() == [START, END]


def test_a_longer_context_reads_more() -> None:
    tokens = TextTokenizer(architecture(248)).encode("dog " * 200)
    assert (tokens.num_tokens, tokens.is_truncated) == (202, False)


def test_a_batch_is_padded_to_its_longest_row_with_zeros(ours: TextTokenizer) -> None:
    batch = ours.pad([ours.encode(text).ids for text in ("dog", "two dogs run")])
    assert batch.shape == (2, 5)
    assert batch[0].tolist()[-2:] == [0, 0]


@pytest.mark.parametrize("text", ["x" * 8192, "qzj" * 2700, "木" * 2700, "-_" * 4096], ids=lambda t: t[:3])
def test_a_word_without_end_takes_no_time_to_speak_of(ours: TextTokenizer, text: str) -> None:
    started = time.process_time()
    assert ours.encode(text).is_truncated
    assert time.process_time() - started < 2


def test_words_are_remembered_only_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = TextTokenizer(architecture())
    cache = ours._tokenizer.cache
    monkeypatch.setattr(module, "MAX_CACHED_WORDS", len(cache) + 10)
    known = ours.encode("w1 word2x word3x").ids
    for number in range(100):
        ours.encode(f"word{chr(97 + number % 26)}{chr(97 + number // 26)}")
    assert len(cache) == module.MAX_CACHED_WORDS
    np.testing.assert_array_equal(ours.encode("w1 word2x word3x").ids, known)


def test_tokenizers_share_their_tables_and_nothing_that_changes() -> None:
    short, long = TextTokenizer(architecture(5)), TextTokenizer(architecture(248))
    assert short._tokenizer.bpe_ranks is long._tokenizer.bpe_ranks
    assert short._tokenizer.cache is not long._tokenizer.cache
    assert [len(each.encode("dog " * 300).ids) for each in (short, long)] == [5, 248]
    assert open_clip.tokenize(["dog"]).shape == (1, 77)


def test_a_tokenizer_that_needs_a_missing_package_names_it() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        with pytest.raises(UnsupportedModelError, match="needs the package `transformers`"):
            TextTokenizer(architecture(64, hf_tokenizer_name="some/tokenizer"))
    else:
        pytest.skip("transformers is installed")
