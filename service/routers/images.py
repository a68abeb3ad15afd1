"""`/images`: what is stored, one by one and as files."""

from __future__ import annotations

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import JsonValue

from index.collection import ImageRecord
from index.filters import Kind
from index.metadata_summary import FieldSummary
from service.bodies import body_documentation, json_body
from service.conditional import holds_current
from service.images import encode_png, make_thumbnail
from service.links import image_links
from service.problems import InvalidRequest, MalformedRequest, NotFound
from service.querying import read_filter
from service.schemas import MAX_RESULTS, FieldOut, FieldsAnswer, FieldValue, ImageListAnswer, ImageOut, ImagePatch
from service.security import require
from service.state import ReadyState, ServiceState
from service.uploads import parse_json

router = APIRouter(prefix="/images", tags=["pictures"])
fields_router = APIRouter(tags=["pictures"])

ImageIdPath = Annotated[str, Path(min_length=1, max_length=200, description="The picture's id.")]
KIND_NAMES: dict[Kind, Literal["string", "number", "boolean"]] = {
    Kind.TEXT: "string",
    Kind.NUMBER: "number",
    Kind.BOOLEAN: "boolean",
}
THUMBNAIL_SIDES = (64, 1024)
# An id can be given to other content later, so a copy must be checked again before use.
CACHE_HEADERS = {"Cache-Control": "private, no-cache", "X-Content-Type-Options": "nosniff"}


@router.get("", dependencies=[require("read")], summary="List pictures")
async def list_images(
    state: ReadyState,
    limit: Annotated[int, Query(ge=1, le=MAX_RESULTS)] = 50,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    filter: Annotated[str | None, Query(max_length=2048, description="A filter, as JSON.")] = None,
) -> ImageListAnswer:
    """List records, newest change first; the cursor stays valid while pictures come and go."""
    filter_tree = read_filter(_json_parameter(filter))
    page = await anyio.to_thread.run_sync(
        lambda: state.collection.list_images(limit=limit, cursor=cursor, filter=filter_tree)
    )
    total = await anyio.to_thread.run_sync(state.collection.count, filter_tree)
    return ImageListAnswer(images=[_image_out(record) for record in page.items], cursor=page.cursor, total=total)


@fields_router.get("/fields", dependencies=[require("read")], summary="What metadata there is")
async def list_fields(state: ReadyState) -> FieldsAnswer:
    """List the fields that filters can name; the pictures added last speak for all of a large collection."""
    summaries = await anyio.to_thread.run_sync(state.collection.fields)
    return FieldsAnswer(fields=[_field_out(summary) for summary in summaries])


@router.get("/{image_id}", dependencies=[require("read")], summary="One record")
async def get_image(image_id: ImageIdPath, state: ReadyState) -> ImageOut:
    """Return a picture's record."""
    return _image_out(await _record(state, image_id))


@router.patch(
    "/{image_id}",
    dependencies=[require("write")],
    openapi_extra=body_documentation(ImagePatch),
    summary="Change metadata",
)
async def patch_image(
    image_id: ImageIdPath, state: ReadyState, body: Annotated[ImagePatch, json_body(ImagePatch)]
) -> ImageOut:
    """Replace a picture's metadata and/or caption."""
    record = await anyio.to_thread.run_sync(
        lambda: state.collection.update(image_id, metadata=body.metadata, caption=body.caption)
    )
    if record is None:
        raise _not_found(image_id)
    return _image_out(record)


@router.delete("/{image_id}", dependencies=[require("write")], status_code=204, summary="Delete a picture")
async def delete_image(image_id: ImageIdPath, state: ReadyState) -> Response:
    """Delete a picture; it is gone from searches when this answers."""
    if not await anyio.to_thread.run_sync(state.collection.delete, image_id):
        raise _not_found(image_id)
    return Response(status_code=204)


def _file_responses(media_type: str) -> dict[int | str, dict[str, object]]:
    return {
        200: {
            "content": {media_type: {"schema": {"type": "string", "format": "binary"}}},
            "description": "The file",
        },
        304: {"description": "The copy named by If-None-Match is current"},
    }


@router.get(
    "/{image_id}/file",
    dependencies=[require("read")],
    response_class=Response,
    responses=_file_responses("image/*"),
    summary="The original file",
)
async def get_file(image_id: ImageIdPath, state: ReadyState, request: Request) -> Response:
    """Return the file as it was added, byte for byte."""
    record = await _record(state, image_id)
    headers = _cache_headers(record.content_hash) | {"Content-Security-Policy": "sandbox"}
    if holds_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(await _original(state, image_id), media_type=record.media_type, headers=headers)


@router.get(
    "/{image_id}/thumbnail",
    dependencies=[require("read")],
    response_class=Response,
    responses=_file_responses("image/jpeg"),
    summary="A small JPEG",
)
async def get_thumbnail(
    image_id: ImageIdPath,
    state: ReadyState,
    request: Request,
    side: Annotated[int, Query(ge=THUMBNAIL_SIDES[0], le=THUMBNAIL_SIDES[1])] = 256,
) -> Response:
    """Return a JPEG whose longer side has at most `side` pixels."""
    record = await _record(state, image_id)
    headers = _cache_headers(f"{record.content_hash}-{side}")
    if holds_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    decoded = await state.embedder.decode(await _original(state, image_id), min_side=side)
    thumbnail = await anyio.to_thread.run_sync(make_thumbnail, decoded.rgb, side)
    return Response(thumbnail, media_type="image/jpeg", headers=headers)


@router.get(
    "/{image_id}/edges",
    dependencies=[require("read")],
    response_class=Response,
    responses=_file_responses("image/png"),
    summary="The edge map",
)
async def get_edges(image_id: ImageIdPath, state: ReadyState, request: Request) -> Response:
    """Return the edge map as the model sees it, white lines on black."""
    record = await _record(state, image_id)
    headers = _cache_headers(f"{record.content_hash}-{state.encoder.fingerprint}")
    if holds_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    edges = await state.embedder.edge_map(await _original(state, image_id))
    return Response(await anyio.to_thread.run_sync(encode_png, edges), media_type="image/png", headers=headers)


def _cache_headers(etag: str) -> dict[str, str]:
    return {**CACHE_HEADERS, "ETag": f'"{etag}"'}


async def _record(state: ServiceState, image_id: str) -> ImageRecord:
    record = await anyio.to_thread.run_sync(state.collection.get, image_id)
    if record is None:
        raise _not_found(image_id)
    return record


async def _original(state: ServiceState, image_id: str) -> bytes:
    data = await anyio.to_thread.run_sync(state.collection.original, image_id)
    if data is None:
        raise _not_found(image_id)
    return data


def _not_found(image_id: str) -> NotFound:
    return NotFound(f"no picture has the id {image_id!r}")


def _json_parameter(text: str | None) -> JsonValue:
    if text is None:
        return None
    try:
        return parse_json(text)
    except MalformedRequest as malformed:
        raise InvalidRequest(f"the query parameter `filter`: {malformed.detail}") from malformed


def _field_out(summary: FieldSummary) -> FieldOut:
    return FieldOut(
        name=summary.name if isinstance(summary.name, str) else list(summary.name),
        kinds=[KIND_NAMES[kind] for kind in summary.kinds],
        num_images=summary.num_images,
        values=[FieldValue(value=each.value, num_images=each.num_images) for each in summary.values],
        min=summary.minimum,
        max=summary.maximum,
    )


def _image_out(record: ImageRecord) -> ImageOut:
    return ImageOut(
        id=record.id,
        metadata=dict(record.metadata),
        caption=record.caption,
        media_type=record.media_type,
        width=record.width,
        height=record.height,
        num_bytes=record.num_bytes,
        content_hash=record.content_hash,
        fingerprint=record.fingerprint,
        created_at=record.created_at,
        updated_at=record.updated_at,
        links=image_links(record.id),
    )
