"""What a scene is: values only. Everything that a caption says and a picture shows is in here."""

from dataclasses import dataclass
from typing import Any

SCENES_VERSION = 1
"""Part of every random draw: a change that alters any picture or caption raises it."""

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Box:
    """A rectangle in units of the picture's side, the origin at the upper left."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Extent from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent from top to bottom."""
        return self.bottom - self.top

    @property
    def centre(self) -> tuple[float, float]:
        """The point in the middle, ``(x, y)``."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def area(self) -> float:
        """Share of the picture."""
        return self.width * self.height

    def holds(self, other: "Box", tolerance: float = 1e-6) -> bool:
        """Whether the other box lies within this one."""
        return (
            other.left >= self.left - tolerance
            and other.top >= self.top - tolerance
            and other.right <= self.right + tolerance
            and other.bottom <= self.bottom + tolerance
        )

    def overlap(self, other: "Box") -> float:
        """Area shared with the other box."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Paint:
    """A colour under the name that captions give it; ``rgb`` is the name's colour with its jitter."""

    name: str
    rgb: RGB


@dataclass(frozen=True)
class Group:
    """One or several equal objects: the unit of a scene.

    Attributes:
        kind: Key of ``vocabulary.KINDS``.
        variant: Which of the kind's forms, an index into ``Kind.variants``.
        facing: ``left`` or ``right`` for kinds that have a front, else ``none``.
        arrangement: ``single``, ``row``, ``column``, ``triangle``, ``square``, ``rows`` (two above three) or
            ``around``.
        pattern: ``plain``, ``striped``, ``banded``, ``dotted`` or ``checkered``.
        paint: Main colour.
        second: Colour of the pattern and of small parts.
        fill: ``solid``, or ``hollow`` for a line drawing.
        outline: ``thin`` or ``bold``.
        finish: ``matte`` or ``glossy``.
        boxes: One box per object.
    """

    kind: str
    variant: int
    facing: str
    arrangement: str
    pattern: str
    paint: Paint
    second: Paint
    fill: str
    outline: str
    finish: str
    boxes: tuple[Box, ...]

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.boxes)

    @property
    def box(self) -> Box:
        """The rectangle around all objects of the group."""
        return Box(
            min(box.left for box in self.boxes),
            min(box.top for box in self.boxes),
            max(box.right for box in self.boxes),
            max(box.bottom for box in self.boxes),
        )

    @property
    def size(self) -> str:
        """``small``, ``medium`` or ``large``: by the longer side of one object."""
        side = max(self.boxes[0].width, self.boxes[0].height)
        if side < SMALL_BELOW:
            return "small"
        return "large" if side > LARGE_ABOVE else "medium"

    @property
    def position(self) -> tuple[str, str]:
        """Third of the picture that holds the centre: (``top|middle|bottom``, ``left|centre|right``)."""
        x, y = self.box.centre
        row = "top" if y < THIRDS[0] else "bottom" if y > THIRDS[1] else "middle"
        column = "left" if x < THIRDS[0] else "right" if x > THIRDS[1] else "centre"
        return row, column


SMALL_BELOW = 0.21
LARGE_ABOVE = 0.36
THIRDS = (0.39, 0.61)


@dataclass(frozen=True)
class Relation:
    """``subject name objects``, such as *group 0 left_of group 2*; groups by their index in the scene."""

    subject: int
    name: str
    objects: tuple[int, ...]


@dataclass(frozen=True)
class Background:
    """What lies behind the groups.

    Attributes:
        kind: Key of ``vocabulary.BACKGROUNDS``.
        paint: Main colour (the sky, the wall).
        second: The other colour (the ground, the joints of the tiles).
        level: Height of the horizon, or density of the tiles and speckles, in 0 … 1.
        texture_key: Seed of its irregular parts.
    """

    kind: str
    paint: Paint
    second: Paint
    level: float
    texture_key: int


@dataclass(frozen=True)
class Scene:
    """One picture's full content.

    Attributes:
        split: One of ``splits.SPLITS``.
        index: Position within its split.
        seed: Seed of the data set.
        background: What lies behind the groups.
        groups: In drawing order: later ones cover earlier ones.
        relations: One for each pair of groups, and one ``between`` for each group that lies between two
            others in a line.
        num_clutter: Small marks scattered over the background, which captions do not mention.
        contrast: 1 draws as it is; less pulls every colour towards the background's.
    """

    split: str
    index: int
    seed: int
    background: Background
    groups: tuple[Group, ...]
    relations: tuple[Relation, ...]
    num_clutter: int = 0
    contrast: float = 1.0

    def facts(self) -> dict[str, Any]:
        """The scene as JSON values: what each statement about the picture can be checked against."""
        return {
            "version": SCENES_VERSION,
            "split": self.split,
            "index": self.index,
            "seed": self.seed,
            "background": {
                "kind": self.background.kind,
                "colour": self.background.paint.name,
                "second_colour": self.background.second.name,
            },
            "groups": [_group_facts(group) for group in self.groups],
            "relations": [
                {"subject": relation.subject, "name": relation.name, "objects": list(relation.objects)}
                for relation in self.relations
            ],
        }


def _group_facts(group: Group) -> dict[str, Any]:
    row, column = group.position
    return {
        "kind": group.kind,
        "variant": group.variant,
        "count": group.count,
        "arrangement": group.arrangement,
        "size": group.size,
        "position": [row, column],
        "facing": group.facing,
        "pattern": group.pattern,
        "colour": group.paint.name,
        "second_colour": group.second.name,
        "fill": group.fill,
        "outline": group.outline,
        "finish": group.finish,
        "box": _corners(group.box),
        "boxes": [_corners(box) for box in group.boxes],
    }


def _corners(box: Box) -> list[float]:
    return [round(value, 4) for value in (box.left, box.top, box.right, box.bottom)]
