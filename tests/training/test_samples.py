from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.builders import tiny_config
from training.config import AugmentationConfig
from training.data import BatchPlan, DataError, RawPair, collate, load_batches
from training.data.samples import (
    SampleSet,
    augmented,
    boxes_after_resize,
    shortened,
    with_sides_swapped,
)
from training.loop import Run, prepare


@pytest.fixture
def run(tmp_path: Path) -> Run:
    augmentation = {"min_crop_area": 0.6, "brightness": 0.2, "contrast": 0.2, "flip": True}
    return prepare(tiny_config(tmp_path, data__augmentation=augmentation))


def samples(run: Run, epoch: int = 0) -> SampleSet:
    return SampleSet(run.train_source, run.maker, epoch)


def test_a_sample_is_a_function_of_seed_epoch_and_index(run: Run) -> None:
    one, again, later = samples(run)[3], samples(run)[3], samples(run, epoch=1)[3]
    np.testing.assert_array_equal(one.picture.rgb, again.picture.rgb)
    np.testing.assert_array_equal(one.text.tokens, again.text.tokens)
    assert not np.array_equal(one.picture.rgb, later.picture.rgb)


def test_workers_make_the_same_batches_as_the_process_itself(run: Run) -> None:
    def first_batch(num_workers: int) -> dict[str, torch.Tensor]:
        batches = load_batches(
            samples(run),
            run.plan.steps(0)[:1],
            collate=partial(collate, tokenizer=run.maker.tokenizer, max_chunks=4),
            num_workers=num_workers,
        )
        (batch,) = next(iter(batches))
        return {name: part for name, part in vars(batch).items() if isinstance(part, torch.Tensor)}

    here, there = first_batch(0), first_batch(2)
    for name, tensor in here.items():
        assert torch.equal(tensor, there[name]), name


def test_edges_are_those_of_the_augmented_picture(run: Run) -> None:
    picture = samples(run)[5].picture
    np.testing.assert_array_equal(picture.edges, run.maker.edge_detector.detect(picture.rgb))


def test_spans_decode_to_words_of_the_text_that_is_encoded(run: Run) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    decoder = SimpleTokenizer()
    sample = samples(run)[0]
    caption = run.maker.chosen(run.train_source.captions(0, 0), 0, 0)
    structural = run.maker.caption_filter.structural_text(caption).lower()
    assert len(sample.text.spans) > 3
    for start, end in sample.text.spans:
        told = decoder.decode(sample.text.structural_tokens[start:end].tolist()).strip()
        assert told.replace(" ", "") in structural.replace(" ", "")
        assert len(told.split()) >= 1


def test_a_caption_of_5000_words_and_one_without_structure_make_samples(run: Run) -> None:
    long = run.maker.text("a small house left of a tree, " * 800)
    assert len(long.tokens) == run.maker.tokenizer.context_length
    assert all(end < len(long.structural_tokens) for _, end in long.spans)
    plain = run.maker.text("red blue green")
    assert len(plain.structural_tokens) > 2


def test_a_picture_without_any_edge_makes_a_sample_that_is_masked(run: Run) -> None:
    flat = RawPair("flat", np.full((50, 70, 3), 90, np.uint8), ("nothing",))
    sample = samples(run)[0]
    batch = collate(
        [sample, type(sample)(1, "flat", False, run.maker.seen(flat), sample.text)], tokenizer=run.maker.tokenizer
    )
    assert batch.has_edges.tolist() == [True, False]


def test_one_of_several_captions_is_chosen_anew_each_epoch(run: Run) -> None:
    captions = ["one", "two", "three", "  "]
    chosen = [run.maker.chosen(captions, 4, epoch) for epoch in range(40)]
    assert set(chosen) == {"one", "two", "three"}


def test_batches_have_fixed_chunk_and_region_shapes(run: Run) -> None:
    batches = [
        collate([samples(run)[index] for index in rows], tokenizer=run.maker.tokenizer, max_chunks=4)
        for rows in ([0, 1, 2], [7, 8, 9])
    ]
    assert {tuple(batch.chunks.owner.shape) for batch in batches} == {(12,)}
    assert {tuple(batch.boxes.shape) for batch in batches} == {(3, 16, 4)}


def test_equal_texts_have_one_meaning(run: Run) -> None:
    first, second = samples(run)[0], samples(run)[1]
    texts = [run.maker.text(caption) for caption in ("a red car", "a blue car", "a red car")]
    assert [len(text.tokens) for text in texts] == [5, 5, 5]
    batch = collate([replace(first, text=text) for text in texts] + [second], tokenizer=run.maker.tokenizer)
    full, structural = batch.meanings.tolist(), batch.structural_meanings.tolist()
    assert full[0] == full[2]
    assert len(set(full)) == 3
    assert structural[0] == structural[1] == structural[2] != structural[3]


def test_given_boxes_move_with_crop_mirror_and_resize() -> None:
    rgb = np.zeros((40, 80, 3), np.uint8)
    rgb[10:30, 20:40] = 255
    pair = RawPair("p", rgb, ("x",), np.array([[0.25, 0.25, 0.5, 0.75]], np.float32))
    cropped = augmented(pair, AugmentationConfig(min_crop_area=0.9), np.random.default_rng(0))
    assert cropped.boxes is not None
    height, width = cropped.rgb.shape[:2]
    left, top, right, bottom = (cropped.boxes[0] * [width, height, width, height]).round().astype(int)
    assert cropped.rgb[top:bottom, left:right].min() == 255
    assert cropped.rgb.sum() == rgb.sum()


def test_boxes_follow_a_picture_that_is_cut_square(run: Run) -> None:
    from dataclasses import replace

    shortest = replace(run.maker.preprocessing, resize_mode="shortest")
    boxes = np.array([[0.25, 0, 0.75, 1], [0, 0, 0.2, 1]], np.float32)
    np.testing.assert_allclose(boxes_after_resize(boxes, (40, 80, 3), shortest), [[0, 0, 1, 1]])
    longest = replace(run.maker.preprocessing, resize_mode="longest")
    np.testing.assert_allclose(boxes_after_resize(boxes[:1], (40, 80, 3), longest), [[0.25, 0.25, 0.75, 0.75]])


def test_processes_share_a_step_without_overlap_and_in_order() -> None:
    from structxlip.gather import Ranks

    plan = BatchPlan(num_samples=21, batch_size=8, seed=3)
    whole = plan.steps(1)
    parts = [plan.steps(1, ranks=Ranks(index, 4)) for index in range(4)]
    assert [[i for part in parts for i in part[step]] for step in range(2)] == whole
    assert plan.steps(1, start=1) == whole[1:]
    assert plan.steps(0) != whole


def test_less_data_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than one batch of 8"):
        BatchPlan(num_samples=7, batch_size=8, seed=0)


def test_a_shorter_text_keeps_whole_phrases_and_at_least_one() -> None:
    text = "In the middle, there is a boat. Behind it, hills, trees; and the sky."
    versions = [shortened(text, 0.5, version) for version in range(8)]
    assert versions == [shortened(text, 0.5, version) for version in range(8)]
    assert len(set(versions)) > 2
    known = ["In the middle", "there is a boat", "Behind it", "hills", "trees", "and the sky"]
    for version in versions:
        kept = version.removesuffix(".").split(", ")
        assert kept
        assert [phrase for phrase in known if phrase in kept] == kept
    assert shortened("one phrase only", 0.9, 0) == "one phrase only"
    assert shortened(text, 0, 0) == ", ".join(known) + "."


def test_phrases_are_dropped_from_the_structural_text_or_from_both(tmp_path: Path) -> None:
    caption = "a house, a tree, a road, a fence, a car"
    for where in ("structural", "both"):
        drop = {"drop_phrases": 0.6, "dropped_from": where}
        maker = prepare(tiny_config(tmp_path / where, data__augmentation=drop)).maker
        whole = maker.tokenizer.encode(caption).ids
        texts = [maker.text(caption, version) for version in range(maker.num_versions)]
        assert all(len(text.structural_tokens) <= len(whole) for text in texts)
        assert min(len(text.structural_tokens) for text in texts) < len(whole)
        assert all(np.array_equal(text.tokens, whole) for text in texts) is (where == "structural")


def test_a_mirrored_picture_is_told_with_left_and_right_exchanged(tmp_path: Path) -> None:
    assert with_sides_swapped("Left of it, on the right side, a bright leftover") == (
        "right of it, on the left side, a bright leftover"
    )
    run = prepare(tiny_config(tmp_path, data__augmentation={"flip": True, "swap_sides": True}))
    epoch = samples(run)
    for index in range(len(run.train_source)):
        caption = run.train_source.captions(index)[0]
        told = with_sides_swapped(caption) if epoch[index].is_mirrored else caption
        np.testing.assert_array_equal(epoch[index].text.tokens, run.maker.tokenizer.encode(told).ids)
