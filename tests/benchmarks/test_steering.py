"""The studies of steering run at a size that says nothing about quality, and compare what they say they compare."""

from __future__ import annotations

import pytest

from benchmarks import copies, explanations, negatives, no_match, sketches
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.copies import COPIES


@pytest.fixture(scope="module")
def encoder() -> TwoViewEncoder:
    return load_encoder("scenes-tiny", device="cpu")


@pytest.mark.slow
def test_sketches_are_measured_beside_the_colour_branch(encoder: TwoViewEncoder) -> None:
    figures = sketches.measure(encoder, "scenes:test", 24)
    assert figures["num_pictures"] == 24
    assert figures["edge_branch"]["R@10"] > figures["chance"]["R@1"]  # type: ignore[index]


@pytest.mark.slow
def test_copies_are_measured_by_weight_and_manipulation(encoder: TwoViewEncoder) -> None:
    figures = copies.measure(encoder, "scenes:test", "scenes:train", 24)
    by_weight = [value for name, value in figures.items() if name.startswith("w=")]
    assert len(by_weight) == 3
    for row in by_weight:
        assert set(row) == set(COPIES)  # type: ignore[arg-type]
        assert all(each["flat_threshold"] <= each["ranked_first"] for each in row.values())  # type: ignore[attr-defined]


@pytest.mark.slow
def test_no_match_is_measured_on_other_captions_and_on_half_the_vocabulary(encoder: TwoViewEncoder) -> None:
    figures = no_match.measure(encoder, "scenes:test", "scenes:val", "scenes:train", [12, 24])
    assert [row["num_pictures"] for row in figures["captions_of_other_pictures"]] == [12] * 7 + [24] * 7  # type: ignore[attr-defined]
    assert 0 < figures["half_of_the_vocabulary"]["num_pictures"] <= 24  # type: ignore[index]


@pytest.mark.slow
def test_negatives_are_measured_beside_words(encoder: TwoViewEncoder) -> None:
    figures = negatives.measure(encoder, 200, 6)
    assert set(figures["precision_at_10"]) >= {"words_alone", "without_as_words", "negative"}  # type: ignore[call-overload]


@pytest.mark.slow
def test_explanations_are_measured_beside_chance(encoder: TwoViewEncoder) -> None:
    figures = explanations.measure(encoder, 6)
    assert 0 <= figures["chance"] <= figures["any_region_right"]  # type: ignore[operator]
