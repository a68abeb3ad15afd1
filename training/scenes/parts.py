"""Parts of scenes: one group of objects, or one object, cut out with the phrase that names it.

A model that reads whole scenes of 40 words and more makes little of a part: parts teach it what each thing looks like,
and what a few words mean.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.scenes.captions import phrase_of
from training.scenes.chance import Chance
from training.scenes.drawing import Image
from training.scenes.rendering import render_scene
from training.scenes.scene import Box, Group, Scene

# Objects are small: a part is cut out of a picture so many times larger than the model's.
ENLARGED = 2
LEAST_SIDE = 8
ONE_OF_SEVERAL = 0.3
# Each side moves by this share of the box, inwards and outwards.
INWARDS, OUTWARDS = 0.08, 0.2
WIDE = 0.2


class Part(NamedTuple):
    """One cut-out and what it shows.

    Attributes:
        rgb: ``(height, width, 3)``.
        phrase: A few words without an end: *two striped red cups in a row*.
        box: ``(1, 4)``, where the objects lie within the cut-out, in units of its sides.
    """

    rgb: Image
    phrase: str
    box: NDArray[np.float32]


@dataclass(frozen=True)
class PartPlan:
    """A part before it is drawn, which takes longest.

    Attributes:
        scene: What it is cut out of; one of several objects is a group of its own here.
        place: Of the group that is meant.
        frame: What is cut out.
        phrase: Its words.
    """

    scene: Scene
    place: int
    frame: Box
    phrase: str

    def cut(self, size: int) -> Part:
        """Draw it for a model whose pictures have this side."""
        picture = render_scene(self.scene, ENLARGED * size)
        side = len(picture)
        left, top = (min(round(low * side), side - LEAST_SIDE) for low in (self.frame.left, self.frame.top))
        right = max(round(self.frame.right * side), left + LEAST_SIDE)
        bottom = max(round(self.frame.bottom * side), top + LEAST_SIDE)
        box = self.scene.groups[self.place].box
        corners = np.array([[box.left, box.top, box.right, box.bottom]]) * side
        within = (corners - (left, top, left, top)) / ((right - left, bottom - top) * 2)
        return Part(
            rgb=np.ascontiguousarray(picture[top:bottom, left:right]),
            phrase=self.phrase,
            box=np.clip(within, 0, 1).astype(np.float32),
        )


def plan_part(scene: Scene, chance: Chance) -> PartPlan:
    """Choose one thing of a scene.

    Args:
        scene: Of which each group is as likely.
        chance: Chooses the group or one object of it, how loosely it is cut out (mostly near its bounds, sometimes
            anything up to the whole scene), and the words.
    """
    place, scene = _chosen(scene, chance)
    frame = _frame(scene.groups[place].box, chance)
    return PartPlan(scene, place, frame, phrase_of(scene, place, chance))


def _chosen(scene: Scene, chance: Chance) -> tuple[int, Scene]:
    """Return a group's place, and the scene in which it is what is meant: all of its objects, or one."""
    place = chance.below(len(scene.groups))
    group = scene.groups[place]
    if group.count == 1 or not chance.happens(ONE_OF_SEVERAL):
        return place, scene
    # The others stay in the picture, as a group that looks the same.
    meant = chance.below(group.count)
    rest = replace(group, boxes=tuple(box for i, box in enumerate(group.boxes) if i != meant))
    alone: Group = replace(group, boxes=(group.boxes[meant],), arrangement="single")
    groups = (*scene.groups[:place], alone, *scene.groups[place + 1 :], rest)
    return place, replace(scene, groups=groups, relations=())


def _frame(box: Box, chance: Chance) -> Box:
    if chance.happens(WIDE):
        share = chance.uniform(0.0, 1.0)
        margins = [share * margin for margin in (box.left, box.top, 1 - box.right, 1 - box.bottom)]
    else:
        sides = (box.width, box.height, box.width, box.height)
        margins = [side * chance.uniform(-INWARDS, OUTWARDS) for side in sides]
    return Box(
        max(0.0, box.left - margins[0]),
        max(0.0, box.top - margins[1]),
        min(1.0, box.right + margins[2]),
        min(1.0, box.bottom + margins[3]),
    )
