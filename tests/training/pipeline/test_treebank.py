from __future__ import annotations

from pathlib import Path

import pytest
from spacy.vocab import Vocab

from tests.training.pipeline.examples import CONLLU
from training.pipeline.treebank import (
    TreebankError,
    digest,
    group_paragraphs,
    read_sentences,
    split_path,
    to_doc,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "dev", "test"):
        (tmp_path / f"en-{split}.conllu").write_text(CONLLU, encoding="utf-8")
    return tmp_path


def test_a_document_has_the_text_of_its_sentences(folder: Path) -> None:
    sentences = list(read_sentences(split_path(folder, "train")))
    doc = to_doc(Vocab(), sentences[:2])
    assert doc.text == "Don't run. A dog sits. "
    assert [token.text for token in doc] == ["Do", "n't", "run", ".", "A", "dog", "sits", "."]


def test_heads_count_from_the_start_of_their_own_sentence(folder: Path) -> None:
    doc = to_doc(Vocab(), list(read_sentences(split_path(folder, "train")))[:2])
    assert [token.head.text for token in doc] == ["run", "run", "run", "run", "dog", "sits", "sits", "sits"]
    assert [token.is_sent_start for token in doc].count(True) == 2
    assert [sentence.root.text for sentence in doc.sents] == ["run", "sits"]


def test_empty_nodes_of_enhanced_trees_are_no_words(folder: Path) -> None:
    third = list(read_sentences(split_path(folder, "train")))[2]
    assert third.words == ("Cats", "too")


def test_a_group_ends_with_its_paragraph_or_when_it_is_full(folder: Path) -> None:
    def sizes(limit: int) -> list[int]:
        return [len(group) for group in group_paragraphs(read_sentences(split_path(folder, "dev")), limit)]

    assert sizes(8) == [2, 1]
    assert sizes(1) == [1, 1, 1]


def test_the_digest_changes_with_any_split(folder: Path) -> None:
    before = digest(folder)
    assert digest(folder) == before
    split_path(folder, "test").write_text(CONLLU + "\n", encoding="utf-8")
    assert digest(folder) != before


def test_a_folder_without_the_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(TreebankError, match=r"exactly one file named \*-dev.conllu, found \[\]"):
        split_path(tmp_path, "dev")


def test_a_broken_row_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "en-dev.conllu"
    path.write_text("1\tA\tdog\n\n", encoding="utf-8")
    with pytest.raises(TreebankError, match="10 tab-separated columns"):
        list(read_sentences(path))
