"""`/watchlists`: pictures that every picture added is held against."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Path, Request, Response

from index.collection import ImageRecord
from service.adding import watch_pictures
from service.problems import NotFound
from service.routers.adding import REQUEST_BODY, read_candidates
from service.schemas import IndexAnswer, WatchedImageOut, WatchlistAnswer, WatchlistOut, WatchlistsAnswer
from service.security import require
from service.state import ReadyState

router = APIRouter(prefix="/watchlists", tags=["watch lists"])

ListName = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$",
        description="Letters, digits, `.`, `_` and `-`; at most 64.",
    ),
]
WatchedId = Annotated[str, Path(min_length=1, max_length=200, description="The picture's id in the list.")]
UPLOAD: dict[str, Any] = {"requestBody": REQUEST_BODY}


@router.post("/{name}", dependencies=[require("write")], openapi_extra=UPLOAD, summary="Watch for pictures")
async def watch(name: ListName, request: Request, state: ReadyState) -> IndexAnswer:
    """Put pictures on a list; from now on `POST /index` says which of them a new picture resembles."""
    state.embedder.admission.refuse_when_full()
    async with state.upload_budget.lease() as lease:
        candidates = await read_candidates(request, state, lease)
        with state.embedder.admission.announce(len(candidates)):
            return await watch_pictures(state, name, candidates)


@router.get("", dependencies=[require("read")], summary="Every list")
async def list_watchlists(state: ReadyState) -> WatchlistsAnswer:
    """Return the lists with the number of their pictures, by name."""
    names = await anyio.to_thread.run_sync(state.watchlists.names)
    return WatchlistsAnswer(watchlists=[WatchlistOut(name=name, num_images=num) for name, num in names.items()])


@router.get("/{name}", dependencies=[require("read")], summary="One list")
async def get_watchlist(name: ListName, state: ReadyState) -> WatchlistAnswer:
    """Return the pictures of a list, oldest first."""
    images = await anyio.to_thread.run_sync(state.watchlists.images, name)
    if not images:
        raise _no_list(name)
    return WatchlistAnswer(name=name, images=[_image_out(image_id, record) for image_id, record in images])


@router.delete("/{name}", dependencies=[require("write")], status_code=204, summary="Delete a list")
async def delete_watchlist(name: ListName, state: ReadyState) -> Response:
    """Stop watching for every picture of a list."""
    if not await anyio.to_thread.run_sync(state.watchlists.delete_list, name):
        raise _no_list(name)
    return Response(status_code=204)


@router.delete("/{name}/{image_id}", dependencies=[require("write")], status_code=204, summary="Delete from a list")
async def delete_watched(name: ListName, image_id: WatchedId, state: ReadyState) -> Response:
    """Stop watching for one picture."""
    if not await anyio.to_thread.run_sync(state.watchlists.delete, name, image_id):
        raise NotFound(f"the watch list {name!r} has no picture {image_id!r}")
    return Response(status_code=204)


def _no_list(name: str) -> NotFound:
    return NotFound(f"there is no watch list {name!r}; POST pictures to /watchlists/{name} to make it")


def _image_out(image_id: str, record: ImageRecord) -> WatchedImageOut:
    return WatchedImageOut(
        id=image_id,
        content_hash=record.content_hash,
        media_type=record.media_type,
        width=record.width,
        height=record.height,
        caption=record.caption,
        created_at=record.created_at,
    )
