"""How much of the captions is appearance, which their structural text leaves out.

Where it is next to nothing, the structural text is the caption, and the structural losses have one text to learn from,
not two (docs/experiments.md, 2026-12-01).
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import eq

from structxlip.captions import CaptionFilter
from structxlip.captions.words import split_units
from training.data.records import PairSource

MAX_RECORDS = 500


@dataclass(frozen=True)
class AppearanceShare:
    """What a filter leaves out of captions.

    Attributes:
        num_captions: How many were looked at.
        words_per_caption: Their mean length.
        of_words: Share of their words that the structural text lacks, 0 … 1.
        unchanged: Share of the captions that are their own structural text, 0 … 1.
    """

    num_captions: int
    words_per_caption: float
    of_words: float
    unchanged: float

    def told(self) -> str:
        """Return it in one line."""
        return (
            f"captions: {self.words_per_caption:.0f} words, {100 * self.of_words:.1f} % of them appearance; "
            f"{100 * self.unchanged:.0f} % are their own structural text"
        )


def appearance_share(
    source: PairSource, caption_filter: CaptionFilter, *, max_records: int = MAX_RECORDS
) -> AppearanceShare:
    """Look at the first captions of a source's records, evenly spaced where there are many.

    Args:
        source: At least one record.
        caption_filter: What makes structural text.
        max_records: How many records to look at; a parsing filter takes some milliseconds for each.
    """
    num_records = min(len(source), max_records)
    rows = [number * len(source) // num_records for number in range(num_records)]
    captions = [source.captions(row)[0] for row in rows]
    structural = [caption_filter.structural_text(caption) for caption in captions]
    num_words = max(1, sum(map(_num_words, captions)))
    return AppearanceShare(
        num_captions=len(captions),
        words_per_caption=num_words / len(captions),
        of_words=1 - sum(map(_num_words, structural)) / num_words,
        unchanged=sum(map(eq, captions, structural)) / len(captions),
    )


def _num_words(text: str) -> int:
    return sum(unit.is_word for unit in split_units(text))
