"""The rendered scenes as a data set: pictures with their captions and facts, made when they are asked for."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.scenes.captions import describe_scene
from training.scenes.chance import Chance
from training.scenes.drawing import Image
from training.scenes.parts import Part, PartPlan, plan_part
from training.scenes.rendering import render_scene
from training.scenes.sampling import described_scene, sample_scene
from training.scenes.scene import SCENES_VERSION, Scene
from training.scenes.splits import check_split


class SceneExample(NamedTuple):
    """One picture and what belongs to it.

    Attributes:
        rgb: ``(size, size, 3)``.
        caption: 40 to 120 words.
        facts: ``Scene.facts()`` of the scene that the caption tells of; for ``recoloured`` its colours are
            not the picture's.
        boxes: ``(G, 4)`` left, top, right, bottom of the groups in units of the picture's side, in the order
            of ``facts["groups"]``.
    """

    rgb: Image
    caption: str
    facts: dict[str, Any]
    boxes: NDArray[np.float32]


class SceneDataset:
    """The first scenes of a split.

    Nothing is stored: each example is drawn from its index, so that workers need no shared state. It has
    ``__len__`` and ``__getitem__``, which is all that a torch ``DataLoader`` asks for; torch itself is not
    needed.

    Args:
        split: One of ``SPLITS``.
        num: Number of scenes; a larger data set begins with the same ones.
        seed: Draws another data set of the same kind.
        size: Side of the pictures in pixels.
        phrasing: Which telling of each scene; another number gives other words for the same picture.

    Raises:
        ValueError: If the split is unknown, or ``num`` is negative.
    """

    def __init__(self, split: str, num: int, seed: int = 0, size: int = 128, phrasing: int = 0) -> None:
        check_split(split)
        if num < 0:
            raise ValueError(f"num is {num}; expected 0 or more scenes")
        self.split = split
        self.num = num
        self.seed = seed
        self.size = size
        self.phrasing = phrasing

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> SceneExample:
        if not -self.num <= index < self.num:
            raise IndexError(f"index is {index}; the split {self.split} has {self.num} scenes here")
        index %= self.num
        picture = sample_scene(self.split, index, self.seed)
        described = picture if self.split != "recoloured" else described_scene(self.split, index, self.seed)
        boxes = [(group.box.left, group.box.top, group.box.right, group.box.bottom) for group in described.groups]
        return SceneExample(
            rgb=render_scene(picture, self.size),
            caption=self._tell(described, index, self.phrasing),
            facts=described.facts(),
            boxes=np.array(boxes, np.float32),
        )

    def __iter__(self) -> Iterator[SceneExample]:
        return (self[index] for index in range(self.num))

    def render(self, index: int) -> Image:
        """The picture alone."""
        return render_scene(sample_scene(self.split, index, self.seed), self.size)

    def caption(self, index: int, phrasing: int = 0) -> str:
        """The caption alone, in one of endlessly many phrasings."""
        return self._tell(described_scene(self.split, index, self.seed), index, phrasing)

    def part(self, index: int, number: int = 0) -> Part:
        """One of endlessly many parts of scene ``index``, which need not be below the number of scenes."""
        return self._plan(index, number).cut(self.size)

    def part_phrase(self, index: int, number: int = 0) -> str:
        """The part's phrase alone."""
        return self._plan(index, number).phrase

    def _plan(self, index: int, number: int) -> PartPlan:
        chance = Chance("part", SCENES_VERSION, self.split, index, self.seed, number)
        return plan_part(sample_scene(self.split, index, self.seed), chance)

    def _tell(self, scene: Scene, index: int, phrasing: int) -> str:
        return describe_scene(scene, Chance("caption", SCENES_VERSION, self.split, index, self.seed, phrasing))
