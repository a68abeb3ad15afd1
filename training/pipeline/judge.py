"""Judges a caption filter on hand-labelled sentences: ``python -m training.pipeline.judge LABELLED.jsonl``.

Precision: of the words that the filter dropped, how many tell of appearance. Recall: of the words that tell of
appearance, how many it dropped. Function words that go along with them ("is", "in", "made of") do not count.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from structxlip.captions import BUNDLED, LexiconFilter, Reduction, SyntacticFilter
from structxlip.captions.vocabulary import Vocabulary, load_vocabulary
from structxlip.captions.words import split_units


class ReducingFilter(Protocol):
    """A filter that says which spans it leaves out."""

    def reduce(self, text: str) -> Reduction:
        """The structural text and the spans that are not in it."""
        ...


@dataclass(frozen=True)
class LabelledSentence:
    """A sentence with the character spans that tell of appearance."""

    text: str
    appearance: tuple[tuple[int, int], ...]
    part: str


@dataclass(frozen=True)
class Judgement:
    """Counts of words over all sentences, and the mistakes in readable form."""

    num_right: int
    num_wrong: int
    num_missed: int
    mistakes: tuple[str, ...]

    @property
    def precision(self) -> float:
        """Share of the dropped words that tell of appearance; 1 if nothing was dropped."""
        num_dropped = self.num_right + self.num_wrong
        return self.num_right / num_dropped if num_dropped else 1.0

    @property
    def recall(self) -> float:
        """Share of the appearance words that were dropped; 1 if there were none."""
        num_appearance = self.num_right + self.num_missed
        return self.num_right / num_appearance if num_appearance else 1.0


def read_labelled(path: Path) -> list[LabelledSentence]:
    """Read one ``{"sentence": …, "dropped": [[start, end], …], "part": …}`` a line."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [LabelledSentence(row["sentence"], tuple((a, b) for a, b in row["dropped"]), row["part"]) for row in rows]


def judge(caption_filter: ReducingFilter, sentences: Iterable[LabelledSentence]) -> Judgement:
    """Compare what a filter drops with the labels, word by word."""
    vocabulary = load_vocabulary()
    right = wrong = missed = 0
    mistakes: list[str] = []
    for sentence in sentences:
        dropped = _content_words(vocabulary, sentence.text, caption_filter.reduce(sentence.text).dropped)
        labelled = _content_words(vocabulary, sentence.text, sentence.appearance)
        right += len(dropped & labelled)
        wrong += len(dropped - labelled)
        missed += len(labelled - dropped)
        for what, spans in (("wrongly dropped", dropped - labelled), ("missed", labelled - dropped)):
            words = [sentence.text[start:end] for start, end in sorted(spans)]
            mistakes.extend(f"{what}: {word!r} in {sentence.text!r}" for word in words)
    return Judgement(right, wrong, missed, tuple(mistakes))


def _content_words(vocabulary: Vocabulary, text: str, spans: Sequence[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    """The words of ``text`` that a span touches, less the function words."""
    idle = vocabulary.function_words | vocabulary.degrees | vocabulary.made | vocabulary.linking
    starts = {start for start, _ in spans}
    words = (unit for unit in split_units(text) if unit.is_word and unit.lower not in idle)
    return frozenset((unit.start, unit.end) for unit in words if unit.start in starts)


def main() -> None:
    """Judge both filters and print their scores and mistakes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("labelled", type=Path, help="JSON lines with sentence and dropped")
    parser.add_argument("--pipeline", default=BUNDLED, help="spaCy pipeline of the syntactic filter")
    arguments = parser.parse_args()
    sentences = read_labelled(arguments.labelled)
    filters: list[ReducingFilter] = [LexiconFilter(), SyntacticFilter(arguments.pipeline)]
    for part in sorted({sentence.part for sentence in sentences}):
        chosen = [sentence for sentence in sentences if sentence.part == part]
        for each in filters:
            result = judge(each, chosen)
            print(f"{part} {type(each).__name__}: precision {result.precision:.3f}, recall {result.recall:.3f}")
            print("\n".join(f"  {mistake}" for mistake in result.mistakes))


if __name__ == "__main__":
    main()
