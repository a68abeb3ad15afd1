"""How long a person at the page waits: from the last key to the first result on the screen.

    python -m benchmarks.page_latency

Needs Chromium and the `dev` extra. The packaged samples are added to a service with the bundled model; each caption's
first sentence is typed with 60 ms between the keys; the wait ends with the frame that shows the first picture of the
final answer.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

from benchmarks import service_process
from benchmarks.results import summarise_milliseconds, write_result
from benchmarks.samples import SAMPLES

KEY_MILLISECONDS = 60
QUIET_MILLISECONDS = 900
CHROMIUM_ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run")
# The status line is written with every answer; what counts is the last one before the page is quiet.
WATCH = """() => {
    let typedAt = 0;
    document.getElementById("words").addEventListener("input", () => { typedAt = performance.now(); });
    const note = () => {
        const typed = typedAt;
        const look = () => {
            const picture = document.querySelector(".card-picture");
            if (typedAt !== typed) return;
            if (!picture?.complete || !picture.naturalWidth) requestAnimationFrame(look);
            else window.waited = performance.now() - typed;
        };
        requestAnimationFrame(look);
    };
    new MutationObserver(note).observe(document.getElementById("status"), { childList: true });
}"""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--name", default="page_latency")
    arguments = parser.parse_args()
    write_result(arguments.name, measure(arguments.model, arguments.queries), arguments=vars(arguments))


def measure(model: str, num_queries: int) -> dict[str, object]:
    """Return how long the first result took, over so many queries."""
    records = [json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder, service_process.running(model, Path(folder) / "data") as (url, _):
        _add(url, records)
        texts = [record["caption"].partition(".")[0] for record in records[:num_queries]]
        return {
            "last_key_to_first_result_ms": summarise_milliseconds(_type_each(url, texts)),
            "num_pictures": len(records),
        }


def _add(url: str, records: Sequence[dict[str, str]]) -> None:
    for record in records:
        file = SAMPLES / record["file"]
        httpx.post(f"{url}/index", files=[("files", (file.name, file.read_bytes()))], timeout=60).raise_for_status()


def _type_each(url: str, texts: Sequence[str]) -> list[float]:
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or "/usr/bin/chromium"
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_selector(".card.is-loaded")
        page.evaluate(WATCH)
        seconds = [_wait_for_result(page, text) for text in texts]
        browser.close()
    return seconds


def _wait_for_result(page: Page, text: str) -> float:
    page.locator("#words").fill("")
    page.wait_for_timeout(QUIET_MILLISECONDS)
    page.evaluate("window.waited = null")
    page.locator("#words").press_sequentially(text, delay=KEY_MILLISECONDS)
    page.wait_for_timeout(QUIET_MILLISECONDS)
    waited = page.evaluate("window.waited")
    if waited is None:
        raise TimeoutError(f"no result for {text!r} within {QUIET_MILLISECONDS} ms")
    return float(waited) / 1000


if __name__ == "__main__":
    main()
