"""`POST /search`: the nearest pictures to words, a picture or a stored picture, by both views."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Response
from pydantic import JsonValue

from index.collection import Page, SearchHit
from index.filters import Filter, parse_filter
from service.batching import Lane
from service.bodies import body_documentation, json_body
from service.links import image_links
from service.problems import NotFound, PayloadTooLarge
from service.schemas import HitOut, SearchAnswer, SearchRequest, ViewScores
from service.search import TwoViewQuery
from service.security import require
from service.state import ReadyState, ServiceState

router = APIRouter(tags=["search"])


@dataclass(frozen=True, slots=True)
class _ReadQuery:
    query: TwoViewQuery
    structural_text: str | None = None
    warnings: tuple[str, ...] = ()


@router.post(
    "/search",
    dependencies=[require("read")],
    openapi_extra=body_documentation(SearchRequest),
    response_model=SearchAnswer,
    summary="Find pictures",
)
async def search(state: ReadyState, body: Annotated[SearchRequest, json_body(SearchRequest)]) -> Response:
    """Find pictures by words, by a picture, or by a stored picture's id."""
    started = time.perf_counter()
    filter_tree = read_filter(body.filter)
    read = await _read_query(body, state)
    page = await _search_index(read.query, body, filter_tree, state)
    answer = SearchAnswer(
        hits=[_hit(hit, read.query) for hit in page.items],
        no_match=None,
        structure_weight=read.query.structure_weight,
        structural_text=read.structural_text,
        cursor=page.cursor,
        took_ms=round((time.perf_counter() - started) * 1000, 2),
        fingerprint=state.encoder.fingerprint,
        warnings=list(read.warnings),
    )
    # Rendered here: FastAPI would validate what was made a moment ago once more.
    return Response(answer.model_dump_json(), media_type="application/json")


def check_text_bytes(text: str, state: ServiceState) -> None:
    """Refuse a text longer than the operator allows."""
    num_bytes = len(text.encode())
    if num_bytes > state.settings.max_text_bytes:
        raise PayloadTooLarge(f"the text takes {num_bytes} bytes; at most {state.settings.max_text_bytes} are read")


def read_filter(value: JsonValue) -> Filter | None:
    """Parse a request's filter, if there is one."""
    return None if value is None else parse_filter(value)


async def _read_query(body: SearchRequest, state: ServiceState) -> _ReadQuery:
    weight = body.structure_weight
    if weight is None:
        weight = state.encoder.default_structure_weight
    if body.text is not None:
        check_text_bytes(body.text, state)
        text = await state.embedder.embed_text(body.text)
        query = TwoViewQuery(text.appearance, text.structure, weight)
        return _ReadQuery(query, text.structural_text, _text_warnings(text.num_tokens, text.is_truncated, state))
    if body.image is not None:
        state.embedder.admission.refuse_when_full()
        picture = await state.embedder.embed_picture(body.image, lane=Lane.INTERACTIVE)
        return _ReadQuery(TwoViewQuery(picture.appearance, picture.structure, weight))
    assert body.image_id is not None
    vectors = state.collection.vectors(body.image_id)  # one row by its key: quicker than a thread's turn
    if vectors is None:
        raise NotFound(f"no picture has the id {body.image_id!r}")
    return _ReadQuery(TwoViewQuery(*vectors, weight))


def _text_warnings(num_tokens: int, is_truncated: bool, state: ServiceState) -> tuple[str, ...]:
    if not is_truncated:
        return ()
    return (
        f"the text has {num_tokens} tokens and the model reads {state.encoder.context_length}: its end was not used",
    )


async def _search_index(
    query: TwoViewQuery, body: SearchRequest, filter_tree: Filter | None, state: ServiceState
) -> Page[SearchHit]:
    engine = state.collection.status().engine
    with state.metrics.search_seconds.labels(engine).time():
        return await anyio.to_thread.run_sync(
            lambda: state.collection.search(
                query.vector(),
                limit=body.limit,
                cursor=body.cursor,
                filter=filter_tree,
                min_score=body.min_score,
            )
        )


def _hit(hit: SearchHit, query: TwoViewQuery) -> HitOut:
    appearance, structure = query.scores(hit.appearance, hit.structure)
    return HitOut(
        id=hit.record.id,
        score=hit.score,
        scores=ViewScores(appearance=appearance, structure=structure),
        confidence=None,
        metadata=dict(hit.record.metadata),
        caption=hit.record.caption,
        width=hit.record.width,
        height=hit.record.height,
        links=image_links(hit.record.id),
    )
