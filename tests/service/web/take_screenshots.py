"""The pictures of the page for the documentation, each of at most 200 KB.

    python -m tests.service.web.take_screenshots docs/images

A real service with the bundled model and the packaged samples; nothing in them is staged.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from service.settings import Settings
from structxlip.models import load_encoder
from tests.service.web.conftest import CHROMIUM, CHROMIUM_ARGUMENTS, add_samples
from tests.support.server import running_service

WORDS = (
    "In the upper middle there is a large orange square frame with a shiny yellow snowman inside. "
    "Two purple umbrellas in a row are at the bottom."
)
MAX_BYTES = 200_000
SETTLED_MILLISECONDS = 2500
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def main(folder: Path) -> None:
    """Write every picture."""
    with (
        tempfile.TemporaryDirectory() as data,
        running_service(Settings(data=Path(data) / "c"), load_encoder("scenes-tiny", device="cpu")) as url,
        sync_playwright() as playwright,
    ):
        add_samples(url)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS))
        _take(browser, url, folder / "page-search.jpg", _search, DESKTOP)
        _take(browser, url, folder / "page-sketch.jpg", _sketch, DESKTOP)
        _take(browser, url, folder / "page-detail.jpg", _detail, DESKTOP)
        _take(browser, url, folder / "page-phone-dark.jpg", _search, {**PHONE, "color_scheme": "dark"})
        browser.close()


def _take(browser: Browser, url: str, path: Path, show: Callable[[Page], None], options: dict[str, object]) -> None:
    context = browser.new_context(**{"reduced_motion": "reduce", **options})
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".card.is-loaded")
    show(page)
    page.wait_for_timeout(SETTLED_MILLISECONDS)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in range(90, 30, -5):
        picture.save(path, "JPEG", quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= MAX_BYTES:
            break
    context.close()


def _search(page: Page) -> None:
    page.locator("#words").fill(WORDS)
    page.wait_for_timeout(SETTLED_MILLISECONDS)
    if not page.viewport_size or page.viewport_size["width"] > 600:
        page.locator(".card").nth(2).hover()


def _detail(page: Page) -> None:
    page.locator("#words").fill(WORDS)
    page.wait_for_timeout(SETTLED_MILLISECONDS)
    page.locator(".card button").first.click()
    page.locator(".phrase", has_text="snowman").hover(timeout=120_000)


def _sketch(page: Page) -> None:
    """Draw a picture frame with something in it above two umbrellas."""
    page.locator("#open-sketch").click()
    for left, top, right, bottom in ((0.42, 0.08, 0.82, 0.48), (0.47, 0.13, 0.77, 0.43)):
        _draw(page, [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    for x, y, radius in ((0.62, 0.33, 0.07), (0.62, 0.22, 0.045)):
        _draw(page, [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in _turn()])
    for x in (0.3, 0.66):
        arc = [(x + 0.13 * math.cos(math.pi + t / 2), 0.72 + 0.16 * math.sin(math.pi + t / 2)) for t in _turn()]
        _draw(page, [*arc, arc[0]])
        _draw(page, [(x - 0.02, 0.72), (x - 0.02, 0.92), (x + 0.02, 0.92), (x + 0.02, 0.72)])


def _turn() -> list[float]:
    return [2 * math.pi * step / 18 for step in range(19)]


def _draw(page: Page, points: list[tuple[float, float]]) -> None:
    box = page.locator("#sketch-canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
