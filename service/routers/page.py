"""`GET /` and `GET /web/…`: the page, as plain files that this folder holds; nothing is built and nothing fetched.

The files are public, since they hold nothing of the collection: where API keys are on, the page asks for one.
They are read once, when the service is made, so that a request never reaches the file system.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from fastapi import APIRouter, Request, Response

from service.conditional import holds_current
from service.problems import NotFound

# Scripts, styles and requests come from here and nowhere else, none stand inside the document, and no string ever
# becomes HTML or script: so even a mistake in the page could not run what somebody wrote into metadata.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
PAGE_HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and checked by its ETag: an upgraded service is never met with old scripts
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Not left to the machine's own table of types, where `.js` is sometimes something else.
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"
METHODS: Final = ["GET", "HEAD"]


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, ready to be sent."""

    body: bytes
    media_type: str
    etag: str


def create_router() -> APIRouter:
    """Read the page's files and return the calls that serve them."""
    page_files = read_page_files()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=METHODS)
    async def page(request: Request) -> Response:
        return answer_with(request, page_files[INDEX])

    @router.api_route("/web/{path:path}", methods=METHODS)
    async def page_file(path: str, request: Request) -> Response:
        if path not in page_files:
            raise NotFound(f"the page has no file {path[:100]!r}")
        return answer_with(request, page_files[path])

    return router


def read_page_files() -> dict[str, PageFile]:
    """Return the files of `service/web` by their path within it."""
    return dict(_files_below(files("service") / "web", ""))


def _files_below(folder: Traversable, prefix: str) -> list[tuple[str, PageFile]]:
    found: list[tuple[str, PageFile]] = []
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            found += _files_below(entry, f"{path}/")
        else:
            found.append((path, read_file(entry)))
    return found


def read_file(entry: Traversable) -> PageFile:
    """Read one file, to be sent as what its name says."""
    body = entry.read_bytes()
    suffix = "." + entry.name.rpartition(".")[2]
    return PageFile(body, MEDIA_TYPES[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def answer_with(request: Request, file: PageFile, *, policy: str = CONTENT_SECURITY_POLICY) -> Response:
    """Send a file, or say that the copy which the browser has is the same."""
    headers = {**PAGE_HEADERS, "Content-Security-Policy": policy, "ETag": file.etag}
    if holds_current(request, file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.body, media_type=file.media_type, headers=headers)
