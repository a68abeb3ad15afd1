"""The page's files over HTTP: what a browser is told to do with them, and that they need nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from service.routers.page import read_page_files

WEB = Path(__file__).parents[3] / "service" / "web"


def test_the_page_comes_with_a_policy_that_runs_only_its_own_files(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["style-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_kept_copy_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/web/app.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for header in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get("/web/app.js", headers={"If-None-Match": header})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert client.get("/web/app.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/web/dom.js").headers["etag"] != etag


def test_head_tells_the_same_without_the_body(client: httpx.Client) -> None:
    assert client.head("/").headers["content-length"] == str(len(client.get("/").content))


@pytest.mark.parametrize("path", ["nothing.js", "../app.py", "%2e%2e/app.py", "..%2f..%2fpyproject.toml", "", "styles"])
def test_what_is_no_file_of_the_page_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/web/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_every_file_is_served_and_every_module_is_fetched_at_once(client: httpx.Client) -> None:
    html = (WEB / "index.html").read_text()
    linked = set(re.findall(r'(?:href|src)="web/([^"]+)"', html))
    assert linked | {"index.html"} == set(read_page_files())
    for path in linked:
        assert client.get(f"/web/{path}").status_code == 200


def test_nothing_comes_from_elsewhere_and_no_script_stands_in_the_document() -> None:
    for path, file in read_page_files().items():
        text = file.body.decode()
        addresses = set(re.findall(r"""["'(](?:https?:)?//[^"')]+""", text)) - {'"http://www.w3.org/2000/svg'}
        assert addresses == set(), path
        assert "innerHTML" not in text, path
        assert not re.search(r"\s(style|on\w+)=\"", text) or path.endswith(".js"), path
    html = (WEB / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []
    assert "<style" not in html


def test_pictures_kept_by_the_browser_are_not_made_again(client: httpx.Client) -> None:
    from tests.support.plain_pictures import plain_jpegs

    first, second = plain_jpegs(2, seed=8)
    client.post("/index", files=[("files", ("a.jpg", first))], data={"records": '[{"id": "a"}]'})
    for part in ("file", "thumbnail", "thumbnail?side=64", "edges"):
        answer = client.get(f"/images/a/{part}")
        again = client.get(f"/images/a/{part}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), part
    held = client.get("/images/a/thumbnail").headers["etag"]
    assert client.get("/images/a/thumbnail?side=64").headers["etag"] != held
    client.post("/index", files=[("files", ("a.jpg", second))], data={"records": '[{"id": "a"}]'})
    assert client.get("/images/a/thumbnail", headers={"If-None-Match": held}).status_code == 200
