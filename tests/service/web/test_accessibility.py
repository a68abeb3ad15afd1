"""Everybody's page: axe finds nothing serious, the keyboard is enough, and a phone is wide enough."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.service.web.conftest import SAMPLES, shown_ids, wait_for_hits, watched_page

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def _browse(page: Page) -> None:
    expect(page.locator(".card")).to_have_count(40)


def _search_and_exclude(page: Page) -> None:
    page.locator("#words").fill("two boats and a table")
    page.get_by_label("Without").fill("umbrella")
    page.keyboard.press("Enter")
    page.locator("#weight").press("ArrowRight")
    expect(page.locator("#without .chip")).to_have_count(1)
    wait_for_hits(page)


def _sketch_and_picture(page: Page) -> None:
    page.locator("#words").fill("boats")
    page.locator("#picture-file").set_input_files(SAMPLES / "scene-07.jpg")
    page.locator("#open-sketch").click()
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    expect(page.locator(".term")).to_have_count(2)


def _detail(page: Page) -> None:
    _search_and_exclude(page)
    page.locator(".card button").first.click()
    expect(page.get_by_role("dialog")).to_be_visible()


def _filters(page: Page) -> None:
    _browse(page)
    if page.locator("#open-filters").is_visible():
        page.locator("#open-filters").click()


def _adding(page: Page) -> None:
    page.locator("#open-adding").click()
    page.locator("#adding-files").set_input_files(
        [{"name": "notes.png", "mimeType": "image/png", "buffer": b"no picture"}]
    )
    expect(page.locator(".is-failed")).to_have_count(1)


STATES: list[Callable[[Page], None]] = [_browse, _search_and_exclude, _sketch_and_picture, _detail, _filters, _adding]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.strip("_"))
def test_axe_finds_nothing_serious(
    browser: Browser, samples_url: str, state: Callable[[Page], None], scheme: str
) -> None:
    with watched_page(browser, color_scheme=scheme, reduced_motion="reduce") as page:
        page.goto(samples_url)
        _browse(page)
        state(page)
        page.wait_for_timeout(100)
        found = Axe().run(page).response["violations"]
        serious = [
            (violation["id"], [node["html"][:200] for node in violation["nodes"]][:3])
            for violation in found
            if violation["impact"] in {"serious", "critical"}
        ]
        assert serious == []


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__.strip("_"))
def test_a_phone_is_wide_enough(browser: Browser, samples_url: str, state: Callable[[Page], None]) -> None:
    with watched_page(browser, **PHONE) as page:
        page.goto(samples_url)
        _browse(page)
        state(page)
        page.wait_for_timeout(400)
        width = page.evaluate("Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)")
        assert width <= 390
        outside = page.evaluate(
            """() => [...document.querySelectorAll("button, input:not(.visually-hidden), a, canvas")]
                .filter((element) => element.checkVisibility() && !element.closest(".skip-link"))
                .filter((element) => {
                    const box = element.getBoundingClientRect();
                    return box.width > 0 && (box.left < -1 || box.right > innerWidth + 1);
                })
                .map((element) => element.outerHTML.slice(0, 120))"""
        )
        assert outside == []


def test_the_keyboard_is_enough(browser: Browser, samples_url: str) -> None:
    with watched_page(browser) as page:
        page.goto(samples_url)
        _browse(page)
        page.keyboard.press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        _tab_to(page, "#words")
        page.keyboard.type("three rockets")
        wait_for_hits(page)
        _tab_to(page, "#weight")
        page.keyboard.press("End")
        expect(page.locator("#weight")).to_have_attribute("aria-valuetext", "100 % structure, 0 % appearance")
        _tab_to(page, "#without-words")
        page.keyboard.type("snowman")
        page.keyboard.press("Enter")
        expect(page.locator("#without .chip")).to_have_count(1)
        page.keyboard.press("Backspace")
        expect(page.locator("#without .chip")).to_have_count(0)
        wait_for_hits(page)
        _tab_to(page, ".card-open")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".card-open").nth(1)).to_be_focused()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        expect(page.locator(".card-open").nth(1)).to_be_focused()
        page.keyboard.press("Enter")
        detail = page.get_by_role("dialog")
        expect(detail).to_be_visible()
        assert page.evaluate("document.getElementById('detail').contains(document.activeElement)")
        page.keyboard.press("Escape")
        expect(detail).to_be_hidden()
        expect(page.locator(".card-open").nth(1)).to_be_focused()
        page.locator("#skip").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#results")).to_be_focused()
        expect(page).to_have_url(re.compile(r"q=three\+rockets"))


def test_the_focus_stays_on_a_picture_that_moves(browser: Browser, samples_url: str) -> None:
    with watched_page(browser) as page:
        _find_rockets(page, samples_url)
        by_both = shown_ids(page)
        page.locator("#weight").press("End")
        wait_for_hits(page)
        by_structure = shown_ids(page)
        moved = next(id for id in by_structure if id in by_both and by_structure.index(id) > by_both.index(id))
        page.locator(f'.card[data-id="{moved}"] .card-open').focus()
        page.go_back()
        wait_for_hits(page)
        assert shown_ids(page) == by_both
        assert page.evaluate("document.activeElement.closest('.card').dataset.id") == moved


def test_the_arrow_keys_know_where_moving_pictures_will_be(browser: Browser, samples_url: str) -> None:
    with watched_page(browser) as page:
        _find_rockets(page, samples_url)
        page.evaluate(
            """() => {
                const animate = Element.prototype.animate;
                Element.prototype.animate = function (...all) {
                    const animation = animate.apply(this, all);
                    animation.pause();
                    return animation;
                };
            }"""
        )
        page.locator("#weight").press("End")
        wait_for_hits(page)
        assert page.evaluate("document.getAnimations().some((animation) => animation.playState === 'paused')")
        for place in range(5):
            card = page.locator(".card-open").nth(place)
            card.focus()
            page.keyboard.press("ArrowDown")
            rows = page.evaluate(
                """place => {
                    const cards = [...document.querySelectorAll(".card")];
                    const tops = [...new Set(cards.map((card) => card.offsetTop))];
                    const row = (card) => tops.indexOf(card.offsetTop);
                    return [row(cards[place]), row(document.activeElement.closest(".card"))];
                }""",
                place,
            )
            assert rows == [0, 1]
            page.keyboard.press("ArrowUp")
            expect(card).to_be_focused()


def _find_rockets(page: Page, url: str) -> None:
    page.goto(url)
    _browse(page)
    page.locator("#words").fill("three rockets")
    wait_for_hits(page)


def _tab_to(page: Page, selector: str) -> None:
    for _ in range(25):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} is not reached by Tab")


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, samples_url: str) -> None:
    with watched_page(browser, color_scheme="dark") as page:
        page.goto(samples_url)
        _browse(page)
        background = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(background) == "rgb(22, 22, 20)"
        button = page.get_by_role("button", name=re.compile("^Theme"))
        button.click()
        expect(button).to_have_attribute("aria-label", "Theme: light")
        assert page.evaluate(background) == "rgb(250, 248, 244)"
        page.reload()
        assert page.evaluate(background) == "rgb(250, 248, 244)"
        button.click()
        button.click()
        expect(button).to_have_attribute("aria-label", "Theme: as the system has it")
        assert page.evaluate(background) == "rgb(22, 22, 20)"


def test_less_motion_means_none(browser: Browser, samples_url: str) -> None:
    with watched_page(browser, reduced_motion="reduce") as page:
        page.goto(samples_url)
        _browse(page)
        page.evaluate(
            """() => {
                window.moves = 0;
                const animate = Element.prototype.animate;
                Element.prototype.animate = function (...all) { window.moves += 1; return animate.apply(this, all); };
            }"""
        )
        _search_and_exclude(page)
        assert page.evaluate("window.moves") == 0
