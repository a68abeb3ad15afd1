"""`GET /docs`: every call, to read and to try in the browser; nothing is fetched from elsewhere.

FastAPI's own page loads Swagger UI from a content delivery network and starts it in the document. Here both of its
files come with a Python package, and the line that starts it is a file too, so that the page works without a network
and under a policy that runs nothing but these files.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

from service.problems import NotFound
from service.routers.page import METHODS, PageFile, answer_with, read_file

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
INDEX: Final = "index.html"


def create_router() -> APIRouter:
    """Read the files and return the calls that serve them."""
    reference_files = read_reference_files()
    router = APIRouter(include_in_schema=False)

    @router.api_route("/docs", methods=METHODS)
    async def reference(request: Request) -> Response:
        return answer_with(request, reference_files[INDEX], policy=CONTENT_SECURITY_POLICY)

    @router.api_route("/docs/{name}", methods=METHODS)
    async def reference_file(name: str, request: Request) -> Response:
        if name not in reference_files:
            raise NotFound(f"the reference has no file {name[:100]!r}")
        return answer_with(request, reference_files[name], policy=CONTENT_SECURITY_POLICY)

    return router


def read_reference_files() -> dict[str, PageFile]:
    """Return the files of `service/reference` and those of Swagger UI, by name."""
    swagger = files("fastapi_offline") / "static"
    ours = files("service") / "reference"
    entries = [ours / INDEX, ours / "start.js", swagger / "swagger-ui-bundle.js", swagger / "swagger-ui.css"]
    return {entry.name: read_file(entry) for entry in entries}
