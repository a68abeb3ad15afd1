"""`POST /index`: add pictures, one answer for each; a bad picture costs itself alone."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.adding import Candidate, add_pictures, candidates_from_json, candidates_from_upload
from service.bodies import read_bounded_json
from service.problems import UnsupportedMediaType
from service.schemas import IndexAnswer, IndexRequest
from service.security import require
from service.state import ReadyState, ServiceState
from service.uploads import BytesLease, read_multipart

router = APIRouter(tags=["pictures"])

REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "The pictures, as repeated parts named `files`.",
                    },
                    "records": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "description": "JSON list of records, by the order of the files: "
                        '`[{"id": "a", "metadata": {"shop": "x"}, "caption": "…"}, …]`.',
                    },
                },
                "required": ["files"],
            },
            "encoding": {"records": {"contentType": "application/json"}},
        },
        "application/json": {
            "schema": {
                **IndexRequest.model_json_schema(),
                "examples": [{"images": [{"id": "a", "image": "…base64…", "metadata": {"shop": "x"}}]}],
            }
        },
    },
}


@router.post(
    "/index",
    dependencies=[require("write")],
    openapi_extra={"requestBody": REQUEST_BODY},
    summary="Add pictures",
)
async def add(request: Request, state: ReadyState) -> IndexAnswer:
    """Add pictures and wait until they are stored and searchable; idempotent by `id` and by content."""
    state.embedder.admission.refuse_when_full()
    async with state.upload_budget.lease() as lease:
        candidates = await read_candidates(request, state, lease)
        with state.embedder.admission.announce(len(candidates)):
            return await add_pictures(state, candidates)


async def read_candidates(request: Request, state: ServiceState, lease: BytesLease) -> list[Candidate]:
    """Read the pictures of a request, as multipart or as JSON.

    Raises:
        Problem: If the body as a whole cannot be read.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return candidates_from_upload(await read_multipart(request, state.upload_limits, lease))
    if content_type == "application/json":
        body = await read_bounded_json(request, state, lease)
        return await candidates_from_json(state, body)
    received = content_type or "no content type"
    raise UnsupportedMediaType(
        f"POST {request.url.path[:100]} takes multipart/form-data or application/json; received {received!r}."
    )
