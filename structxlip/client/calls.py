"""Every call of the service, described once: both clients take their methods from here."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from structxlip.client.call import Call
from structxlip.client.pictures import Picture, picture_bytes, picture_name
from structxlip.client.queries import Include, Negative, SketchKind, Term, given, search_options
from structxlip.client.results import (
    AddResult,
    Embeddings,
    Explanation,
    ImagePage,
    ImageRecord,
    Info,
    MetadataField,
    Readiness,
    SearchResult,
    WatchedImage,
    Watchlist,
)


def search(
    text: str | None = None,
    *,
    image: Picture | None = None,
    image_id: str | None = None,
    sketch: Picture | None = None,
    query: Sequence[Term] | None = None,
    negative: Negative | None = None,
    structure_weight: float | None = None,
    limit: int = 10,
    cursor: str | None = None,
    filter: Mapping[str, Any] | None = None,
    min_score: float | None = None,
    only_confident: bool = False,
    include: Iterable[Include] = (),
) -> Call[SearchResult]:
    """Find pictures by words, a picture, a stored picture, a sketch, or several of these: give exactly one.

    Args:
        text: What to look for, in words.
        image: A picture to find others like.
        image_id: Likewise, one that is stored.
        sketch: A picture of strokes on any background; counts the structure alone unless ``structure_weight`` is given.
        query: 1 to 8 terms with weights.
        negative: What is not wanted: words, a term, or several.
        structure_weight: How much structure counts against appearance, 0 to 1; None takes the model's own.
        limit: How many hits at most.
        cursor: Of an earlier result of the same search, for the hits after it.
        filter: A condition on metadata: ``{"all": [{"field": "shop", "eq": "x"}, {"field": "price", "lt": 10}]}``.
        min_score: Hits below are left out.
        only_confident: Hits below the calibrated level are left out.
        include: ``["explanation"]`` explains each hit of a query with words.

    Raises:
        InvalidRequestError: If the service cannot read the query; `problem.errors` says which part.
        NotFoundError: If ``image_id`` is not stored.
    """
    terms = None if query is None else [term.to_json() for term in query]
    one = Term(text=text, image=image, image_id=image_id, sketch=sketch).to_json()
    options = search_options(
        negative=negative,
        structure_weight=structure_weight,
        limit=limit,
        cursor=cursor,
        filter=filter,
        min_score=min_score,
        only_confident=only_confident,
        include=include,
    )
    return Call("POST", "/search", _search_result, json={**one, **given(query=terms), **options})


def search_image(
    picture: Picture,
    *,
    kind: SketchKind = "picture",
    negative: Negative | None = None,
    structure_weight: float | None = None,
    limit: int = 10,
    cursor: str | None = None,
    filter: Mapping[str, Any] | None = None,
    min_score: float | None = None,
    only_confident: bool = False,
) -> Call[SearchResult]:
    """Find pictures like an uploaded picture or sketch; as `search`, without the third that base64 adds.

    Args:
        picture: In any form that `picture_bytes` takes.
        kind: ``"sketch"`` reads the picture as strokes on any background.
        negative: As in `search`, like the others.
    """
    options = search_options(
        negative=negative,
        structure_weight=structure_weight,
        limit=limit,
        cursor=cursor,
        filter=filter,
        min_score=min_score,
        only_confident=only_confident,
        include=(),
    )
    return Call(
        "POST",
        "/search/image",
        _search_result,
        files=[("file", picture_name(picture), picture_bytes(picture))],
        form={"kind": kind, "options": json.dumps(options)},
    )


def explain(
    text: str,
    *,
    image_id: str | None = None,
    image: Picture | None = None,
    structure_weight: float | None = None,
    overlay: bool = False,
) -> Call[Explanation]:
    """Say which phrase of a text meets which region of a picture: give ``image_id`` or ``image``.

    Args:
        structure_weight: How much structure counts against appearance, 0 to 1; None takes the model's own.
        overlay: Also draw the boxes of the best pairs on the picture.

    Raises:
        NotFoundError: If ``image_id`` is not stored.
    """
    terms = Term(text=text, image_id=image_id, image=image).to_json()
    body = {**terms, **given(structure_weight=structure_weight, overlay=overlay or None)}
    return Call("POST", "/explain", lambda response: Explanation.from_json(response.json()), json=body)


def embed(texts: Sequence[str] = (), images: Sequence[Picture] = ()) -> Call[Embeddings]:
    """Return the vectors of texts and pictures, of both views."""
    if isinstance(texts, str):
        raise TypeError("texts: expected a list of texts; received one text: write [text]")
    encoded = [base64.b64encode(picture_bytes(image)).decode("ascii") for image in images]
    body = {"texts": list(texts), "images": encoded}
    return Call("POST", "/embed", lambda response: Embeddings.from_json(response.json()), json=body)


def fields() -> Call[tuple[MetadataField, ...]]:
    """Return what metadata the collection holds: what a filter can ask for."""
    return Call("GET", "/fields", lambda response: tuple(map(MetadataField.from_json, response.json()["fields"])))


def info() -> Call[Info]:
    """Describe the model, the collection and the limits in force."""
    return Call("GET", "/info", lambda response: Info.from_json(response.json()))


def health() -> Call[bool]:
    """Return True when the process answers, which says nothing of the model; tried once."""
    return Call("GET", "/healthz", lambda response: bool(response.json()["status"] == "ok"), is_retried=False)


def readiness() -> Call[Readiness]:
    """Say whether the service can serve now, and if not, what is missing; tried once."""
    return Call(
        "GET",
        "/readyz",
        lambda response: Readiness.from_json(response.json()),
        accepts=frozenset({503}),
        is_retried=False,
    )


# /images


def image_page(
    *, limit: int = 50, cursor: str | None = None, filter: Mapping[str, Any] | None = None
) -> Call[ImagePage]:
    """Return one page of records, newest change first."""
    condition = None if filter is None else json.dumps(filter)
    params = given(limit=limit, cursor=cursor, filter=condition)
    return Call("GET", "/images", lambda response: ImagePage.from_json(response.json()), params=params)


def get_image(image_id: str) -> Call[ImageRecord]:
    """Return a picture's record.

    Raises:
        NotFoundError: If no picture has this id.
    """
    return Call("GET", image_path(image_id), _image_record)


def update_image(
    image_id: str, *, metadata: Mapping[str, Any] | None = None, caption: str | None = None
) -> Call[ImageRecord]:
    """Replace a picture's metadata, as a whole, and/or its caption; what is None stays."""
    return Call("PATCH", image_path(image_id), _image_record, json=given(metadata=metadata, caption=caption))


def delete_image(image_id: str) -> Call[None]:
    """Delete a picture; it is gone from searches when this returns.

    Raises:
        NotFoundError: If no picture has this id.
    """
    return Call("DELETE", image_path(image_id), _nothing, is_done_when_gone=True)


def image_file(image_id: str) -> Call[bytes]:
    """Return the original file, byte for byte."""
    return Call("GET", image_path(image_id, "/file"), _content)


def image_thumbnail(image_id: str, *, side: int = 256) -> Call[bytes]:
    """Return a JPEG whose longer side has at most ``side`` pixels, 64 to 1024."""
    return Call("GET", image_path(image_id, "/thumbnail"), _content, params={"side": side})


def image_edges(image_id: str) -> Call[bytes]:
    """Return the edge map as the model sees it: PNG, white lines on black."""
    return Call("GET", image_path(image_id, "/edges"), _content)


# /watchlists


def list_watchlists() -> Call[tuple[Watchlist, ...]]:
    """Return every watch list with its size."""
    return Call("GET", "/watchlists", lambda response: tuple(map(Watchlist.from_json, response.json()["watchlists"])))


def watched_images(name: str) -> Call[tuple[WatchedImage, ...]]:
    """Return the pictures of a watch list, oldest first.

    Raises:
        NotFoundError: If there is no such list.
    """
    return Call(
        "GET",
        watchlist_path(name),
        lambda response: tuple(map(WatchedImage.from_json, response.json()["images"])),
    )


def delete_watchlist(name: str) -> Call[None]:
    """Stop watching for every picture of a list.

    Raises:
        NotFoundError: If there is no such list.
    """
    return Call("DELETE", watchlist_path(name), _nothing, is_done_when_gone=True)


def delete_watched(name: str, image_id: str) -> Call[None]:
    """Stop watching for one picture.

    Raises:
        NotFoundError: If the list has no such picture.
    """
    return Call("DELETE", f"{watchlist_path(name)}/{_quoted(image_id)}", _nothing, is_done_when_gone=True)


# Adding, which `adding.py` puts together


@dataclass(frozen=True, slots=True)
class OutgoingPicture:
    """A picture as it was given, the bytes of its file, and its record as JSON."""

    picture: Picture
    data: bytes
    record: str


def send_pictures(path: str, pictures: Sequence[OutgoingPicture]) -> Call[list[AddResult]]:
    """Send pictures in one request, to `/index` or to a watch list; one result each, in their order."""

    def read(response: httpx.Response) -> list[AddResult]:
        items = response.json()["items"]
        return [AddResult.from_json(sent.picture, item) for sent, item in zip(pictures, items, strict=True)]

    return Call(
        "POST",
        path,
        read,
        files=[("files", picture_name(sent.picture), sent.data) for sent in pictures],
        form={"records": f"[{','.join(sent.record for sent in pictures)}]"},
    )


def image_path(image_id: str, part: str = "") -> str:
    """Return where a picture's record, or a part of it, is."""
    return f"/images/{_quoted(image_id)}{part}"


def watchlist_path(name: str) -> str:
    """Return where a watch list is."""
    return f"/watchlists/{_quoted(name)}"


def _quoted(name: str) -> str:
    if name in {"", ".", ".."}:
        raise ValueError(f"no picture and no list can be named {name!r}")
    return quote(name, safe="")


def _search_result(response: httpx.Response) -> SearchResult:
    return SearchResult.from_json(response.json())


def _image_record(response: httpx.Response) -> ImageRecord:
    return ImageRecord.from_json(response.json())


def _content(response: httpx.Response) -> bytes:
    return response.content


def _nothing(_: httpx.Response) -> None:
    return None
