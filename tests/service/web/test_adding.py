"""Adding pictures on the page, and what becomes of hostile metadata."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.security import KeyStore, create_key
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from tests.service.web.conftest import SAMPLES, add_samples, shown_ids, wait_for_hits, wait_until, watched_page
from tests.support.server import running_service


def test_an_empty_collection_asks_for_pictures_and_takes_them(page: Page, empty_url: str, tmp_path: Path) -> None:
    page.goto(empty_url)
    expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()
    page.locator(".notice").get_by_role("button", name="Add pictures").click()
    sheet = page.get_by_role("dialog", name="Add pictures")
    expect(sheet).to_contain_text("up to 20 MB each")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((SAMPLES / "scene-01.jpg").read_bytes()[:900])
    text = tmp_path / "notes.png"
    text.write_text("no picture")
    good = [SAMPLES / f"scene-0{n}.jpg" for n in range(6)]
    page.locator("#adding-files").set_input_files([*good[:3], broken, text, *good[3:]])
    expect(page.locator("#adding-summary")).to_have_text("6 of 8 added, 2 not taken")
    expect(page.locator("#adding-progress")).to_have_js_property("value", 1)
    rows = sheet.locator(".adding-file")
    expect(rows).to_have_count(8)
    expect(rows.filter(has_text="scene-04.jpg")).to_contain_text("added")
    failed = sheet.locator(".is-failed")
    expect(failed).to_have_count(2)
    api_problem = _problem_of(empty_url, broken)
    expect(failed.filter(has_text="broken.jpg")).to_contain_text(api_problem)
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("6 pictures, newest first")
    expect(page.locator(".card")).to_have_count(6)
    page.get_by_role("button", name="Add pictures").click()
    page.locator("#adding-files").set_input_files(good[0])
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("already there")


def _problem_of(url: str, path: Path) -> str:
    answer = httpx.post(f"{url}/index", files=[("files", (path.name, path.read_bytes()))]).json()
    return str(answer["items"][0]["problem"]["detail"])


def test_pictures_are_added_where_they_are_dropped(page: Page, empty_url: str) -> None:
    from tests.service.web.test_searching import _send_file

    page.goto(empty_url)
    page.get_by_role("button", name="Add pictures").first.click()
    _send_file(page, "drop", SAMPLES / "scene-20.jpg")
    expect(page.locator("#adding-summary")).to_have_text("1 of 1 added")
    expect(page.locator(".term")).to_have_count(0)


def test_a_file_over_the_limit_is_not_even_sent(
    browser: Browser, scenes_encoder: TwoViewEncoder, tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path / "collection", max_file_bytes=20_000)
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(30_000))
    with running_service(settings, scenes_encoder) as url, watched_page(browser) as page:
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.url.endswith("/index") else None)
        page.goto(url)
        page.locator("#open-adding").click()
        page.locator("#adding-files").set_input_files(large)
        expect(page.locator(".adding-file")).to_contain_text("30 KB are more than the 20 KB that the service takes")
        assert sent == []


def test_a_busy_service_is_asked_again(browser: Browser, empty_url: str) -> None:
    problem = {"title": "Too many requests", "status": 429, "detail": "The queue is full."}
    with watched_page(browser, allow=("429",)) as page:
        page.goto(empty_url)
        page.route(
            "**/index",
            lambda route: route.fulfill(status=429, json=problem, headers={"Retry-After": "1"}),
            times=1,
        )
        page.locator("#open-adding").click()
        page.locator("#adding-files").set_input_files([SAMPLES / "scene-00.jpg", SAMPLES / "scene-01.jpg"])
        expect(page.locator(".adding-file").first).to_contain_text("the service is busy, waiting")
        expect(page.locator("#adding-summary")).to_have_text("2 of 2 added")


HOSTILE = (
    "<img src=x onerror='window.wasRun=true'>",
    "<script>window.wasRun = true</script>",
    '"><svg onload="window.wasRun=true">',
    "javascript:window.wasRun=true",
    "{{constructor.constructor('window.wasRun=true')()}}",
)


def test_hostile_metadata_stays_text(page: Page, empty_url: str) -> None:
    records = [
        {
            "id": f"{text.replace('/', '∕')} {number}",
            "caption": text,
            "metadata": {text: text, "list": [text, {"deep": text}], "number": number},
        }
        for number, text in enumerate(HOSTILE)
    ]
    files = [("files", (f"{n}.jpg", (SAMPLES / f"scene-0{n}.jpg").read_bytes())) for n in range(len(HOSTILE))]
    added = httpx.post(f"{empty_url}/index", files=files, data={"records": json.dumps(records)}).json()
    assert {item["status"] for item in added["items"]} == {"created"}, added
    page.goto(empty_url)
    expect(page.locator(".card")).to_have_count(len(HOSTILE))
    if page.locator("#open-filters").is_visible():
        page.locator("#open-filters").click()
    for record in records:
        page.locator(".card").filter(has=page.get_by_alt_text(str(record["caption"]), exact=True)).click()
        detail = page.get_by_role("dialog")
        expect(detail.locator(".explained")).to_have_text(str(record["caption"]))
        expect(detail.locator("dd").filter(has_text=str(record["caption"])).first).to_be_visible()
        page.keyboard.press("Escape")
        expect(detail).to_be_hidden()
    page.locator("#words").fill(HOSTILE[0])
    wait_for_hits(page)
    assert page.evaluate("window.wasRun") is None
    assert page.locator("main img:not(.card-picture, .card-edges), main svg, main script").count() == 0


def test_the_policy_lets_no_string_become_html(browser: Browser, samples_url: str) -> None:
    with watched_page(browser, allow=("TrustedHTML",)) as page:
        page.goto(samples_url)
        expect(page.locator(".card")).to_have_count(40)
        for script in (
            "document.body.innerHTML = '<b>x</b>'",
            "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
            "document.write('x')",
        ):
            refused = page.evaluate(f"() => {{ try {{ {script}; return false; }} catch {{ return true; }} }}")
            assert refused, script
        expect(page.locator(".card")).to_have_count(40)


@pytest.fixture
def keyed(scenes_encoder: TwoViewEncoder, tmp_path: Path) -> dict[str, str]:
    """Keys of two callers, and the file that holds them."""
    file = tmp_path / "keys.json"
    return {
        "file": str(file),
        "reader": create_key(file, "reader", ["read"]),
        "writer": create_key(file, "writer", ["read", "write"]),
    }


def test_a_key_is_asked_for_and_kept(
    browser: Browser, keyed: dict[str, str], scenes_encoder: TwoViewEncoder, tmp_path: Path
) -> None:
    settings = Settings(data=tmp_path / "collection", api_keys=Path(keyed["file"]))
    keys = KeyStore.load(Path(keyed["file"]))
    with (
        running_service(settings, scenes_encoder, keys=keys) as url,
        watched_page(browser, allow=("401", "403")) as page,
    ):
        add_samples(url, headers={"X-API-Key": keyed["writer"]})
        page.goto(url)
        question = page.get_by_role("dialog", name="An API key is needed")
        expect(question).to_be_visible()
        page.keyboard.press("Escape")
        expect(question).to_be_visible()
        page.get_by_role("textbox", name="API key").fill("sxl_wrong")
        page.keyboard.press("Enter")
        expect(question).to_contain_text("That key is not valid")
        page.get_by_role("textbox", name="API key").fill(keyed["reader"])
        page.get_by_role("button", name="Continue").click()
        expect(question).to_be_hidden()
        expect(page.locator(".card")).to_have_count(40)
        picture = page.locator(".card-picture").first
        expect(picture).to_have_js_property("complete", True)
        wait_until(page, lambda: picture.evaluate("image => image.naturalWidth") > 0)
        page.locator("#words").fill("a boat")
        wait_for_hits(page)
        page.reload()  # this tab keeps the key
        expect(page.locator(".card")).to_have_count(40)
        assert shown_ids(page)
        page.get_by_role("button", name="Add pictures").click()
        page.locator("#adding-files").set_input_files(SAMPLES / "scene-00.jpg")
        expect(page.locator(".adding-file")).to_contain_text("this call needs 'write'")
