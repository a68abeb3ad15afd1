"""Which combinations belong to which split.

Every relation of two kinds, every pattern on a kind and every number of a kind has an owner, drawn by a
hash: training, validation or test. A picture of the training split shows only what training owns; one of the
validation split shows at least one combination that validation owns and none that the test owns; and
likewise the other way round.
"""

import functools
import hashlib

from training.scenes.scene import SCENES_VERSION, Scene

SPLITS: tuple[str, ...] = ("train", "val", "test", "recoloured", "rearranged", "cluttered", "low_contrast")

Combination = tuple[str | int, ...]

_HELD_OUT_PERCENT = {"relation": (7, 4), "pattern": (12, 8), "count": (12, 8)}
"""Shares of the combinations that the test and the validation own, by what is combined."""


def check_split(split: str) -> None:
    """Raises ``ValueError`` for a name that is no split."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")


@functools.cache
def owner(combination: Combination) -> str:
    """``train``, ``val`` or ``test``."""
    key = "/".join(map(str, (SCENES_VERSION, *combination)))
    percent = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100
    test, val = _HELD_OUT_PERCENT[str(combination[0])]
    if percent < test:
        return "test"
    return "val" if percent < test + val else "train"


def is_allowed(combination: Combination, split: str) -> bool:
    """Whether a picture of the split may show the combination; all but train and val count as test."""
    name = owner(combination)
    return name in ("train", split if split in ("train", "val") else "test")


def pattern_combination(kind: str, pattern: str) -> Combination:
    """A pattern on a kind of object."""
    return "pattern", kind, pattern


def count_combination(kind: str, count: int) -> Combination:
    """A number of one kind."""
    return "count", kind, count


def relation_combination(subject: str, name: str, other: str) -> Combination:
    """Two kinds and how they lie to each other."""
    return "relation", subject, name, other


def combinations(scene: Scene) -> frozenset[Combination]:
    """All that has an owner in the scene: each relation, each pattern but plain, each number but one."""
    kinds = [group.kind for group in scene.groups]
    found = {
        relation_combination(kinds[relation.subject], relation.name, kinds[other])
        for relation in scene.relations
        for other in relation.objects
    }
    found |= {pattern_combination(group.kind, group.pattern) for group in scene.groups if group.pattern != "plain"}
    found |= {count_combination(group.kind, group.count) for group in scene.groups if group.count > 1}
    return frozenset(found)


def fits_split(scene: Scene, split: str) -> bool:
    """Whether the scene shows nothing of another split, and something of its own where that is held out."""
    found = combinations(scene)
    if not all(is_allowed(combination, split) for combination in found):
        return False
    return split == "train" or any(owner(combination) != "train" for combination in found)
