"""Reads the claims out of a caption again, and checks each against the boxes: the slow twin of `describe_scene`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from training.scenes.captions import _POSITIONS
from training.scenes.scene import Box, Scene
from training.scenes.vocabulary import KINDS

Check = Callable[[Scene, int, int], bool]


@dataclass(frozen=True)
class Claim:
    """A sentence, what it claims, and whether that is so."""

    sentence: str
    claim: str
    is_true: bool


def _boxes(test: Callable[[Box, Box], bool]) -> Check:
    return lambda scene, subject, known: test(scene.groups[subject].box, scene.groups[known].box)


def _hides(scene: Scene, front: int, behind: int) -> bool:
    return front > behind and scene.groups[front].box.overlap(scene.groups[behind].box) > 0.1 * min(
        scene.groups[front].box.area, scene.groups[behind].box.area
    )


def _stands_on(top: Box, support: Box) -> bool:
    is_within = support.left <= top.left and top.right <= support.right
    return is_within and abs(top.bottom - support.top) < 0.03


# Tried in this order: the longer phrase before the shorter one that it holds.
RELATIONS: tuple[tuple[str, Check], ...] = (
    (r"\b(?:to the )?left of", _boxes(lambda s, k: s.right <= k.left)),
    (r"\b(?:to the )?right of", _boxes(lambda s, k: s.left >= k.right)),
    (r"\b(?:above|higher up than)", _boxes(lambda s, k: s.bottom <= k.top)),
    (r"\b(?:below|lower down than|underneath)", _boxes(lambda s, k: s.top >= k.bottom - 0.03)),
    (r"\bon (?:top|the upper edge) of", _boxes(_stands_on)),
    (r"\b(?:inside|within the opening of)", _boxes(lambda s, k: k.holds(s))),
    (r"\b(?:enclosing|around|on all four sides of)", _boxes(lambda s, k: s.holds(k))),
    (r"\b(?:in the middle of|surrounded by)", _boxes(lambda s, k: k.holds(s))),
    (r"\bin front of", _hides),
    (r"\bbehind", lambda scene, subject, known: _hides(scene, known, subject)),
    (r"\blarger than", lambda scene, s, k: scene.groups[s].boxes[0].area > scene.groups[k].boxes[0].area),
    (r"\bsmaller than", lambda scene, s, k: scene.groups[s].boxes[0].area < scene.groups[k].boxes[0].area),
)


def claims(scene: Scene, caption: str) -> Iterator[Claim]:
    """Every relation and position that the caption states."""
    for sentence in re.split(r"(?<=\.) ", caption):
        mentions = _mentions(scene, sentence)
        groups = list(dict.fromkeys(group for _, group in mentions))
        if " between the " in sentence and len(groups) == 3:
            yield _between(scene, sentence, mentions)
            continue
        if len(groups) == 2:
            yield from _relations(scene, sentence, mentions)
        yield from _positions(scene, sentence, mentions)


def _mentions(scene: Scene, sentence: str) -> list[tuple[int, int]]:
    """Where the sentence names a group: (character, group), from left to right."""
    found = []
    for i, group in enumerate(scene.groups):
        nouns = sorted((pair[group.count > 1] for pair in KINDS[group.kind].names), key=len, reverse=True)
        pattern = "|".join(rf"\b{re.escape(noun)}\b" for noun in nouns)
        found += [(match.start(), i) for match in re.finditer(pattern, sentence, re.IGNORECASE)]
    # "table lamp" names a lamp: of two mentions one word apart only the later one counts.
    sentence_mentions = sorted(found)
    return [m for m in sentence_mentions if not re.match(r"table lamps?\b", sentence[m[0] :]) or _is_lamp(scene, m[1])]


def _is_lamp(scene: Scene, group: int) -> bool:
    return scene.groups[group].kind == "lamp"


def _relations(scene: Scene, sentence: str, mentions: list[tuple[int, int]]) -> Iterator[Claim]:
    for phrase, check in RELATIONS:
        for match in re.finditer(
            rf"{phrase} the (?!other|left side|right side|picture(?! frame)|middle)", sentence, re.IGNORECASE
        ):
            known = next(group for at, group in mentions if at >= match.end())
            subject = next(group for _, group in mentions if group != known)
            yield Claim(sentence, f"{subject} {match.group()} {known}", check(scene, subject, known))


def _between(scene: Scene, sentence: str, mentions: list[tuple[int, int]]) -> Claim:
    middle, first, second = (scene.groups[group].box.centre for _, group in mentions[:3])
    is_between = any(sorted((first[axis], middle[axis], second[axis]))[1] == middle[axis] for axis in (0, 1))
    return Claim(sentence, "between", is_between)


def _positions(scene: Scene, sentence: str, mentions: list[tuple[int, int]]) -> Iterator[Claim]:
    known = _known(sentence, mentions)
    subjects = [group for _, group in mentions if group != known]
    for position, phrases in _POSITIONS.items():
        for phrase in phrases:
            if subjects and phrase.lower() in sentence.lower():
                holds = scene.groups[subjects[0]].position == position
                yield Claim(sentence, f"{subjects[0]} {phrase}", holds)


def _known(sentence: str, mentions: list[tuple[int, int]]) -> int | None:
    """The group to which the sentence relates another one."""
    for phrase, _ in RELATIONS:
        match = re.search(
            rf"{phrase} the (?!other|left side|right side|picture(?! frame)|middle|very)", sentence, re.IGNORECASE
        )
        if match and len({group for _, group in mentions}) == 2:
            return next((group for at, group in mentions if at >= match.end()), None)
    return None
