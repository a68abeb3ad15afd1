"""Where objects stand: motifs of one or two groups, each in its own cell of the picture.

The picture is cut into as many cells as there are motifs. Groups of different cells can never overlap, so
each pair of groups has exactly one relation: the one of their motif, or the direction in which their boxes
lie apart.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from training.scenes.chance import Chance
from training.scenes.scene import Box, Relation
from training.scenes.vocabulary import KINDS, OUTDOOR_BACKGROUNDS

STAGE = Box(0.025, 0.025, 0.975, 0.975)
CELL_INSET = 0.014
GAP = 0.14
"""Distance between the objects of a group, in heights of one object."""
MIN_LONG_SIDE = 0.135
MIN_SHORT_SIDE = 0.075
"""Smaller objects lose their parts at 128 pixels."""
MAX_SIDE = 0.6


@dataclass(frozen=True)
class Member:
    """What the layout must know of a group."""

    kind: str
    count: int


@dataclass(frozen=True)
class Motif:
    """One group alone, or two in a relation that is more than a direction: ``first relation second``."""

    members: tuple[int, ...]
    relation: str | None = None


@dataclass(frozen=True)
class Placement:
    """One group's arrangement and boxes."""

    arrangement: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Layout:
    """All groups' placements, by member, their drawing order, and their relations by member."""

    placements: tuple[Placement, ...]
    drawing_order: tuple[int, ...]
    relations: tuple[Relation, ...]


def lay_out(members: Sequence[Member], motifs: Sequence[Motif], background: str, chance: Chance) -> Layout | None:
    """Places all groups, or returns ``None`` where an object would become too small to be recognised."""
    cells = _cells_for(motifs, members, background, chance)
    placements: dict[int, Placement] = {}
    for motif, cell in zip(motifs, cells, strict=True):
        parts = _place(motif, members, cell, chance)
        if parts is None:
            return None
        placements.update(zip(motif.members, parts, strict=True))
    ordered = tuple(placements[i] for i in range(len(members)))
    back_to_front = tuple(member for motif in motifs for member in _drawing_order(motif))
    return Layout(ordered, back_to_front, relations_of(motifs, ordered))


def relations_of(motifs: Sequence[Motif], placements: Sequence[Placement]) -> tuple[Relation, ...]:
    """One relation for each pair of groups, and ``between`` for groups that lie in a line of three."""
    frames = [_frame(placement.boxes) for placement in placements]
    special = {frozenset(motif.members): motif for motif in motifs if motif.relation}
    relations = []
    for first, second in itertools.combinations(range(len(frames)), 2):
        motif = special.get(frozenset((first, second)))
        if motif is not None and motif.relation is not None:
            relations.append(Relation(motif.members[0], motif.relation, (motif.members[1],)))
        else:
            relations.append(_direction(first, second, frames))
    return (*relations, *_betweens(relations, frames))


def _direction(first: int, second: int, frames: Sequence[Box]) -> Relation:
    a, b = frames[first], frames[second]
    gaps = (
        (b.left - a.right, Relation(first, "left_of", (second,))),
        (a.left - b.right, Relation(second, "left_of", (first,))),
        (b.top - a.bottom, Relation(first, "above", (second,))),
        (a.top - b.bottom, Relation(second, "above", (first,))),
    )
    return max(gaps, key=lambda gap: gap[0])[1]


def _betweens(relations: Sequence[Relation], frames: Sequence[Box]) -> list[Relation]:
    found = []
    for name, across in (("left_of", 1), ("above", 0)):
        pairs = {(relation.subject, relation.objects[0]) for relation in relations if relation.name == name}
        for before, middle in sorted(pairs):
            for after in sorted(other for start, other in pairs if start == middle):
                centres = [frames[i].centre[across] for i in (before, middle, after)]
                if max(centres) - min(centres) < 0.16:
                    found.append(Relation(middle, "between", (before, after)))
    return found


def _frame(boxes: Sequence[Box]) -> Box:
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _drawing_order(motif: Motif) -> tuple[int, ...]:
    return motif.members[::-1] if motif.relation in ("in_front_of", "on", "inside") else motif.members


# Cells


def _cells_for(motifs: Sequence[Motif], members: Sequence[Member], background: str, chance: Chance) -> list[Box]:
    """A cell for each motif: the larger ones for pairs and crowds, and the sky for what flies."""
    cells = _partition(len(motifs), chance)
    cells.sort(key=lambda cell: -cell.area)
    demand = [sum(members[i].count for i in motif.members) + 2 * len(motif.members) for motif in motifs]
    order = sorted(range(len(motifs)), key=lambda i: -demand[i] - chance.uniform(0, 2.5))
    if background in OUTDOOR_BACKGROUNDS and chance.happens(0.8):
        return _with_sky(order, cells, motifs, members)
    return [cells[order.index(i)] for i in range(len(motifs))]


def _with_sky(order: list[int], cells: list[Box], motifs: Sequence[Motif], members: Sequence[Member]) -> list[Box]:
    chosen = [cells[order.index(i)] for i in range(len(motifs))]
    single = [i for i, motif in enumerate(motifs) if motif.relation is None]
    by_height = sorted((chosen[i] for i in single), key=lambda cell: cell.centre[1])
    flying_first = sorted(single, key=lambda i: not KINDS[members[motifs[i].members[0]].kind].is_aerial)
    for i, cell in zip(flying_first, by_height, strict=True):
        chosen[i] = cell
    return chosen


def _partition(num_cells: int, chance: Chance) -> list[Box]:
    """Cuts the stage, always the largest piece and across its longer side."""
    cells = [STAGE]
    while len(cells) < num_cells:
        cells.sort(key=lambda cell: cell.area * chance.uniform(0.8, 1.0))
        cell = cells.pop()
        share = chance.uniform(0.36, 0.64)
        if cell.width * chance.uniform(0.75, 1.3) > cell.height:
            middle = cell.left + share * cell.width
            cells += [
                Box(cell.left, cell.top, middle, cell.bottom),
                Box(middle, cell.top, cell.right, cell.bottom),
            ]
        else:
            middle = cell.top + share * cell.height
            cells += [
                Box(cell.left, cell.top, cell.right, middle),
                Box(cell.left, middle, cell.right, cell.bottom),
            ]
    return [Box(c.left + CELL_INSET, c.top + CELL_INSET, c.right - CELL_INSET, c.bottom - CELL_INSET) for c in cells]


# Motifs: each is built in its own units, then scaled and moved into its cell


@dataclass(frozen=True)
class _Sketch:
    """Placements in free units with their upper left corner at the origin."""

    parts: tuple[Placement, ...]


def _place(motif: Motif, members: Sequence[Member], cell: Box, chance: Chance) -> tuple[Placement, ...] | None:
    group = [members[i] for i in motif.members]
    builders = {"on": _on, "inside": _inside, "around": _around, "in_front_of": _in_front}
    if motif.relation is None:
        sketch = _alone(group[0], cell, chance)
    else:
        sketch = builders[motif.relation](group[0], group[1], chance)
    return _fit(sketch, cell, chance)


def _fit(sketch: _Sketch, cell: Box, chance: Chance) -> tuple[Placement, ...] | None:
    frame = _frame([box for part in sketch.parts for box in part.boxes])
    largest = max(max(box.width, box.height) for part in sketch.parts for box in part.boxes)
    room = min(cell.width / frame.width, cell.height / frame.height, MAX_SIDE / largest)
    crowd = sum(len(part.boxes) for part in sketch.parts)
    scale = room * (chance.pick((1.0, 1.0, 0.88, 0.68)) if crowd == 1 else chance.pick((1.0, 0.97, 0.9)))
    shift_x = cell.left + chance.uniform(0, cell.width - scale * frame.width) - scale * frame.left
    shift_y = cell.top + chance.uniform(0, cell.height - scale * frame.height) - scale * frame.top
    placed = tuple(
        Placement(part.arrangement, tuple(_moved(box, scale, shift_x, shift_y) for box in part.boxes))
        for part in sketch.parts
    )
    return placed if all(_is_recognisable(part.boxes[0]) for part in placed) else None


def _is_recognisable(box: Box) -> bool:
    return max(box.width, box.height) >= MIN_LONG_SIDE and min(box.width, box.height) >= MIN_SHORT_SIDE


def _moved(box: Box, scale: float, x: float, y: float) -> Box:
    return Box(scale * box.left + x, scale * box.top + y, scale * box.right + x, scale * box.bottom + y)


def _alone(member: Member, cell: Box, chance: Chance) -> _Sketch:
    arrangement = _arrangement(member, cell, chance)
    return _Sketch((Placement(arrangement, _arranged(arrangement, member)),))


def _arrangement(member: Member, cell: Box, chance: Chance) -> str:
    if member.count == 1:
        return "single"
    aspect = KINDS[member.kind].aspect
    is_wide = cell.width / aspect > cell.height * chance.uniform(0.8, 1.25)
    compact = {2: None, 3: "triangle", 4: "square", 5: "rows"}[member.count]
    if compact is not None and chance.happens(0.5):
        return compact
    return "row" if is_wide else "column"


def _arranged(arrangement: str, member: Member) -> tuple[Box, ...]:
    """Boxes of height 1 in their arrangement."""
    width = KINDS[member.kind].aspect
    step_x, step_y = width + GAP, 1 + GAP
    if arrangement in ("single", "row"):
        corners = [(i * step_x, 0.0) for i in range(member.count)]
    elif arrangement == "column":
        corners = [(0.0, i * step_y) for i in range(member.count)]
    elif arrangement == "square":
        corners = [(i * step_x, j * step_y) for j in range(2) for i in range(2)]
    else:
        num_top = 1 if arrangement == "triangle" else 2
        corners = [((i + 0.5) * step_x, 0.0) for i in range(num_top)]
        corners += [(i * step_x, step_y) for i in range(num_top + 1)]
    return tuple(Box(x, y, x + width, y + 1) for x, y in corners)


def _scaled_to(boxes: Sequence[Box], width: float, height: float) -> tuple[Box, ...]:
    """The largest copy that fits into ``width`` × ``height``, its upper left corner at the origin."""
    frame = _frame(boxes)
    scale = min(width / frame.width, height / frame.height)
    return tuple(_moved(box, scale, -scale * frame.left, -scale * frame.top) for box in boxes)


def _row_name(member: Member) -> str:
    return "single" if member.count == 1 else "row"


def _on(top: Member, support: Member, chance: Chance) -> _Sketch:
    name = _row_name(top)
    width = KINDS[support.kind].aspect
    boxes = _scaled_to(_arranged(name, top), 0.86 * width, chance.uniform(0.7, 1.15))
    frame = _frame(boxes)
    left = chance.uniform(0.06 * width, 0.94 * width - frame.width)
    # A little lower than the edge: both outlines then share one line.
    standing = tuple(_moved(box, 1.0, left, 0.03 - frame.height) for box in boxes)
    return _Sketch((Placement(name, standing), Placement("single", (Box(0.0, 0.0, width, 1.0),))))


def _inside(content: Member, container: Member, chance: Chance) -> _Sketch:
    kind = KINDS[container.kind]
    assert kind.interior is not None
    name = _row_name(content)
    hole = kind.interior
    boxes = _scaled_to(_arranged(name, content), 0.98 * hole.width, chance.uniform(0.85, 0.98) * hole.height)
    frame = _frame(boxes)
    x, y = hole.centre[0] - frame.width / 2, hole.centre[1] - frame.height / 2
    inner = tuple(_moved(box, 1.0, x, y) for box in boxes)
    return _Sketch((Placement(name, inner), Placement("single", (Box(0.0, 0.0, 1.0, 1.0),))))


def _around(satellites: Member, centre: Member, chance: Chance) -> _Sketch:
    inner = _scaled_to((Box(0.0, 0.0, KINDS[centre.kind].aspect, 1.0),), 1.0, 1.0)[0]
    aspect = KINDS[satellites.kind].aspect
    side = chance.uniform(0.55, 0.72)
    width, height = side * min(1.0, aspect), side / max(1.0, aspect)
    x, y = inner.centre
    reach_x, reach_y = inner.width / 2 + 0.08 + width / 2, inner.height / 2 + 0.08 + height / 2
    points = ((x, y - reach_y), (x + reach_x, y), (x, y + reach_y), (x - reach_x, y))
    boxes = tuple(Box(a - width / 2, b - height / 2, a + width / 2, b + height / 2) for a, b in points)
    return _Sketch((Placement("around", boxes), Placement("single", (inner,))))


def _in_front(front: Member, behind: Member, chance: Chance) -> _Sketch:
    back = _scaled_to((Box(0.0, 0.0, KINDS[behind.kind].aspect, 1.0),), 1.0, 1.0)[0]
    side = chance.uniform(0.55, 0.75)
    near = _scaled_to((Box(0.0, 0.0, KINDS[front.kind].aspect, 1.0),), side, side)[0]
    hidden = chance.uniform(0.35, 0.5) * min(near.width, back.width)
    left = back.width - hidden if chance.happens(0.5) else hidden - near.width
    placed = _moved(near, 1.0, left, back.height + 0.07 - near.height)
    return _Sketch((Placement("single", (placed,)), Placement("single", (back,))))
