from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.scenes import SPLITS, Group, Relation, Scene, combinations, described_scene, sample_scene
from training.scenes.splits import owner

indexes = st.integers(0, 10**9)
splits = st.sampled_from(SPLITS)


def _kinds(scene: Scene) -> set[str]:
    return {group.kind for group in scene.groups}


def _holds(relation: Relation, groups: tuple[Group, ...]) -> bool:
    subject = groups[relation.subject].box
    others = [groups[i].box for i in relation.objects]
    other = others[0]
    if relation.name == "left_of":
        return subject.right <= other.left
    if relation.name == "above":
        return subject.bottom <= other.top
    if relation.name == "inside":
        return other.holds(subject) and len(groups[relation.objects[0]].boxes) == 1
    if relation.name == "on":
        return abs(subject.bottom - other.top) < 0.03 and other.left <= subject.left and subject.right <= other.right
    if relation.name == "around":
        return subject.holds(other) and all(box.overlap(other) == 0 for box in groups[relation.subject].boxes)
    if relation.name == "in_front_of":
        return relation.subject > relation.objects[0] and 0.03 < subject.overlap(other) / other.area < 0.6
    assert relation.name == "between"
    low, high = sorted(box.centre for box in others)
    return low[0] < subject.centre[0] < high[0] or (
        min(box.centre[1] for box in others) < subject.centre[1] < max(box.centre[1] for box in others)
    )


@given(splits, indexes, st.integers(0, 5))
def test_a_scene_follows_from_split_index_and_seed(split: str, index: int, seed: int) -> None:
    assert sample_scene(split, index, seed) == sample_scene(split, index, seed)


def test_another_index_seed_or_split_gives_another_scene() -> None:
    scenes = {
        sample_scene(split, index, seed).groups
        for split in ("train", "val", "test")
        for index in range(40)
        for seed in (0, 1)
    }
    assert len(scenes) == 3 * 40 * 2


@settings(max_examples=300)
@given(splits, indexes)
def test_every_recorded_relation_holds_for_the_boxes(split: str, index: int) -> None:
    scene = sample_scene(split, index)
    for relation in scene.relations:
        assert _holds(relation, scene.groups), relation


@given(splits, indexes)
def test_each_pair_of_groups_has_exactly_one_relation(split: str, index: int) -> None:
    scene = sample_scene(split, index)
    pairs = [frozenset((r.subject, r.objects[0])) for r in scene.relations if r.name != "between"]
    number = len(scene.groups)
    assert len(pairs) == len(set(pairs)) == number * (number - 1) // 2


@given(splits, indexes)
def test_objects_lie_inside_the_picture_and_are_large_enough_to_be_recognised(split: str, index: int) -> None:
    for group in sample_scene(split, index).groups:
        for box in group.boxes:
            assert box.left >= 0
            assert box.top >= 0
            assert box.right <= 1
            assert box.bottom <= 1
            assert max(box.width, box.height) >= 0.13
        assert 1 <= group.count <= 5


def test_scenes_have_two_to_five_groups_of_at_least_fourteen_kinds_in_all_counts_patterns_and_relations() -> None:
    scenes = [sample_scene("train", index) for index in range(600)]
    groups = [group for scene in scenes for group in scene.groups]
    assert {len(scene.groups) for scene in scenes} == {2, 3, 4, 5}
    assert all(len(_kinds(scene)) == len(scene.groups) for scene in scenes)
    assert len({group.kind for group in groups}) == 30
    assert {group.count for group in groups} == {1, 2, 3, 4, 5}
    assert {group.pattern for group in groups} == {"plain", "striped", "banded", "dotted", "checkered"}
    assert {group.size for group in groups} == {"small", "medium", "large"}
    assert {relation.name for scene in scenes for relation in scene.relations} == {
        "left_of", "above", "on", "inside", "around", "in_front_of", "between",
    }  # fmt: skip
    assert len({scene.background.kind for scene in scenes}) == 8


def test_the_training_split_shows_no_combination_of_the_validation_or_the_test() -> None:
    for index in range(1500):
        assert all(owner(found) == "train" for found in combinations(sample_scene("train", index)))


@pytest.mark.parametrize(
    ("split", "other"), [("val", "test"), ("test", "val"), ("cluttered", "val"), ("low_contrast", "val")]
)
def test_each_held_out_scene_shows_something_new_and_nothing_of_the_other_split(split: str, other: str) -> None:
    for index in range(300):
        owners = {owner(found) for found in combinations(sample_scene(split, index))}
        assert other not in owners
        assert owners != {"train"}


def test_combinations_seen_in_one_split_alone_are_disjoint() -> None:
    seen = {
        split: {
            found
            for index in range(500)
            for found in combinations(sample_scene(split, index))
            if owner(found) != "train"
        }
        for split in ("train", "val", "test")
    }
    assert seen["train"] == set()
    assert len(seen["val"]) > 50
    assert len(seen["test"]) > 50
    assert seen["val"].isdisjoint(seen["test"])


def test_a_thousand_test_scenes_differ_in_structure_alone() -> None:
    structures = set()
    for index in range(1000):
        groups = sample_scene("test", index).groups
        structures.add(frozenset((g.kind, g.count, g.pattern, g.position, g.size) for g in groups))
    assert len(structures) >= 998


@given(indexes)
def test_recoloured_scenes_keep_all_but_the_colours_and_share_none(index: int) -> None:
    picture, described = sample_scene("recoloured", index), described_scene("recoloured", index)
    assert described == sample_scene("test", index)
    assert picture.relations == described.relations
    assert picture.background.paint.name != described.background.paint.name
    for group, original in zip(picture.groups, described.groups, strict=True):
        assert group.paint.name not in (original.paint.name, original.second.name)
        assert group.boxes == original.boxes
        assert (group.kind, group.variant, group.facing, group.pattern, group.fill, group.outline) == (
            original.kind, original.variant, original.facing, original.pattern, original.fill, original.outline,
        )  # fmt: skip


def test_recoloured_pictures_wear_mostly_their_neighbours_colours() -> None:
    shared = []
    for index in range(100):
        neighbour = {group.paint.name for group in described_scene("recoloured", index ^ 1).groups}
        shared += [group.paint.name in neighbour for group in sample_scene("recoloured", index).groups]
    assert sum(shared) / len(shared) > 0.5


@given(indexes)
def test_rearranged_pairs_show_the_same_objects_in_other_relations(index: int) -> None:
    original, other = sample_scene("rearranged", 2 * index), sample_scene("rearranged", 2 * index + 1)
    assert original.groups == sample_scene("test", index).groups
    assert original.background == other.background

    def looks(scene: Scene) -> set[tuple[str, int, str, str]]:
        return {(g.kind, g.count, g.paint.name, g.pattern) for g in scene.groups}

    def named(scene: Scene) -> set[tuple[str, str, str]]:
        return {
            (scene.groups[r.subject].kind, r.name, scene.groups[r.objects[0]].kind)
            for r in scene.relations
            if r.name != "between"
        }

    assert looks(original) == looks(other)
    assert len(named(original) & named(other)) <= len(named(original)) / 2


def test_cluttered_scenes_have_five_groups_and_loose_marks_and_low_contrast_ones_pale_colours() -> None:
    for index in range(20):
        cluttered = sample_scene("cluttered", index)
        assert len(cluttered.groups) == 5
        assert cluttered.num_clutter >= 30
        assert sample_scene("low_contrast", index).contrast < 0.5


@pytest.mark.parametrize("split", SPLITS)
def test_hundreds_of_indexes_of_every_split_can_be_drawn(split: str) -> None:
    for index in range(700):
        sample_scene(split, index, seed=3)


def test_an_unknown_split_and_a_negative_index_are_refused() -> None:
    with pytest.raises(ValueError, match="'holdout'; expected one of train, val"):
        sample_scene("holdout", 0)
    with pytest.raises(ValueError, match="index is -1"):
        sample_scene("train", -1)
