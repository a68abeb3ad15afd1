"""`/docs` in a real browser: the calls are there, without a network and without a word on the console."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from service.routers.reference import read_reference_files
from tests.service.web.conftest import watched_page

REFERENCE = Path(__file__).parents[3] / "service" / "reference"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_call_is_listed_and_nothing_is_asked_of_another_server(
    browser: Browser, samples_url: str, scheme: str
) -> None:
    asked: list[str] = []

    def pass_on(route: Route) -> None:
        asked.append(route.request.url)
        if route.request.url.startswith(f"{samples_url}/"):
            route.continue_()
        else:
            route.abort()

    with watched_page(browser, color_scheme=scheme) as page:
        page.route("**/*", pass_on)
        page.goto(f"{samples_url}/docs")
        expect(page.get_by_role("heading", name=re.compile("StructXLIP search"))).to_be_visible()
        document = httpx.get(f"{samples_url}/openapi.json").json()
        operations = {
            (method, path)
            for path, methods in document["paths"].items()
            for method in methods
            if method != "parameters"
        }
        expect(page.locator(".opblock")).to_have_count(len(operations))
        listed = page.locator(".opblock-summary-path").evaluate_all("rows => rows.map((row) => row.dataset.path)")
        assert set(listed) == {path for _, path in operations}
    assert len(asked) >= 5
    assert [url for url in asked if not url.startswith((f"{samples_url}/", "data:"))] == []


def test_a_call_can_be_tried(browser: Browser, samples_url: str) -> None:
    with watched_page(browser) as page:
        page.goto(f"{samples_url}/docs")
        call = page.locator(".opblock", has=page.locator('[data-path="/healthz"]'))
        call.locator(".opblock-summary-control").click()
        call.get_by_role("button", name="Try it out").click()
        call.get_by_role("button", name="Execute").click()
        expect(call.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")


def test_the_policy_lets_no_script_stand_in_the_document(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert re.findall(r"<script(?![^>]*\ssrc=)", answer.text) == []


def test_every_file_that_the_document_names_is_served_and_kept(client: httpx.Client) -> None:
    named = set(re.findall(r'(?:href|src)="docs/([^"]+)"', (REFERENCE / "index.html").read_text()))
    assert named | {"index.html"} == set(read_reference_files())
    for name in named:
        answer = client.get(f"/docs/{name}")
        assert answer.status_code == 200
        again = client.get(f"/docs/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/docs/nothing.js", "/docs/..%2fapp.py", "/docs/oauth2-redirect", "/redoc"])
def test_what_is_no_file_of_the_reference_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404
