"""Filters and explanations on the page."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.service.web.conftest import shown_ids, wait_for_hits

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
    """The page over the samples."""
    page.goto(samples_url)
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")
    return page


def test_filters_are_those_of_the_collection_and_narrow_it(page: Page) -> None:
    page.get_by_role("button", name="Filters").click()
    page.locator(".filter-value", has_text="hills").click()
    expect(page.locator("#status")).to_have_text(re.compile(r"^(?!60 )\d+ pictures, newest first"))
    hills = int(page.locator("#status").inner_text().split()[0])
    assert 0 < hills < 60
    page.get_by_role("checkbox", name=re.compile("tiles")).press("Space")
    expect(page.locator("#status")).not_to_have_text(re.compile(rf"^{hills} "))
    page.get_by_label("num objects: at least").fill("5")
    page.get_by_label("num objects: at least").blur()
    expect(page.locator("#num-filters")).to_have_text("2")
    page.locator("#words").fill("a boat")
    wait_for_hits(page)
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
    # Known numbers, so that every place on the screen is known: the page is what is looked at here.
    page.route("**/explain", lambda route: route.fulfill(json=EXPLANATION))
    page.locator("#words").fill(TEXT)
    wait_for_hits(page)
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


def test_the_words_of_a_query_are_explained(page: Page, samples_url: str) -> None:
    page.locator("#words").fill(TEXT)
    wait_for_hits(page)
    with page.expect_response(
        lambda answer: answer.url.endswith("/search") and answer.request.post_data_json.get("structure_weight") == 0
    ):
        page.locator("#weight").press("Home")
    expect(page.locator("#weight-value")).to_have_text("0 %")
    detail = page.get_by_role("dialog")
    # What the page asked: the picture and the weight of the results that it showed at the click.
    with page.expect_request("**/explain") as sent:
        page.locator(".card button").first.click()
    asked = sent.value.post_data_json
    assert asked["text"] == TEXT
    assert str(detail.get_attribute("aria-label")) == f"Picture {asked['image_id']}"
    expect(detail.locator(".phrase").first).to_be_visible()
    explained = httpx.post(f"{samples_url}/explain", json=asked, timeout=60).json()
    expect(detail.locator(".phrase")).to_have_count(len(explained["phrases"]))
    expect(detail.locator(".region")).to_have_count(len(explained["regions"]))
    for phrase, similarities in zip(explained["phrases"], explained["similarities"], strict=True):
        detail.get_by_role("button", name=TEXT[phrase["start"] : phrase["end"]], exact=True).hover()
        expect(detail.locator(".region.is-best")).to_have_text(f"{max(similarities):.2f}".replace("-", "−"))
