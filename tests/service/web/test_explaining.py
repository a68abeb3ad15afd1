"""Filters and explanations on the page, with answers of the contract's shape: the page is what is looked at here."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.service.web.conftest import shown_ids

FIELDS = [
    {"name": "background", "kinds": ["string"], "num_images": 60, "min": None, "max": None}
    | {"values": [{"value": name, "num_images": 6} for name in ("hills", "tiles", "room", "horizon")]},
    {"name": "num_objects", "kinds": ["number"], "num_images": 60, "min": 2, "max": 9}
    | {"values": [{"value": 4, "num_images": 9}, {"value": 5, "num_images": 8}]},
]
PHRASES = ["a yellow snowman", "an orange frame"]
TEXT = "a yellow snowman inside an orange frame"
EXPLANATION = {
    "phrases": [{"text": text, "start": TEXT.index(text), "end": TEXT.index(text) + len(text)} for text in PHRASES],
    "regions": [{"box": [0.0, 0.0, 1.0, 1.0]}, {"box": [0.5, 0.25, 0.75, 0.5]}, {"box": [0.1, 0.6, 0.3, 0.9]}],
    "similarities": [[0.1, 0.42, 0.05], [0.2, 0.0, 0.31]],
    "pairs": [{"phrase": 0, "region": 1, "similarity": 0.42}, {"phrase": 1, "region": 2, "similarity": 0.31}],
    "overlay": None,
    "fingerprint": "f",
}


@pytest.fixture
def page(page: Page, samples_url: str) -> Page:
    """The page over the samples, on a service that offers everything."""

    def offering(route: Route) -> None:
        answer = route.fetch()
        info: dict[str, Any] = answer.json()
        route.fulfill(response=answer, json={**info, "features": [*info["features"], "fields", "explain"]})

    page.route("**/info", offering)
    page.route("**/fields", lambda route: route.fulfill(json={"fields": FIELDS}))
    page.route("**/explain", lambda route: route.fulfill(json=EXPLANATION))
    page.goto(samples_url)
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")
    return page


def test_filters_are_those_of_the_collection_and_narrow_it(page: Page) -> None:
    page.get_by_role("button", name="Filters").click()
    page.locator(".filter-value", has_text="hills").click()
    expect(page.locator("#status")).not_to_have_text("60 pictures, newest first")
    hills = int(page.locator("#status").inner_text().split()[0])
    assert 0 < hills < 60
    page.get_by_role("checkbox", name=re.compile("tiles")).press("Space")
    expect(page.locator("#status")).not_to_have_text(re.compile(rf"^{hills} "))
    page.get_by_label("num objects: at least").fill("5")
    page.get_by_label("num objects: at least").blur()
    expect(page.locator("#num-filters")).to_have_text("2")
    page.locator("#words").fill("a boat")
    expect(page.locator("#status")).to_have_text(re.compile("best first"))
    for item in page.locator(".card").all():
        item.get_by_role("button").click()
        metadata = page.locator("#detail dl").inner_text()
        assert re.search(r"background\s+(hills|tiles)", metadata), metadata
        assert int(re.findall(r"num objects\s+(\d+)", metadata)[0]) >= 5
        page.keyboard.press("Escape")
        expect(page.locator("#detail")).to_be_hidden()
    address = page.url
    page.get_by_role("button", name="Clear all filters").click()
    expect(page.locator(".card")).to_have_count(40)
    page.goto(address)
    expect(page.locator("#num-filters")).to_have_text("2")
    expect(page.get_by_role("checkbox", name=re.compile("tiles"))).to_be_checked()


def test_filters_that_nothing_passes_can_be_cleared(page: Page) -> None:
    page.get_by_role("button", name="Filters").click()
    page.get_by_label("num objects: at least").fill("500")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No picture passes these filters")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.locator(".card")).to_have_count(40)


def test_a_phrase_lights_up_its_regions(page: Page) -> None:
    page.locator("#words").fill(TEXT)
    expect(page.locator("#status")).to_have_text(re.compile("best first"))
    page.locator(".card button").first.click()
    detail = page.get_by_role("dialog")
    expect(detail.locator(".explained")).to_have_text(TEXT)
    expect(detail.locator(".region.is-lit")).to_have_count(0)
    detail.get_by_role("button", name=PHRASES[0]).hover()
    best = detail.locator(".region.is-best")
    expect(best).to_have_text("0.42")
    expect(detail.locator(".explained-answer")).to_contain_text("“a yellow snowman” meets its best region")
    expect(best).to_have_css("opacity", "1")
    picture, region = detail.locator(".stage-picture").bounding_box(), best.bounding_box()
    assert picture is not None
    assert region is not None
    assert (region["x"] - picture["x"]) / picture["width"] == pytest.approx(0.5, abs=0.01)
    assert (region["y"] - picture["y"]) / picture["height"] == pytest.approx(0.25, abs=0.01)
    assert region["width"] / picture["width"] == pytest.approx(0.25, abs=0.01)
    page.mouse.move(2, 2)
    expect(detail.locator(".region.is-lit")).to_have_count(0)
    detail.get_by_role("button", name=PHRASES[1]).focus()
    expect(best).to_have_text("0.31")
    page.keyboard.press("Enter")  # keeps it lit
    page.keyboard.press("Tab")
    expect(best).to_have_text("0.31")


def test_without_words_the_caption_is_explained(page: Page) -> None:
    with page.expect_request("**/explain") as asked:
        page.locator(".card button").first.click()
    assert asked.value.post_data_json["image_id"] == shown_ids(page)[0]
    expect(page.get_by_role("dialog").locator("h3").first).to_have_text("Caption")
