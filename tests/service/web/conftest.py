"""A real browser on a real service: Debian's Chromium, driven by playwright, over the packaged sample pictures."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from tests.support.server import running_service

SAMPLES = Path(__file__).parents[3] / "service" / "samples"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1280, "height": 800}
# Every wait in these tests ends with what it waits for; this is for a machine that is busy with something else.
PATIENCE_MILLISECONDS = 20_000


# Of this package and no longer: while playwright runs, its event loop is the thread's running one.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; the tests are skipped where there is none."""
    if not Path(CHROMIUM).exists():
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MILLISECONDS)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def scenes_encoder() -> TwoViewEncoder:
    """The bundled model."""
    return load_encoder("scenes-tiny", device="cpu")


@pytest.fixture(scope="package")
def samples_url(scenes_encoder: TwoViewEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service that holds the sample pictures; the tests that share it change nothing."""
    settings = Settings(data=tmp_path_factory.mktemp("samples") / "collection")
    with running_service(settings, scenes_encoder) as url:
        add_samples(url)
        yield url


@pytest.fixture
def empty_url(scenes_encoder: TwoViewEncoder, tmp_path: Path) -> Iterator[str]:
    """A service of the test's own, without pictures."""
    with running_service(Settings(data=tmp_path / "collection"), scenes_encoder) as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A window of desktop size whose scripts must not fail."""
    with watched_page(browser) as page:
        yield page


class watched_page:  # noqa: N801 - a context manager, used as a function
    """Open a window; leaving fails the test when a script of the page failed or the policy stopped something.

    A request that the service refuses is also an error on the browser's console: ``allow`` names parts of such
    messages that the test provokes.
    """

    def __init__(self, browser: Browser, *, allow: tuple[str, ...] = (), **options: object) -> None:
        self._context = browser.new_context(**{"viewport": DESKTOP, **options})
        self._context.set_default_timeout(PATIENCE_MILLISECONDS)
        self._allow = allow
        self.errors: list[str] = []

    def __enter__(self) -> Page:
        page = self._context.new_page()
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("console", self._note)
        return page

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._context.close()
        if error is None:
            assert self.errors == []

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(part in message.text for part in self._allow):
            self.errors.append(message.text)


def samples() -> list[dict[str, object]]:
    """The records of the sample pictures."""
    return [json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text().splitlines()]


def add_samples(url: str, *, headers: dict[str, str] | None = None) -> None:
    """Add every sample picture."""
    records = samples()
    with httpx.Client(base_url=url, headers=headers, timeout=120) as client:
        for start in range(0, len(records), 20):
            batch = records[start : start + 20]
            answer = client.post(
                "/index",
                files=[("files", (str(r["file"]), (SAMPLES / str(r["file"])).read_bytes())) for r in batch],
                data={"records": json.dumps([{k: r[k] for k in ("id", "caption", "metadata")} for r in batch])},
            )
            assert {item["status"] for item in answer.json()["items"]} == {"created"}, answer.text


def encoded_pictures(url: str) -> float:
    """How many times the model has been asked for vectors of any kind."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("encode_seconds_count"))


def shown_ids(page: Page) -> list[str]:
    """The ids of the pictures in the gallery, in their order."""
    ids: list[str] = page.locator(".card").evaluate_all("cards => cards.map((card) => card.dataset.id)")
    return ids


def wait_for_hits(page: Page) -> None:
    """Wait until the gallery shows the hits of the query as it is now, not those of the query before."""
    expect(page.locator("#gallery")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#status")).to_have_text(re.compile("best first"))


def wait_for_ids(page: Page, ids: list[str]) -> None:
    """Wait until the gallery shows these pictures in this order."""
    wait_until(page, lambda: shown_ids(page) == ids)


def wait_for_other_ids(page: Page, ids: list[str]) -> None:
    """Wait until the gallery no longer shows these pictures in this order."""
    wait_until(page, lambda: shown_ids(page) != ids)


# Looked at from here: the page's policy lets no script of playwright's wait within the page.
def wait_until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait until something holds of the page; fail when it does not in time."""
    end = time.monotonic() + PATIENCE_MILLISECONDS / 1000
    while not holds():
        assert time.monotonic() < end, f"not so after {PATIENCE_MILLISECONDS} ms; the page shows {shown_ids(page)}"
        page.wait_for_timeout(50)
