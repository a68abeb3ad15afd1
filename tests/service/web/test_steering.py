"""Steering on the page: the sketch pad, exclusions, several terms, and how little the model is asked."""

from __future__ import annotations

import math
import re

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.service.web.conftest import (
    SAMPLES,
    encoded_pictures,
    shown_ids,
    wait_for_hits,
    wait_for_ids,
    wait_for_other_ids,
    wait_until,
    watched_page,
)

TABLE = [(0.2, 0.4), (0.8, 0.4), (0.8, 0.48), (0.2, 0.48), (0.2, 0.4)]


@pytest.fixture
def page(page: Page, samples_url: str) -> Page:
    """The page over the samples, with the first pictures shown."""
    page.goto(samples_url)
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")
    return page


def _draw(page: Page, points: list[tuple[float, float]]) -> None:
    box = page.locator("#sketch-canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def _ink(page: Page) -> int:
    """How many pixels of the paper are dark."""
    dark: int = page.locator("#sketch-canvas").evaluate(
        """canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
            .reduce((dark, value, at) => dark + (at % 4 === 0 && value < 128 ? 1 : 0), 0)"""
    )
    return dark


def _strokes(page: Page) -> int:
    number: int = page.evaluate(
        """async () => {
            const { fromFragment } = await import("/web/query.js");
            return fromFragment(location.hash).terms.find((term) => term.kind === "sketch")?.strokes.length ?? 0;
        }"""
    )
    return number


def test_a_drawing_is_searched_and_can_be_undone(page: Page) -> None:
    page.get_by_role("button", name="Draw a sketch").click()
    expect(page.locator("#sketch-undo")).to_be_disabled()
    _draw(page, TABLE)
    wait_for_hits(page)
    expect(page.locator("#weight-value")).to_have_text("100 %")  # a sketch has no appearance
    one_stroke = _ink(page)
    assert one_stroke > 1000
    after_one = shown_ids(page)
    with page.expect_response("**/search"):
        _draw(page, [(0.5 + 0.1 * math.cos(t), 0.2 + 0.1 * math.sin(t)) for t in (n * 0.7 for n in range(10))])
    wait_until(page, lambda: _strokes(page) == 2)
    assert _ink(page) > one_stroke
    page.locator("#sketch-undo").click()
    expect(page.locator(".card").first).to_have_attribute("data-id", after_one[0])
    wait_until(page, lambda: _strokes(page) == 1)
    assert _ink(page) == one_stroke
    page.keyboard.press("Escape")
    expect(page.locator("#sketch")).to_be_hidden()
    expect(page.locator("#open-sketch")).to_be_focused()
    page.get_by_role("button", name="Change the sketch").click()
    page.locator("#sketch-clear").click()
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")
    assert _ink(page) == 0


def test_a_sketch_comes_back_with_its_address(page: Page, browser: Browser) -> None:
    page.locator("#open-sketch").click()
    _draw(page, TABLE)
    wait_for_hits(page)
    with watched_page(browser) as other:
        other.goto(page.url)
        wait_for_ids(other, shown_ids(page))
        other.get_by_role("button", name="Change the sketch").click()
        assert _ink(other) == _ink(page)


def test_the_line_width_is_that_of_the_next_stroke(page: Page) -> None:
    page.locator("#open-sketch").click()
    ink = []
    for width in ("2", "7", "24"):
        page.get_by_role("slider", name="Line width").fill(width)
        _draw(page, [(0.2, 0.5), (0.8, 0.5)])
        ink.append(_ink(page))
        page.locator("#sketch-clear").click()
    assert ink[0] * 2 < ink[1] < ink[2] / 2


@pytest.mark.parametrize("kind", ["touch", "pen"])
def test_finger_and_pen_draw(page: Page, kind: str) -> None:
    page.locator("#open-sketch").click()
    page.locator("#sketch-canvas").evaluate(
        """(canvas, kind) => {
            canvas.setPointerCapture = () => {}; // there is no such pointer to capture
            const box = canvas.getBoundingClientRect();
            const send = (name, x, y) => canvas.dispatchEvent(new PointerEvent(name, {
                pointerId: 7, pointerType: kind, pressure: 0.5, button: 0, bubbles: true, cancelable: true,
                clientX: box.left + x * box.width, clientY: box.top + y * box.height,
            }));
            send("pointerdown", 0.2, 0.2);
            for (let step = 1; step <= 10; step += 1) send("pointermove", 0.2 + 0.05 * step, 0.2 + 0.03 * step);
            send("pointerup", 0.7, 0.5);
        }""",
        kind,
    )
    wait_for_hits(page)
    wait_until(page, lambda: _strokes(page) == 1)
    assert page.locator("#sketch-canvas").evaluate("element => getComputedStyle(element).touchAction") == "none"


def test_the_keyboard_draws_too(page: Page) -> None:
    page.locator("#open-sketch").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#sketch-canvas")).to_be_focused()
    page.keyboard.press("Space")
    for key in ("Shift+ArrowRight", "Shift+ArrowRight", "ArrowDown", "Shift+ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("Space")
    wait_for_hits(page)
    wait_until(page, lambda: _strokes(page) == 1)
    page.keyboard.press("Control+z")
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")


@pytest.mark.parametrize("kind", ["words", "picture", "sketch"])
def test_the_slider_asks_the_model_nothing(page: Page, samples_url: str, kind: str) -> None:
    if kind == "words":
        page.locator("#words").fill("a green bird on a table")
    elif kind == "picture":
        page.locator("#picture-file").set_input_files(SAMPLES / "scene-31.jpg")
    else:
        page.locator("#open-sketch").click()
        _draw(page, TABLE)
    wait_for_hits(page)
    before = shown_ids(page)
    calls = encoded_pictures(samples_url)
    for key in ("Home", "PageUp", "PageUp", "ArrowRight", "End", "Home"):
        with page.expect_response("**/search"):
            page.locator("#weight").press(key)
    expect(page.locator("#weight-value")).to_have_text("0 %")
    page.wait_for_timeout(200)
    # The service embeds a canary now and then, a text and a picture: so two calls at most for each of its rounds.
    assert encoded_pictures(samples_url) - calls <= 2
    if kind != "sketch":  # of a sketch there is no appearance to rank by
        wait_for_other_ids(page, before)


def test_what_is_excluded_goes_away(page: Page, samples_url: str) -> None:
    page.locator("#words").fill("a table")
    wait_for_hits(page)
    page.get_by_label("Without").fill("an umbrella")
    with page.expect_response("**/search") as answered:
        page.keyboard.press("Enter")
    hits = answered.value.json()["hits"]
    asked = {"text": "a table", "negative": [{"text": "an umbrella"}], "limit": 40}
    assert [hit["id"] for hit in hits] == [
        hit["id"] for hit in httpx.post(f"{samples_url}/search", json=asked).json()["hits"]
    ]
    expect(page.locator(".card")).to_have_count(len(hits))
    expect(page).to_have_url(re.compile(r"not=an\+umbrella"))
    page.get_by_role("button", name="No longer exclude an umbrella").click()
    expect(page.locator("#without .chip")).to_have_count(0)
    expect(page).not_to_have_url(re.compile(r"not="))
    tables = httpx.post(f"{samples_url}/search", json={"text": "a table", "limit": 40}).json()["hits"]
    wait_for_ids(page, [hit["id"] for hit in tables])
    first = tables[0]["id"]
    page.locator(".card button").first.click()
    page.get_by_role("button", name="Less like this").click()
    expect(page.locator("#without .chip")).to_have_count(1)
    expect(page.locator(f'.card[data-id="{first}"]')).to_have_count(0)


def test_words_and_a_picture_are_searched_together(page: Page) -> None:
    page.locator("#words").fill("a red boat")
    page.locator("#picture-file").set_input_files(SAMPLES / "scene-07.jpg")
    with page.expect_request(lambda request: '"weight":2' in (request.post_data or "")) as asked:
        page.get_by_label("How often the picture counts").select_option("2")
    sent = asked.value.post_data_json
    assert [(sorted(term)[0], term["weight"]) for term in sent["query"]] == [("text", 1), ("image", 2)]
    wait_for_hits(page)
    expect(page).to_have_url(re.compile(r"picture=2\*"))
    expect(page.locator("#words")).to_have_value("a red boat")


def test_a_stored_picture_joins_the_query(page: Page) -> None:
    page.locator("#words").fill("a table")
    wait_for_hits(page)
    page.locator(".card button").first.click()
    with page.expect_request(lambda request: '"query"' in (request.post_data or "")) as asked:
        page.get_by_role("button", name="Add to the query").click()
    assert [sorted(term) for term in asked.value.post_data_json["query"]] == [
        ["text", "weight"],
        ["image_id", "weight"],
    ]


# The bundled model's own answers would make these depend on its training: here the page is what is looked at.


def _answer_with(page: Page, **changes: object) -> None:
    def changed(route: object) -> None:
        answer = route.fetch()  # type: ignore[attr-defined]
        route.fulfill(response=answer, json={**answer.json(), **changes})  # type: ignore[attr-defined]

    page.route("**/search", changed)


def test_an_honest_empty_state(page: Page) -> None:
    _answer_with(page, no_match=True, false_accept_rate=0.05)
    page.locator("#words").fill("a purple submarine")
    notice = page.locator(".notice")
    expect(notice.get_by_role("heading")).to_have_text("Nothing here matches “a purple submarine”")
    expect(notice).to_contain_text("passes in 5 % of cases")
    expect(notice).to_contain_text("The closest pictures follow")
    expect(page.locator("#status")).to_contain_text("closest pictures")
    expect(page.locator(".card")).to_have_count(40)


def test_only_confident_matches_leave_an_honest_nothing(browser: Browser, samples_url: str) -> None:
    with watched_page(browser) as page:
        calibration = {"is_calibrated": True, "false_accept_rate": 0.05, "level": 0.5}

        def calibrated(route: object) -> None:
            answer = route.fetch()  # type: ignore[attr-defined]
            route.fulfill(response=answer, json={**answer.json(), "calibration": calibration})  # type: ignore[attr-defined]

        page.route("**/info", calibrated)
        page.goto(samples_url)
        page.locator("#words").fill("a boat")
        wait_for_hits(page)
        asked: list[dict[str, object]] = []

        def nothing(route: object) -> None:
            asked.append(route.request.post_data_json)  # type: ignore[attr-defined]
            empty = {"hits": [], "no_match": True, "structure_weight": 0.3, "cursor": None, "took_ms": 1.0}
            route.fulfill(json=empty)  # type: ignore[attr-defined]

        page.route("**/search", nothing)
        page.get_by_role("button", name="Only confident").click()
        expect(page.locator(".notice")).to_contain_text("No confident match")
        assert asked[-1]["only_confident"] is True
        page.unroute("**/search")
        page.get_by_role("button", name="Show the closest pictures").click()
        expect(page.locator(".card")).to_have_count(40)
        expect(page.get_by_role("button", name="Only confident")).to_have_attribute("aria-pressed", "false")
