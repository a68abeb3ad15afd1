"""The page's pure modules, run where they run: in the browser."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.service.web.conftest import watched_page


@pytest.fixture(scope="module")
def modules(browser: Browser, samples_url: str) -> Iterator[Page]:
    """A page that holds the modules and runs nothing."""
    with watched_page(browser, allow=("404",)) as page:  # a bare file has no icon, and the browser asks for one
        page.goto(f"{samples_url}/web/icon.svg")
        yield page


def _call(page: Page, module: str, body: str, argument: object) -> Any:
    return page.evaluate(f"async (value) => {{ const m = await import('/web/{module}.js'); {body} }}", argument)


def test_rows_fill_the_width_and_keep_shapes(modules: Page) -> None:
    generator = random.Random(5)
    for _ in range(40):
        shapes = [generator.uniform(0.3, 4.0) for _ in range(generator.randint(0, 60))]
        width, gap, height = generator.randint(280, 2200), 12, generator.choice([150, 210])
        options = {"width": width, "gap": gap, "height": height}
        sizes = _call(modules, "layout", "return m.justifiedRows(value.shapes, value)", {"shapes": shapes, **options})
        assert len(sizes) == len(shapes)
        rows = _rows(sizes, width, gap)
        for row in rows:
            assert sum(size["width"] for size in row) + gap * (len(row) - 1) <= width
            assert len({size["height"] for size in row}) == 1
        for row in rows[:-1]:
            assert sum(size["width"] for size in row) + gap * (len(row) - 1) == width
        for shape, size in zip(shapes, sizes, strict=True):
            if 0.5 <= shape <= 2.8 and size["height"] > 0.6 * height + 1:  # else it is cropped by design
                assert size["width"] / size["height"] == pytest.approx(shape, rel=0.12)


def _rows(sizes: list[dict[str, int]], width: int, gap: int) -> list[list[dict[str, int]]]:
    """Break as a wrapping flex container does."""
    rows: list[list[dict[str, int]]] = []
    used = width + 1
    for size in sizes:
        if used + gap + size["width"] > width:
            rows.append([])
            used = -gap
        rows[-1].append(size)
        used += gap + size["width"]
    return rows


def test_strokes_come_back_from_an_address(modules: Page) -> None:
    generator = random.Random(6)
    sketches = [
        [
            {
                "width": generator.randint(1, 40),
                "points": [
                    generator.randint(0, limit) for _ in range(generator.randint(1, 30)) for limit in (1000, 750)
                ],
            }
            for _ in range(generator.randint(1, 12))
        ]
        for _ in range(60)
    ]
    packed = _call(modules, "strokes", "return value.map(m.packStrokes)", sketches)
    assert all(set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") for text in packed)
    assert _call(modules, "strokes", "return value.map(m.unpackStrokes)", packed) == sketches


def test_addresses_that_make_no_sense_give_no_strokes(modules: Page) -> None:
    generator = random.Random(7)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_%<ü"
    texts = ["".join(generator.choices(letters, k=generator.randint(1, 60))) for _ in range(500)]
    for strokes in _call(modules, "strokes", "return value.map(m.unpackStrokes)", [*texts, "A" * 70_000]):
        for stroke in strokes:
            assert stroke["width"] > 0
            assert len(stroke["points"]) % 2 == 0
            assert stroke["points"]


def test_simplified_strokes_stay_near_what_was_drawn(modules: Page) -> None:
    generator = random.Random(8)
    for _ in range(30):
        points = [generator.randint(0, 700) for _ in range(2 * generator.randint(1, 200))]
        kept = _call(modules, "strokes", "return m.simplified(value)", points)
        assert kept[:2] == points[:2]
        assert kept[-2:] == points[-2:]
        pairs = list(zip(points[::2], points[1::2], strict=True))
        assert set(zip(kept[::2], kept[1::2], strict=True)) <= set(pairs)
    straight = [value for step in range(100) for value in (step * 7, step * 3)]
    assert _call(modules, "strokes", "return m.simplified(value)", straight) == [0, 0, 693, 297]


QUERIES: list[dict[str, object]] = [
    {"words": "two stools & a “table” #1 100 % ü\n"},
    {"words": "x", "weight": 0.37, "shown": "a/b?c=d", "onlyConfident": True},
    {"terms": [{"kind": "image", "id": "2*scene-05", "counts": 1}, {"kind": "image", "id": "a b", "counts": 0.5}]},
    {"terms": [{"kind": "picture", "key": "00ff", "counts": 2}]},
    {"terms": [{"kind": "sketch", "strokes": [{"width": 7, "points": [1, 2, 3, 4]}], "counts": 1}], "weight": 0},
    {"without": [{"kind": "words", "words": "a red, round thing"}, {"kind": "image", "id": "b"}]},
    {"filters": {"shop": {"values": ["x", 1, True, None]}, "price": {"min": 1.5}, "n": {"min": 0, "max": 3}}},
]


@pytest.mark.parametrize("parts", QUERIES)
def test_an_address_holds_the_whole_query(modules: Page, parts: dict[str, object]) -> None:
    both = _call(
        modules,
        "query",
        "const q = m.withParts(m.EMPTY, value); return [q, m.fromFragment('#' + m.toFragment(q))];",
        parts,
    )
    assert both[0] == both[1]


@pytest.mark.parametrize(
    "fragment", ["#results", "#w=2&w=", "#filter=[1]&filter={", "#sketch=%00&like=&not=+", "#&&=&%"]
)
def test_an_address_that_says_nothing_is_an_empty_query(modules: Page, fragment: str) -> None:
    assert _call(modules, "query", "return [m.fromFragment(value), m.EMPTY]", fragment)[0] == _call(
        modules, "query", "return m.EMPTY", None
    )


def test_a_query_becomes_the_request_of_the_contract(modules: Page) -> None:
    to_request = "return m.toRequest(m.withParts(m.EMPTY, value), async (term) => 'encoded ' + term.kind)"
    assert _call(modules, "query", to_request, {"words": " a stool "}) == {"text": "a stool"}
    everything = {
        "words": "a stool",
        "terms": [{"kind": "sketch", "strokes": [], "counts": 2}, {"kind": "picture", "key": "k", "counts": 1}],
        "without": [{"kind": "words", "words": "a lamp"}, {"kind": "image", "id": "b"}],
        "weight": 0,
        "filters": {"shop": {"values": ["x"]}, '["a.b","c"]': {"min": 1}, "[odd": {"max": 2}},
        "onlyConfident": True,
    }
    assert _call(modules, "query", to_request, everything) == {
        "query": [
            {"text": "a stool", "weight": 1},
            {"sketch": "encoded sketch", "weight": 2},
            {"image": "encoded picture", "weight": 1},
        ],
        "negative": [{"text": "a lamp"}, {"image_id": "b"}],
        "structure_weight": 0,
        "filter": {
            "all": [{"field": "shop", "in": ["x"]}, {"field": ["a.b", "c"], "gte": 1}, {"field": "[odd", "lte": 2}]
        },
        "only_confident": True,
    }
