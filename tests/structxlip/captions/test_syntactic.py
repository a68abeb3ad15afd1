from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import spacy
from hypothesis import given, settings
from spacy.tokens import Doc

from structxlip import captions as captions_package
from structxlip.captions import SyntacticFilter, build_caption_filter
from structxlip.captions.syntactic import ParsedGrammar
from structxlip.captions.vocabulary import load_vocabulary
from structxlip.captions.words import split_units
from tests.structxlip.captions.strategies import any_text


@pytest.fixture(scope="module")
def syntactic() -> SyntacticFilter:
    return SyntacticFilter()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red and white striped shirt.", "A striped shirt."),
        ("A man walks down the street.", "A man walks down the street."),
        ("a glass of orange juice", "a glass of orange juice"),
        ("A grey-brown dog sits on a small, white rug.", "A dog sits on a small rug."),
        ("The sky is blue and the grass is green.", "The sky and the grass."),
        ("The wheel has bars of light-grey metal.", "The wheel has bars."),
        ("There is a pile of wood.", "There is a pile of wood."),
        ("Two boys in blue play with a wooden toy under the bridge.", "Two boys play with a toy under the bridge."),
    ],
)
def test_structure_stays_and_appearance_goes(syntactic: SyntacticFilter, caption: str, expected: str) -> None:
    assert syntactic.structural_text(caption) == expected


def test_a_batch_gives_what_single_captions_give(syntactic: SyntacticFilter) -> None:
    captions = ["A red car.", "", "It is white.", "A tall brown tree stands by the river.\n\nIt is old."]
    assert syntactic.structural_texts(captions) == [syntactic.structural_text(text) for text in captions]


@settings(max_examples=150)
@given(text=any_text())
def test_nothing_raises_or_becomes_empty(syntactic: SyntacticFilter, text: str) -> None:
    reduction = syntactic.reduce(text)
    assert bool(reduction.text) == bool(text)
    has_word = any(unit.is_word for unit in split_units(text))
    assert any(unit.is_word for unit in split_units(reduction.text)) == has_word


def test_a_very_long_caption_is_parsed(syntactic: SyntacticFilter) -> None:
    long = "A red dog walks past a wooden house. " * 700
    assert syntactic.structural_text(long) == ("A dog walks past a house. " * 700).strip()


def test_threads_share_one_filter(syntactic: SyntacticFilter) -> None:
    captions = [f"A red dog number {place} sits on a wooden box." for place in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(syntactic.structural_text, captions))
    assert found == [f"A dog number {place} sits on a box." for place in range(40)]


def test_a_copy_for_another_process_filters_alike(syntactic: SyntacticFilter) -> None:
    copy: SyntacticFilter = pickle.loads(pickle.dumps(syntactic))
    assert copy.structural_text("A red dog.") == "A dog."
    assert copy.config() == syntactic.config()


def test_a_pipeline_folder_can_be_named_instead(tmp_path: Path) -> None:
    bundled = Path(captions_package.__file__).parent / "pipeline_en"
    copy = shutil.copytree(bundled, tmp_path / "mine")
    named = build_caption_filter({"kind": "syntactic", "pipeline": str(copy)})
    assert named.structural_text("A red dog.") == "A dog."
    assert named.config() == {"kind": "syntactic", "pipeline": str(copy)}


def test_a_folder_that_cannot_parse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        build_caption_filter({"kind": "syntactic", "pipeline": str(tmp_path)})
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(RuntimeError, match=r"need also \['parser'\]"):
        build_caption_filter({"kind": "syntactic", "pipeline": str(tmp_path / "blank")})


def _parsed(words: list[str], tags: list[str], pos: list[str], heads: list[int], deps: list[str]) -> Doc:
    vocabulary = spacy.blank("en").vocab
    return Doc(vocabulary, words=words, tags=tags, pos=pos, heads=heads, deps=deps)


def test_the_parse_decides_where_word_order_cannot() -> None:
    words = ["a", "glass", "tumbles", "down"]
    doc = _parsed(
        words,
        ["DT", "NN", "VBZ", "RB"],
        ["DET", "NOUN", "VERB", "ADV"],
        [1, 2, 2, 2],
        ["det", "nsubj", "ROOT", "advmod"],
    )
    grammar = ParsedGrammar(load_vocabulary(), split_units("a glass tumbles down"), doc)
    assert not grammar.continues_noun_phrase(1, 2, after_noun=True)
    assert grammar.starts_verb_phrase(2)


def test_prepositions_may_be_heads_as_in_other_pipelines() -> None:
    words = ["bars", "of", "metal"]
    universal = _parsed(words, ["NNS", "IN", "NN"], ["NOUN", "ADP", "NOUN"], [0, 2, 0], ["ROOT", "case", "nmod"])
    clear = _parsed(words, ["NNS", "IN", "NN"], ["NOUN", "ADP", "NOUN"], [0, 0, 1], ["ROOT", "prep", "pobj"])
    for doc in (universal, clear):
        grammar = ParsedGrammar(load_vocabulary(), split_units("bars of metal"), doc)
        assert grammar.is_material_phrase(2, 3)


def test_the_bundled_pipeline_names_its_data_and_licence() -> None:
    folder = Path(captions_package.__file__).parent / "pipeline_en"
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    assert meta["license"] == "CC BY-SA 4.0"
    assert len(meta["data_sha256"]) == 64
    assert meta["performance"]["gold_tokens"]["upos"] >= 93
    assert meta["performance"]["gold_tokens"]["uas"] >= 84
    assert meta["performance"]["gold_tokens"]["las"] >= 80
    assert "Universal Dependencies English Web Treebank" in notice
    assert "Attribution-ShareAlike 4.0" in notice
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 6_000_000
