"""Parts against the scenes that they are cut out of."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.scenes.test_captions import PATTERN_WORDS
from training.scenes import Chance, SceneDataset, sample_scene
from training.scenes.palette import SYNONYMS
from training.scenes.parts import ENLARGED, plan_part
from training.scenes.scene import Group
from training.scenes.vocabulary import KINDS


def _is_named(group: Group, phrase: str) -> bool:
    """Whether the kind stands in the phrase, in the singular for one and in the plural for several."""
    words = f" {phrase} ".replace(",", " ")
    return any(f" {names[group.count > 1]} " in words for names in KINDS[group.kind].names)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_a_phrase_names_something_of_its_scene_by_its_looks(index: int) -> None:
    scene = sample_scene("train", index)
    part = plan_part(scene, Chance(index)).cut(64)
    # One of several objects may be meant: it is named as one.
    singles = [
        group for group in scene.groups if any(f" {n[0]} " in f" {part.phrase} " for n in KINDS[group.kind].names)
    ]
    named = [group for group in scene.groups if _is_named(group, part.phrase)] + singles
    assert named, part.phrase
    colours = {colour for group in named for colour in SYNONYMS.get(group.paint.name, (group.paint.name,))}
    patterns = {group.pattern for group in named} - {"plain"}
    words = set(part.phrase.replace(",", " ").replace("-", " ").split())
    assert words & colours or any(word in part.phrase for name in patterns for word in PATTERN_WORDS[name]), part.phrase
    assert len(words) < 30


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_box_lies_where_the_objects_are(index: int) -> None:
    scene = sample_scene("train", index)
    part = plan_part(scene, Chance(index)).cut(64)
    height, width = part.rgb.shape[:2]
    assert min(height, width) >= 8
    assert max(height, width) <= 64 * ENLARGED
    left, top, right, bottom = part.box[0]
    assert 0 <= left < right <= 1
    assert 0 <= top < bottom <= 1
    # Its size is that of a group, or of one object, in a picture of twice the model's side; what a tight cut takes away
    # is at most a sixth of each side.
    sizes = [(b.width, b.height) for group in scene.groups for b in (group.box, *group.boxes)]
    found = ((right - left) * width / (64 * ENLARGED), (bottom - top) * height / (64 * ENLARGED))
    assert any(
        0.8 * wide - 0.03 <= found[0] <= wide + 0.03 and 0.8 * high - 0.03 <= found[1] <= high + 0.03
        for wide, high in sizes
    )


def test_parts_repeat_and_differ_from_number_to_number() -> None:
    first, again = (SceneDataset("train", 3).part(7, 2) for _ in range(2))
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert first.phrase == again.phrase == SceneDataset("train", 3).part_phrase(7, 2)
    assert len({SceneDataset("train", 3).part(7, number).phrase for number in range(12)}) > 4


def test_one_of_several_is_cut_out_too_and_the_others_stay_in_the_picture() -> None:
    scenes = [sample_scene("train", index) for index in range(200)]
    several = [scene for scene in scenes if all(group.count > 1 for group in scene.groups)]
    phrases = [plan_part(scene, Chance(number)).phrase for scene in several for number in range(20)]
    assert 0.1 < np.mean([phrase.startswith(("a ", "an ")) for phrase in phrases]) < 0.5
