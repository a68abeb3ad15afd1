"""Searching on the page: by words while they are typed, by pictures however they come in, and back again."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from structxlip.checkpoint import read_checkpoint_config
from structxlip.models import BUNDLED
from tests.service.web.conftest import (
    SAMPLES,
    samples,
    shown_ids,
    wait_for_hits,
    wait_for_ids,
    wait_until,
    watched_page,
)

WORDS = "a yellow snowman inside an orange square frame"
MODELS_OWN_PERCENT = round(100 * read_checkpoint_config(BUNDLED / "scenes-tiny").default_structure_weight)


@pytest.fixture
def page(page: Page, samples_url: str) -> Page:
    """The page over the samples, with the first pictures shown."""
    page.goto(samples_url)
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")
    return page


@pytest.fixture
def api(samples_url: str) -> Iterator[httpx.Client]:
    """The same service without a page."""
    with httpx.Client(base_url=samples_url, timeout=60) as api:
        yield api


def _found(api: httpx.Client, **query: object) -> list[str]:
    return [hit["id"] for hit in api.post("/search", json={"limit": 40, **query}).json()["hits"]]


def _type(page: Page, words: str) -> None:
    page.locator("#words").press_sequentially(words, delay=15)
    expect(page).to_have_title(f"{words} · StructXLIP")
    wait_for_hits(page)


def _shown_share(card: Locator, view: str) -> float:
    """Return how much of a card's bar a view fills, 0 to 1."""
    style = card.locator(f".split-part.{view}").get_attribute("style")
    assert style is not None
    return float(re.findall(r"width: ([\d.]+)%", style)[0]) / 100


def test_words_are_searched_while_they_are_typed(page: Page, api: httpx.Client) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url) if request.url.endswith("/search") else None)
    _type(page, WORDS)
    wait_for_ids(page, _found(api, text=WORDS))
    assert 1 <= len(requests) < len(WORDS) / 2, "searched for letters rather than words"


def test_each_picture_shows_both_parts_of_its_score(page: Page, api: httpx.Client) -> None:
    _type(page, WORDS)
    answer = api.post("/search", json={"text": WORDS, "limit": 40}).json()
    weight, best = answer["structure_weight"], answer["hits"][0]
    wait_for_ids(page, [hit["id"] for hit in answer["hits"]])
    card = page.locator(".card").first
    for view, share in (("appearance", 1 - weight), ("structure", weight)):
        part = max(0.0, share * best["scores"][view] / best["score"])
        # The same pictures may be there a moment before, from the words up to the last letter.
        wait_until(page, lambda part=part, view=view: _shown_share(card, view) == pytest.approx(min(1, part), abs=1e-4))
    spoken = f"score {best['score']:.2f}, appearance {best['scores']['appearance']:.2f}"
    expect(card.get_by_role("button")).to_contain_text(spoken)


def test_the_slider_reranks_while_it_moves(page: Page, api: httpx.Client) -> None:
    _type(page, WORDS)
    slider = page.get_by_role("slider", name="How much structure counts")
    expect(slider).to_have_value(str(MODELS_OWN_PERCENT))
    seen: list[float | None] = []
    page.on("request", lambda request: seen.append(json.loads(request.post_data or "{}").get("structure_weight")))
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    page.mouse.down()
    for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.05):
        page.mouse.move(box["x"] + share * box["width"], middle)
        page.wait_for_timeout(60)
    assert len({weight for weight in seen if weight}) > 1, "nothing was searched before the slider came to rest"
    page.mouse.up()
    expect(page.locator("#weight-value")).to_have_text("100 %")
    wait_for_ids(page, _found(api, text=WORDS, structure_weight=1))
    expect(page).to_have_url(re.compile(r"w=1"))
    page.get_by_role("button", name="Reset").click()
    expect(slider).to_have_value(str(MODELS_OWN_PERCENT))
    wait_for_ids(page, _found(api, text=WORDS))


def test_a_picture_stays_the_same_element_when_results_change(page: Page, api: httpx.Client) -> None:
    _type(page, WORDS)
    wait_for_ids(page, _found(api, text=WORDS))
    first = page.locator(".card").first
    name = first.get_attribute("data-id")
    first.evaluate("element => { element.isTheSame = true; }")
    page.locator("#weight").press("Home")
    expect(page.locator("#weight-value")).to_have_text("0 %")
    same = page.locator(f'.card[data-id="{name}"]')
    assert same.evaluate("element => element.isTheSame === true")


def test_the_address_holds_the_query_and_back_goes_to_the_one_before(
    page: Page, browser: Browser, api: httpx.Client
) -> None:
    _type(page, "a boat")
    page.locator("#words").press("Enter")
    boats = _found(api, text="a boat")
    wait_for_ids(page, boats)
    page.locator("#words").fill("")
    _type(page, "three umbrellas in a row")
    page.locator("#weight").press("End")
    expect(page.locator("#weight-value")).to_have_text("100 %")
    umbrellas = _found(api, text="three umbrellas in a row", structure_weight=1)
    assert umbrellas != boats
    wait_for_ids(page, umbrellas)
    expect(page).to_have_url(re.compile("w=1"))
    with watched_page(browser) as other:
        other.goto(page.url)
        expect(other.locator("#words")).to_have_value("three umbrellas in a row")
        wait_for_ids(other, umbrellas)
    page.go_back()
    expect(page.locator("#weight-value")).to_have_text(f"{MODELS_OWN_PERCENT} %")
    page.go_back()
    expect(page.locator("#words")).to_have_value("a boat")
    wait_for_ids(page, boats)
    page.go_forward()
    expect(page.locator("#words")).to_have_value("three umbrellas in a row")
    page.reload()
    expect(page.locator("#words")).to_have_value("three umbrellas in a row")


def test_hover_and_focus_show_the_edge_map(page: Page) -> None:
    card = page.locator(".card").first
    assert card.locator(".card-edges").evaluate("element => getComputedStyle(element).opacity") == "0"
    card.hover()
    expect(card.locator(".card-edges")).to_have_css("opacity", "1")
    expect(card.locator(".card-edges")).to_have_js_property("naturalWidth", 128)
    page.mouse.move(5, 5)
    expect(card.locator(".card-edges")).to_have_css("opacity", "0")
    page.locator("#show-edges").focus()
    page.keyboard.press("Tab")
    expect(card.get_by_role("button")).to_be_focused()
    expect(card.locator(".card-edges")).to_have_css("opacity", "1")


def test_all_edge_maps_are_shown_where_there_is_no_hover(page: Page) -> None:
    page.get_by_role("button", name="Edges").click()
    for position in (0, 3):
        expect(page.locator(".card-edges").nth(position)).to_have_css("opacity", "1")
    page.get_by_role("button", name="Edges").click()
    expect(page.locator(".card-edges").first).to_have_css("opacity", "0")


def test_a_picture_file_finds_itself(page: Page) -> None:
    page.locator("#picture-file").set_input_files(SAMPLES / "scene-07.jpg")
    expect(page.locator(".card").first).to_have_attribute("data-id", "scene-07")
    expect(page.locator(".term")).to_have_count(1)
    page.reload()  # the picture itself is kept in this browser
    expect(page.locator(".card").first).to_have_attribute("data-id", "scene-07")
    page.get_by_role("button", name="Remove the picture from the query").click()
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_finds_itself(page: Page, way: str) -> None:
    _send_file(page, way, SAMPLES / "scene-12.jpg")
    expect(page.locator(".card").first).to_have_attribute("data-id", "scene-12")


def _send_file(page: Page, way: str, path: Path) -> None:
    page.evaluate(
        """async ([way, name, encoded]) => {
            const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
            const options = { bubbles: true, cancelable: true };
            if (way === "paste") {
                document.body.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: transfer }));
                return;
            }
            for (const kind of ["dragenter", "dragover"]) {
                document.body.dispatchEvent(new DragEvent(kind, { ...options, dataTransfer: transfer }));
            }
            if (document.getElementById("drop-veil").hidden) throw new Error("nothing says where to drop");
            document.body.dispatchEvent(new DragEvent("drop", { ...options, dataTransfer: transfer }));
        }""",
        [way, path.name, base64.b64encode(path.read_bytes()).decode()],
    )


def test_a_link_with_somebody_elses_picture_says_so(page: Page, samples_url: str) -> None:
    page.goto(f"{samples_url}/#picture=00112233445566ff00")
    expect(page.get_by_role("heading", name="This link’s picture is not in this browser")).to_be_visible()
    page.get_by_role("button", name="Remove it from the query").click()
    expect(page.locator("#status")).to_have_text("60 pictures, newest first")


def test_more_like_this_by_appearance_and_by_structure(page: Page, api: httpx.Client) -> None:
    for name, weight in (("by appearance", 0), ("by structure", 1)):
        page.locator('.card[data-id="scene-57"] button').click()
        page.get_by_role("button", name=name).click()
        expect(page.locator("#detail")).to_be_hidden()
        wait_for_ids(page, _found(api, image_id="scene-57", structure_weight=weight))
        expect(page.locator("#weight-value")).to_have_text(f"{100 * weight} %")
        page.locator(".brand").click()
        expect(page.locator("#status")).to_have_text("60 pictures, newest first")


def test_the_detail_view_takes_the_score_apart(page: Page, api: httpx.Client) -> None:
    _type(page, WORDS)
    answer = api.post("/search", json={"text": WORDS, "limit": 40}).json()
    wait_for_ids(page, [hit["id"] for hit in answer["hits"]])
    page.locator(".card button").nth(1).click()
    hit, weight = answer["hits"][1], answer["structure_weight"]
    detail = page.get_by_role("dialog")
    expect(detail.locator(".score-total")).to_have_text(f"{hit['score']:.3f}".replace("-", "−"))
    for view, share in (("appearance", 1 - weight), ("structure", weight)):
        row = detail.locator(f".score-row.{view}")
        expect(row).to_contain_text(f"{share * hit['scores'][view]:.3f}".replace("-", "−"))
    expect(detail.locator("dl")).to_contain_text(str(hit["metadata"]["main_colour"]))
    expect(detail.get_by_role("link", name=re.compile("Original"))).to_have_attribute(
        "href", re.compile(re.escape(hit["links"]["file"]) + "$")
    )
    detail.get_by_role("button", name="Edges").click()
    expect(detail.locator(".stage-edges")).to_have_css("opacity", "1")


def test_the_detail_view_steps_and_closes_to_where_it_was_opened(page: Page) -> None:
    ids = shown_ids(page)
    page.locator(".card button").nth(2).click()
    detail = page.get_by_role("dialog")
    expect(detail).to_have_attribute("aria-label", f"Picture {ids[2]}")
    page.keyboard.press("ArrowRight")
    expect(detail).to_have_attribute("aria-label", f"Picture {ids[3]}")
    expect(page).to_have_url(re.compile(rf"show={re.escape(ids[3])}\b"))
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    expect(page.locator(".card button").nth(3)).to_be_focused()
    expect(page).not_to_have_url(re.compile(r"show="))
    page.go_forward()  # the picture has an address
    expect(detail).to_have_attribute("aria-label", f"Picture {ids[3]}")
    page.reload()
    expect(detail).to_have_attribute("aria-label", f"Picture {ids[3]}")
    page.go_back()
    expect(detail).to_be_hidden()


def test_more_pictures_follow_on_demand(page: Page) -> None:
    expect(page.locator(".card")).to_have_count(40)
    page.get_by_role("button", name="Show more").click()
    expect(page.locator(".card")).to_have_count(60)
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()
    assert sorted(shown_ids(page)) == sorted(str(record["id"]) for record in samples())


def test_a_stored_picture_that_is_gone_is_said_to_be(browser: Browser, samples_url: str) -> None:
    with watched_page(browser, allow=("404",)) as page:
        page.goto(f"{samples_url}/#like=nobody")
        expect(page.locator(".notice")).to_contain_text("no picture has the id 'nobody'")
        page.goto(f"{samples_url}/#show=nobody")
        expect(page.locator(".notice")).to_contain_text("no picture has the id 'nobody'")


def test_a_broken_connection_is_said_and_mended(browser: Browser, samples_url: str) -> None:
    with watched_page(browser, allow=("ERR_",)) as page:
        page.goto(samples_url)
        expect(page.locator(".card")).to_have_count(40)
        page.route("**/search", lambda route: route.abort())
        page.locator("#words").fill("a boat")
        expect(page.locator(".notice")).to_contain_text("The service does not answer")
        page.unroute("**/search")
        page.get_by_role("button", name="Try again").click()
        wait_for_hits(page)
        expect(page.locator(".notice", has_text="does not answer")).to_have_count(0)


def test_a_loading_service_is_waited_for(browser: Browser, samples_url: str) -> None:
    with watched_page(browser, allow=("503",)) as page:
        page.goto(samples_url)
        expect(page.locator(".card")).to_have_count(40)
        problem = {"title": "Not ready", "status": 503, "detail": "The index is loading (40% done)."}
        page.route("**/search", lambda route: route.fulfill(status=503, json=problem), times=1)
        page.locator("#words").fill("a boat")
        expect(page.locator(".notice")).to_contain_text("The index is loading (40% done).")
        wait_for_hits(page)
