from __future__ import annotations

import json
from pathlib import Path

import pytest

from structxlip.captions import LexiconFilter, NoFilter
from tests.training.test_sources import write_folder
from training.config import SourceConfig
from training.data import PairSource, appearance_share, open_source


def source_of(folder: Path, captions: list[str]) -> PairSource:
    write_folder(folder, len(captions))
    rows = [{"image": f"p{index}.jpg", "caption": caption} for index, caption in enumerate(captions)]
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(SourceConfig(kind="manifest", path=str(path)), image_size=64)


def test_it_counts_the_words_that_structural_text_lacks(tmp_path: Path) -> None:
    source = source_of(tmp_path, ["a red cup on a table", "two boats beside a pier", "a blue car, a green tree"])
    share = appearance_share(source, LexiconFilter())
    assert share.num_captions == 3
    assert share.words_per_caption == pytest.approx(17 / 3)
    assert share.of_words == pytest.approx(3 / 17)
    assert share.unchanged == pytest.approx(1 / 3)
    assert share.told() == "captions: 6 words, 17.6 % of them appearance; 33 % are their own structural text"


def test_without_a_filter_every_caption_is_its_own_structural_text(tmp_path: Path) -> None:
    share = appearance_share(source_of(tmp_path, ["a red cup", "a red car"]), NoFilter())
    assert (share.of_words, share.unchanged) == (0, 1)


def test_many_records_are_looked_at_evenly_spaced(tmp_path: Path) -> None:
    captions = ["a red cup"] * 5 + ["a cup"] * 5
    share = appearance_share(source_of(tmp_path, captions), LexiconFilter(), max_records=4)
    assert (share.num_captions, share.unchanged) == (4, 0.5)
