"""Reads a Universal Dependencies treebank (CoNLL-U) into spaCy documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spacy.tokens import Doc
from spacy.vocab import Vocab

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Sentence:
    """One annotated sentence, column by column; ``heads`` are positions in the sentence, a root names itself."""

    words: tuple[str, ...]
    spaces: tuple[bool, ...]
    upos: tuple[str, ...]
    xpos: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    starts_paragraph: bool


class TreebankError(ValueError):
    """The treebank folder or one of its lines is not what was expected."""


def split_path(folder: Path, split: str) -> Path:
    """Find the one ``*-SPLIT.conllu`` file of a treebank folder."""
    found = sorted(folder.glob(f"*-{split}.conllu"))
    if len(found) != 1:
        names = [path.name for path in found]
        raise TreebankError(f"{folder} must hold exactly one file named *-{split}.conllu, found {names}")
    return found[0]


def digest(folder: Path) -> str:
    """SHA-256 over the three splits in order: it names the data that a pipeline was trained on."""
    state = hashlib.sha256()
    for split in SPLITS:
        state.update(split_path(folder, split).read_bytes())
    return state.hexdigest()


def read_sentences(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of one CoNLL-U file."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line:
            lines.append(line)
        elif lines:
            yield _parse_sentence(lines)
            lines = []
    if lines:
        yield _parse_sentence(lines)


def _parse_sentence(lines: list[str]) -> Sentence:
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    words = [row for row in rows if row[0].isdigit()]
    if any(len(row) != 10 for row in rows) or not words:
        raise TreebankError(f"a CoNLL-U sentence needs rows of 10 tab-separated columns, got: {lines[:3]}")
    heads = [int(row[6]) - 1 for row in words]
    return Sentence(
        words=tuple(row[1] for row in words),
        spaces=tuple(_spaces(rows)),
        upos=tuple(row[3] for row in words),
        xpos=tuple(row[4] for row in words),
        heads=tuple(position if head < 0 else head for position, head in enumerate(heads)),
        relations=tuple("ROOT" if row[7] == "root" else row[7] for row in words),
        starts_paragraph=any(line.startswith(("# newpar", "# newdoc")) for line in lines),
    )


def _spaces(rows: list[list[str]]) -> Iterator[bool]:
    """Whether a space follows each word: inside a multi-word token ("don't" = "do" + "n't") there is none."""
    last_of_token, token_has_space = 0, True
    for row in rows:
        has_space = "SpaceAfter=No" not in row[9]
        if "-" in row[0]:
            last_of_token, token_has_space = int(row[0].split("-")[1]), has_space
        elif row[0].isdigit():
            position = int(row[0])
            if position > last_of_token:
                yield has_space
            else:
                yield token_has_space and position == last_of_token


def group_paragraphs(sentences: Iterator[Sentence], max_sentences: int) -> Iterator[list[Sentence]]:
    """Join neighbouring sentences of a paragraph, so that the parser learns where sentences end."""
    group: list[Sentence] = []
    for sentence in sentences:
        if group and (sentence.starts_paragraph or len(group) == max_sentences):
            yield group
            group = []
        group.append(sentence)
    if group:
        yield group


def to_doc(vocab: Vocab, sentences: list[Sentence]) -> Doc:
    """Build the gold document of some sentences."""
    offsets = [0]
    for sentence in sentences:
        offsets.append(offsets[-1] + len(sentence.words))
    return Doc(
        vocab,
        words=[word for sentence in sentences for word in sentence.words],
        spaces=[space for sentence in sentences for space in sentence.spaces],
        pos=[tag for sentence in sentences for tag in sentence.upos],
        tags=[tag for sentence in sentences for tag in sentence.xpos],
        heads=[head + start for sentence, start in zip(sentences, offsets, strict=False) for head in sentence.heads],
        deps=[relation for sentence in sentences for relation in sentence.relations],
        sent_starts=[place == 0 for sentence in sentences for place in range(len(sentence.words))],
    )
