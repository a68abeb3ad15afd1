"""One drawing function for each kind and form of object."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from training.scenes.drawing import (
    CLAY,
    CREAM,
    GLASS,
    LEAF,
    METAL,
    RUBBER,
    WOOD,
    Pen,
    arc_points,
    ellipse_points,
    star_points,
)

Draw = Callable[[Pen, int], None]


def _house(pen: Pen, variant: int) -> None:
    if variant == 1:
        pen.rect(0.68, 0.06, 0.82, 0.36, CLAY)
    pen.body_rect(0.1, 0.4, 0.9, 1.0)
    pen.poly(((0.5, 0.0), (1.0, 0.44), (0.0, 0.44)), pen.second)
    if variant == 0:
        pen.rect(0.41, 0.66, 0.59, 1.0, WOOD)
        for left in (0.17, 0.67):
            pen.rect(left, 0.56, left + 0.16, 0.74, GLASS)
    else:
        pen.rect(0.2, 0.64, 0.42, 1.0, WOOD)
        pen.ellipse(0.68, 0.7, 0.12, 0.12, GLASS)
        pen.line(((0.68, 0.58), (0.68, 0.82)))
        pen.line(((0.56, 0.7), (0.8, 0.7)))


def _tree(pen: Pen, variant: int) -> None:
    pen.rect(0.41, 0.62, 0.59, 1.0, WOOD)
    if variant == 0:
        pen.body_ellipse(0.5, 0.36, 0.5, 0.36)
    else:
        for top, bottom, half in ((0.42, 0.8, 0.5), (0.2, 0.56, 0.42), (0.0, 0.34, 0.32)):
            pen.body(((0.5, top), (0.5 + half, bottom), (0.5 - half, bottom)))


def _car(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.body(
            [
                (0.2, 0.48),
                (0.3, 0.1),
                *arc_points(0.5, 0.14, 0.16, 0.14, 200, 340, 6),
                (0.7, 0.1),
                (0.86, 0.48),
            ]
        )
        pen.poly(((0.3, 0.44), (0.37, 0.16), (0.5, 0.14), (0.5, 0.44)), GLASS)
        pen.poly(((0.56, 0.44), (0.56, 0.14), (0.66, 0.16), (0.76, 0.44)), GLASS)
    else:
        pen.body_rect(0.06, 0.0, 0.78, 0.5)
        pen.rect(0.13, 0.1, 0.4, 0.4, GLASS)
        pen.rect(0.48, 0.1, 0.72, 0.4, GLASS)
    pen.body(((0.0, 0.5), (0.04, 0.44), (0.9, 0.44), (1.0, 0.56), (1.0, 0.8), (0.0, 0.8)))
    pen.ellipse(0.95, 0.6, 0.03, 0.06, CREAM)
    for x in (0.24, 0.76):
        pen.ellipse(x, 0.8, 0.115, 0.2, RUBBER)
        pen.ellipse(x, 0.8, 0.05, 0.085, METAL)


def _boat(pen: Pen, variant: int) -> None:
    pen.tube(((0.48, 0.04), (0.48, 0.76)), WOOD, 1.0)
    pen.body(((0.53, 0.03), (0.96, 0.66), (0.53, 0.66)))
    if variant == 1:
        pen.body(((0.43, 0.16), (0.43, 0.66), (0.06, 0.66)))
    pen.poly(((0.0, 0.75), (1.0, 0.75), (0.84, 1.0), (0.18, 1.0)), pen.second)
    pen.line(((0.08, 0.85), (0.93, 0.85)))


def _chair(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.rect(0.0, 0.0, 0.12, 1.0, pen.main)
        for top in (0.04, 0.19, 0.34):
            pen.rect(0.0, top, 0.62, top + 0.08, pen.main)
        pen.rect(0.56, 0.0, 0.68, 0.56, pen.main)
    else:
        pen.rect(0.0, 0.5, 0.12, 1.0, pen.main)
        pen.rect(0.0, 0.0, 0.66, 0.5, pen.second)
        pen.rect(0.12, 0.1, 0.54, 0.42, pen.main)
    pen.rect(0.88, 0.6, 1.0, 1.0, pen.main)
    pen.rect(0.3, 0.6, 0.4, 0.9, pen.main)
    pen.rect(0.0, 0.5, 1.0, 0.62, pen.main)


def _table(pen: Pen, variant: int) -> None:
    if variant == 0:
        for left in (0.08, 0.83):
            pen.rect(left, 0.16, left + 0.09, 1.0, pen.main)
        pen.rect(0.08, 0.16, 0.92, 0.32, pen.second)
    else:
        pen.rect(0.44, 0.16, 0.56, 0.9, pen.main)
        pen.poly(((0.38, 0.86), (0.62, 0.86), (0.76, 1.0), (0.24, 1.0)), pen.main)
    pen.rect(0.0, 0.0, 1.0, 0.17, pen.main)


def _lamp(pen: Pen, variant: int) -> None:
    pen.rect(0.45, 0.4, 0.55, 0.92, METAL)
    pen.poly(((0.3, 0.88), (0.7, 0.88), (0.82, 1.0), (0.18, 1.0)), pen.second)
    if variant == 0:
        pen.body(((0.26, 0.0), (0.74, 0.0), (1.0, 0.52), (0.0, 0.52)))
    else:
        pen.body_ellipse(0.5, 0.3, 0.46, 0.3)
        pen.line(arc_points(0.5, 0.3, 0.28, 0.2, 190, 260, 7), CREAM, 1.2)


def _cup(pen: Pen, variant: int) -> None:
    top = 0.0 if variant == 0 else 0.34
    span = 1.0 - top
    pen.poly(ellipse_points(0.76, top + 0.42 * span, 0.24, 0.3 * span), pen.main)
    pen.erase(ellipse_points(0.76, top + 0.42 * span, 0.13, 0.17 * span))
    pen.body(((0.02, top + 0.06 * span), (0.74, top + 0.06 * span), (0.66, 1.0), (0.1, 1.0)))
    pen.ellipse(0.38, top + 0.08 * span, 0.37, 0.08 * span, pen.second)
    if variant == 1:
        for x in (0.2, 0.38, 0.56):
            pen.line([(x + 0.05 * math.sin(i * 1.1), 0.28 - 0.045 * i) for i in range(7)], None, 1.2)


def _bottle(pen: Pen, variant: int) -> None:
    pen.rect(0.36, 0.0, 0.64, 0.1, WOOD)
    if variant == 0:
        pen.body(
            [
                (0.36, 0.09),
                (0.64, 0.09),
                (0.64, 0.28),
                (1.0, 0.44),
                (1.0, 1.0),
                (0.0, 1.0),
                (0.0, 0.44),
                (0.36, 0.28),
            ]
        )
        pen.rect(0.12, 0.58, 0.88, 0.84, CREAM)
        pen.line(((0.26, 0.68), (0.74, 0.68)))
        pen.line(((0.26, 0.76), (0.6, 0.76)))
    else:
        pen.body(
            [
                (0.38, 0.09),
                (0.62, 0.09),
                (0.62, 0.48),
                *arc_points(0.5, 0.74, 0.5, 0.26, -72, 252, 22),
                (0.38, 0.48),
            ]
        )
        pen.line(((0.38, 0.36), (0.62, 0.36)))


def _fish(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.poly(((0.26, 0.5), (0.0, 0.08), (0.09, 0.5), (0.0, 0.92)), pen.second)
    else:
        pen.poly([(0.28, 0.5), *arc_points(0.14, 0.5, 0.14, 0.42, 300, 60, 12)], pen.second)
    pen.poly(((0.46, 0.2), (0.62, 0.0), (0.76, 0.18)), pen.second)
    pen.body_ellipse(0.6, 0.52, 0.4, 0.38)
    pen.line(arc_points(0.74, 0.52, 0.09, 0.3, 110, 250, 9))
    pen.ellipse(0.85, 0.42, 0.05, 0.09, CREAM)
    pen.ellipse(0.86, 0.43, 0.015, 0.03, pen.look.ink)


def _bird(pen: Pen, variant: int) -> None:
    pen.poly(((0.2, 0.58), (0.0, 0.42), (0.02, 0.7)), pen.second)
    pen.poly(((0.88, 0.28), (1.0, 0.36), (0.88, 0.42)), (244, 178, 70))
    for x in (0.46, 0.58):
        pen.line(((x, 0.84), (x, 1.0)), None, 1.3)
    pen.body(
        [
            (0.16, 0.56),
            *arc_points(0.48, 0.56, 0.34, 0.32, 150, 0, 12),
            (0.9, 0.4),
            *arc_points(0.75, 0.33, 0.17, 0.2, 20, -150, 12),
        ]
    )
    if variant == 0:
        pen.poly([(0.24, 0.5), (0.6, 0.5), *arc_points(0.46, 0.54, 0.17, 0.2, 20, 130, 8)], pen.second)
    else:
        pen.poly(((0.3, 0.6), (0.22, 0.0), (0.42, 0.12), (0.62, 0.54)), pen.second)
    pen.ellipse(0.79, 0.29, 0.025, 0.03, pen.look.ink)


def _flower(pen: Pen, variant: int) -> None:
    pen.line(((0.5, 0.4), (0.5, 0.74)), LEAF, 2.0)
    pen.poly(((0.5, 0.68), (0.14, 0.5), (0.3, 0.7)), LEAF)
    pen.poly(((0.5, 0.66), (0.86, 0.48), (0.7, 0.68)), LEAF)
    if variant == 0:
        for i in range(6):
            angle = math.pi * (i / 3 + 0.5)
            pen.ellipse(0.5 + 0.29 * math.cos(angle), 0.24 + 0.155 * math.sin(angle), 0.17, 0.1, pen.main)
        pen.ellipse(0.5, 0.24, 0.17, 0.1, pen.second)
    else:
        pen.poly(
            [
                (0.14, 0.04),
                (0.32, 0.2),
                (0.5, 0.0),
                (0.68, 0.2),
                (0.86, 0.04),
                *arc_points(0.5, 0.26, 0.36, 0.22, 0, 180, 10),
            ],
            pen.main,
        )
    pen.body(((0.16, 0.76), (0.84, 0.76), (0.7, 1.0), (0.3, 1.0)))
    pen.rect(0.1, 0.7, 0.9, 0.78, pen.second)


def _star(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.body([(0.5 + (x - 0.5) * 1.0, y) for x, y in star_points(0.5, 0.55, 0.53, 0.22, 5)])
    else:
        pen.body(star_points(0.5, 0.5, 0.5, 0.3, 8))


def _kite(pen: Pen, variant: int) -> None:
    tail = [(0.5 + (0.0 if variant == 0 else 0.22) * math.sin(i * 0.9), 0.62 + 0.038 * i) for i in range(11)]
    pen.line(tail, None, 1.2)
    if variant == 0:
        for y in (0.74, 0.9):
            pen.poly(((0.5, y), (0.26, y - 0.05), (0.26, y + 0.05)), pen.second)
            pen.poly(((0.5, y), (0.74, y - 0.05), (0.74, y + 0.05)), pen.second)
    pen.body(((0.5, 0.0), (1.0, 0.26), (0.5, 0.64), (0.0, 0.26)))
    pen.line(((0.5, 0.0), (0.5, 0.64)))
    pen.line(((0.0, 0.26), (1.0, 0.26)))


def _clock(pen: Pen, variant: int) -> None:
    if variant == 0:
        for x in (0.22, 0.78):
            pen.ellipse(x, 0.14, 0.18, 0.14, pen.second)
        pen.line(((0.24, 0.9), (0.12, 1.0)), None, 2.0)
        pen.line(((0.76, 0.9), (0.88, 1.0)), None, 2.0)
        pen.body_ellipse(0.5, 0.55, 0.45, 0.42)
        face, radius = 0.55, 0.31
    else:
        pen.body_rect(0.0, 0.0, 1.0, 1.0)
        face, radius = 0.5, 0.36
    pen.ellipse(0.5, face, radius, radius * 0.95, CREAM)
    for i in range(4):
        angle = i * math.pi / 2
        x, y = math.cos(angle) * radius, math.sin(angle) * radius * 0.95
        pen.line(((0.5 + 0.8 * x, face + 0.8 * y), (0.5 + x, face + y)))
    pen.line(((0.5, face - 0.22), (0.5, face), (0.66, face + 0.08)), None, 1.4)


def _book(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.body(((0.0, 0.16), (0.5, 0.24), (1.0, 0.16), (1.0, 0.92), (0.5, 1.0), (0.0, 0.92)))
        for side in (-1, 1):
            pen.poly(((0.5, 0.14), (0.5 + side * 0.43, 0.04), (0.5 + side * 0.43, 0.8), (0.5, 0.9)), CREAM)
            for y in (0.24, 0.38, 0.52, 0.66):
                pen.line(((0.5 + side * 0.1, y), (0.5 + side * 0.35, y - 0.05)))
    else:
        pen.rect(0.08, 0.03, 1.0, 1.0, CREAM)
        pen.body_rect(0.1, 0.0, 0.96, 0.92)
        pen.rect(0.0, 0.0, 0.16, 1.0, pen.second)
        pen.rect(0.34, 0.2, 0.78, 0.42, CREAM)


def _ladder(pen: Pen, variant: int) -> None:
    num_rungs = 4 if variant == 0 else 7
    height = 0.07 if variant == 0 else 0.045
    for i in range(num_rungs):
        y = 0.08 + 0.84 * (i + 0.5) / num_rungs
        pen.rect(0.1, y - height / 2, 0.9, y + height / 2, pen.second)
    for left in (0.0, 0.8):
        pen.rect(left, 0.0, left + 0.2, 1.0, pen.main)


def _umbrella(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.tube([(0.5, 0.06), (0.5, 0.88), *arc_points(0.4, 0.88, 0.1, 0.1, 0, 180, 9)], WOOD, 1.2)
    else:
        pen.tube(((0.5, 0.06), (0.5, 0.98)), WOOD, 1.6)
    hem = [
        (1.0, 0.5),
        *(point for i in range(3) for point in arc_points(0.835 - i * 0.335, 0.5, 0.165, 0.08, 0, -180, 7)),
    ]
    pen.body([*arc_points(0.5, 0.5, 0.5, 0.46, 180, 360, 18), *hem])
    pen.line([*arc_points(0.5, 0.48, 0.17, 0.43, 180, 360, 12)])


def _snowman(pen: Pen, variant: int) -> None:
    if variant == 1:
        pen.line(((0.2, 0.6), (0.0, 0.42)), None, 1.6)
        pen.line(((0.8, 0.6), (1.0, 0.42)), None, 1.6)
    pen.body_ellipse(0.5, 0.76, 0.44, 0.24)
    pen.body_ellipse(0.5, 0.5, 0.32, 0.17)
    pen.ellipse(0.5, 0.28, 0.25, 0.14, CREAM)
    if variant == 0:
        pen.rect(0.32, 0.0, 0.68, 0.16, pen.second)
        pen.rect(0.2, 0.14, 0.8, 0.19, pen.second)
    else:
        pen.rect(0.24, 0.37, 0.76, 0.44, pen.second)
        pen.rect(0.58, 0.4, 0.72, 0.58, pen.second)
    for x in (0.41, 0.59):
        pen.ellipse(x, 0.25, 0.025, 0.018, pen.look.ink)
    pen.poly(((0.5, 0.28), (0.72, 0.31), (0.5, 0.33)), (244, 150, 70))


def _arrow(pen: Pen, variant: int) -> None:
    right = ((0.0, 0.32), (0.54, 0.32), (0.54, 0.06), (1.0, 0.5), (0.54, 0.94), (0.54, 0.68), (0.0, 0.68))
    turns: tuple[Callable[[float, float], tuple[float, float]], ...] = (
        lambda x, y: (x, y),
        lambda x, y: (1 - x, y),
        lambda x, y: (y, 1 - x),
        lambda x, y: (y, x),
    )
    pen.body([turns[variant](x, y) for x, y in right])


def _bicycle(pen: Pen, variant: int) -> None:
    for x in (0.21, 0.79):
        for width, colour in ((2.4, RUBBER), (0.7, METAL)):
            points = ellipse_points(x, 0.68, 0.19, 0.29)
            pen.line([*points, points[0]], colour if width < 1 else None, width)
        pen.line(((x - 0.17, 0.68), (x + 0.17, 0.68)), None, 0.6)
        pen.line(((x, 0.42), (x, 0.94)), None, 0.6)
    pen.tube(((0.21, 0.68), (0.37, 0.3), (0.69, 0.3), (0.47, 0.7), (0.21, 0.68)), pen.main, 1.6)
    pen.tube(((0.34, 0.2), (0.47, 0.7)), pen.main, 1.6)
    pen.tube(((0.79, 0.68), (0.67, 0.12), (0.78, 0.05)), pen.main, 1.6)
    pen.line(((0.26, 0.18), (0.42, 0.18)), None, 2.6)
    if variant == 1:
        pen.poly(((0.74, 0.14), (1.0, 0.14), (0.96, 0.38), (0.78, 0.38)), pen.second)


def _balloon(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.line([(0.5 + 0.07 * math.sin(i * 1.3), 0.64 + 0.036 * i) for i in range(11)], None, 1.1)
        pen.poly(((0.5, 0.58), (0.62, 0.68), (0.38, 0.68)), pen.second)
        pen.body_ellipse(0.5, 0.31, 0.5, 0.31)
    else:
        for side in (-1, 1):
            pen.line(((0.5 + side * 0.3, 0.56), (0.5 + side * 0.13, 0.84)), None, 1.1)
        pen.body([*arc_points(0.5, 0.34, 0.5, 0.34, 145, 395, 20), (0.62, 0.72), (0.38, 0.72)])
        pen.rect(0.34, 0.82, 0.66, 1.0, WOOD)


def _box(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.body_rect(0.0, 0.0, 1.0, 1.0)
        pen.rect(0.43, 0.0, 0.57, 1.0, pen.second)
        pen.rect(0.0, 0.42, 1.0, 0.56, pen.second)
    else:
        pen.body_rect(0.06, 0.2, 0.94, 1.0)
        pen.rect(0.0, 0.0, 1.0, 0.26, pen.second)


def _frame(pen: Pen, variant: int) -> None:
    pen.rect(0.04, 0.04, 0.96, 0.96, pen.main)
    if variant == 0:
        pen.rect(0.1, 0.1, 0.9, 0.9, pen.second)
    else:
        for x in (0.08, 0.92):
            for y in (0.08, 0.92):
                pen.ellipse(x, y, 0.08, 0.08, pen.second)
    pen.erase(((0.17, 0.17), (0.83, 0.17), (0.83, 0.83), (0.17, 0.83)))


def _ring(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.ellipse(0.5, 0.5, 0.5, 0.5, pen.main)
    else:
        rim = [math.radians(i * 5) for i in range(72)]
        pen.poly(
            [
                (
                    0.5 + (0.46 + 0.04 * math.cos(12 * a)) * math.cos(a),
                    0.5 + (0.46 + 0.04 * math.cos(12 * a)) * math.sin(a),
                )
                for a in rim
            ],
            pen.main,
        )
    pen.erase(ellipse_points(0.5, 0.5, 0.385, 0.385))


def _mushroom(pen: Pen, variant: int) -> None:
    pen.poly(((0.38, 0.4), (0.62, 0.4), (0.7, 1.0), (0.3, 1.0)), CREAM)
    if variant == 0:
        pen.body(arc_points(0.5, 0.56, 0.5, 0.56, 180, 360, 18))
    else:
        pen.body([*arc_points(0.5, 0.32, 0.5, 0.32, 180, 360, 18), (0.9, 0.44), (0.1, 0.44)])


def _cactus(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.tube(((0.5, 0.56), (0.1, 0.56), (0.1, 0.32)), pen.main, 2.6)
        pen.tube(((0.5, 0.46), (0.9, 0.46), (0.9, 0.2)), pen.main, 2.6)
        pen.body([(0.32, 0.8), *arc_points(0.5, 0.16, 0.18, 0.16, 180, 360, 9), (0.68, 0.8)])
    else:
        pen.body_ellipse(0.5, 0.46, 0.48, 0.36)
        for radius in (0.16, 0.34):
            pen.line(arc_points(0.5, 0.46, radius, 0.36, 90, 270, 11))
            pen.line(arc_points(0.5, 0.46, radius, 0.36, -90, 90, 11))
        pen.ellipse(0.5, 0.08, 0.12, 0.08, pen.second)
    pen.poly(((0.2, 0.78), (0.8, 0.78), (0.7, 1.0), (0.3, 1.0)), pen.second)


def _stool(pen: Pen, variant: int) -> None:
    if variant == 0:
        pen.poly(((0.14, 0.14), (0.27, 0.14), (0.13, 1.0), (0.0, 1.0)), pen.main)
        pen.poly(((0.73, 0.14), (0.86, 0.14), (1.0, 1.0), (0.87, 1.0)), pen.main)
        pen.rect(0.44, 0.14, 0.56, 0.94, pen.main)
    else:
        pen.rect(0.14, 0.56, 0.86, 0.68, pen.main)
        for left in (0.1, 0.76):
            pen.rect(left, 0.14, left + 0.14, 1.0, pen.main)
    pen.rect(0.0, 0.0, 1.0, 0.19, pen.second)


def _crown(pen: Pen, variant: int) -> None:
    num_peaks = 3 if variant == 0 else 5
    edge = [(1.0, 0.12)]
    for i in range(num_peaks - 1):
        valley = 1.0 - (2 * i + 1) / (2 * (num_peaks - 1))
        edge += [(valley, 0.5 if variant == 0 else 0.4), (1.0 - (i + 1) / (num_peaks - 1), 0.12)]
    pen.body([(0.04, 0.86), (0.96, 0.86), *edge])
    for i in range(num_peaks):
        pen.ellipse(0.06 + 0.88 * i / (num_peaks - 1), 0.09, 0.055, 0.09, pen.second)
    pen.rect(0.03, 0.8, 0.97, 1.0, pen.second)


def _rocket(pen: Pen, variant: int) -> None:
    pen.poly(((0.38, 0.84), (0.62, 0.84), (0.5, 1.0)), (248, 182, 74))
    for side in (-1, 1):
        pen.poly(
            (
                (0.5 + side * 0.24, 0.52),
                (0.5 + side * 0.5, 0.78),
                (0.5 + side * 0.5, 0.94),
                (0.5 + side * 0.2, 0.82),
            ),
            pen.second,
        )
    left = [(0.5 - 0.28 * math.sin(math.pi * (0.04 + 0.13 * i) / 1.3), 0.12 * i) for i in range(8)]
    pen.body([*left, *((1 - x, y) for x, y in reversed(left))])
    for y in (0.36,) if variant == 0 else (0.3, 0.56):
        pen.ellipse(0.5, y, 0.13, 0.08, GLASS)


SHAPES: Mapping[str, Draw] = MappingProxyType(
    {
        "house": _house,
        "tree": _tree,
        "car": _car,
        "boat": _boat,
        "chair": _chair,
        "table": _table,
        "lamp": _lamp,
        "cup": _cup,
        "bottle": _bottle,
        "fish": _fish,
        "bird": _bird,
        "flower": _flower,
        "star": _star,
        "kite": _kite,
        "clock": _clock,
        "book": _book,
        "ladder": _ladder,
        "umbrella": _umbrella,
        "snowman": _snowman,
        "arrow": _arrow,
        "bicycle": _bicycle,
        "balloon": _balloon,
        "box": _box,
        "frame": _frame,
        "ring": _ring,
        "mushroom": _mushroom,
        "cactus": _cactus,
        "stool": _stool,
        "crown": _crown,
        "rocket": _rocket,
    }
)
