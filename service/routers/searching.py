"""`POST /search` and `POST /search/image`: the nearest pictures to words, pictures and sketches, by both views."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from service.batching import Lane
from service.bodies import body_documentation, inlined_schema, json_body, validated
from service.links import link_paths
from service.problems import InvalidRequest, MalformedRequest
from service.querying import ReadQuestion, read_question
from service.schemas import Explanation, QueryTerm, SearchAnswer, SearchOptions, SearchRequest
from service.search.finding import Answer, Hit, find
from service.security import require
from service.state import ReadyState, ServiceState
from service.uploads import Upload, parse_json, read_multipart

router = APIRouter(tags=["search"])

FILE_FIELD, KIND_FIELD, OPTIONS_FIELD = "file", "kind", "options"
# Hits of a page that are explained, the best ones: each takes as many embeddings as it has regions.
MAX_EXPLAINED = 10
KINDS = {"picture": "image", "sketch": "sketch"}
UPLOAD_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    FILE_FIELD: {"type": "string", "format": "binary", "description": "A picture or a sketch."},
                    KIND_FIELD: {"type": "string", "enum": list(KINDS), "default": "picture"},
                    OPTIONS_FIELD: {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": inlined_schema(SearchOptions),
                        "description": "The other fields of `POST /search`, as one JSON object.",
                    },
                },
                "required": [FILE_FIELD],
            },
            "encoding": {OPTIONS_FIELD: {"contentType": "application/json"}},
        }
    },
}


@router.post(
    "/search",
    dependencies=[require("read")],
    openapi_extra=body_documentation(SearchRequest),
    response_model=SearchAnswer,
    summary="Find pictures",
)
async def search(state: ReadyState, body: Annotated[SearchRequest, json_body(SearchRequest)]) -> Response:
    """Find pictures by words, by a picture, by a stored picture's id, by a sketch, or by several of these."""
    return await _answer(state, body.terms, body)


@router.post(
    "/search/image",
    dependencies=[require("read")],
    openapi_extra={"requestBody": UPLOAD_BODY},
    response_model=SearchAnswer,
    summary="Find pictures by an uploaded one",
)
async def search_image(request: Request, state: ReadyState) -> Response:
    """Find pictures by an uploaded picture or sketch."""
    state.embedder.admission.refuse_when_full(Lane.INTERACTIVE)
    limits = replace(state.upload_limits, max_files=1, text_fields=frozenset({KIND_FIELD, OPTIONS_FIELD}))
    async with state.upload_budget.lease() as lease:
        term, options = _read_upload(await read_multipart(request, limits, lease))
        return await _answer(state, [term], options)


def _read_upload(upload: Upload) -> tuple[QueryTerm, SearchOptions]:
    unknown = {file.field for file in upload.files} - {FILE_FIELD}
    unknown |= set(upload.fields) - {KIND_FIELD, OPTIONS_FIELD}
    if unknown:
        raise InvalidRequest(
            f"unknown part {sorted(unknown)[0]!r}; POST /search/image takes parts named 'file', 'kind' and 'options'"
        )
    if not upload.files:
        raise InvalidRequest("no file received; send the picture as a part named 'file' with a file name")
    file = upload.files[0]
    if file.problem is not None:
        raise file.problem
    kind = upload.fields.get(KIND_FIELD, "picture")
    if kind not in KINDS:
        raise InvalidRequest(f"the part 'kind' is one of {', '.join(KINDS)}; received {kind[:50]!r}")
    try:
        options = parse_json(upload.fields.get(OPTIONS_FIELD, "{}"))
    except MalformedRequest as malformed:
        raise InvalidRequest(f"the part 'options': {malformed.detail}") from malformed
    term = QueryTerm.model_construct(text=None, image=None, image_id=None, sketch=None, weight=1.0)
    return term.model_copy(update={KINDS[kind]: file.data}), validated(SearchOptions, options, source="options")


async def _answer(state: ServiceState, terms: Sequence[QueryTerm], options: SearchOptions) -> Response:
    started = time.perf_counter()
    if "explanation" in options.include and all(term.text is None for term in terms):
        raise InvalidRequest("an explanation holds words against pictures; this query has none: leave `include` out")
    read = await read_question(state, terms, options)
    found = await _find(state, read)
    explanations = await _explain(state, terms, options, read, found)
    # A `SearchAnswer` in plain values: making models of them, and writing those, takes a tenth of a millisecond more.
    answer = {
        "hits": [_hit(hit, explanations.get(hit.record.id)) for hit in found.hits],
        "no_match": found.no_match,
        "false_accept_rate": found.false_accept_rate,
        "num_excluded": found.num_excluded,
        "structure_weight": read.question.query.structure_weight,
        "structural_text": read.structural_text,
        "cursor": found.cursor,
        "took_ms": round((time.perf_counter() - started) * 1000, 2),
        "fingerprint": state.encoder.fingerprint,
        "warnings": [*read.warnings, *found.warnings],
    }
    return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")


async def _find(state: ServiceState, read: ReadQuestion) -> Answer:
    question = read.question
    search = partial(find, state.collection, state.encoder.calibration, question)
    with state.metrics.search_seconds.labels(state.collection.engine).time():
        return await (state.search_turns.take(search) if question.is_plain else anyio.to_thread.run_sync(search))


async def _explain(
    state: ServiceState, terms: Sequence[QueryTerm], options: SearchOptions, read: ReadQuestion, found: Answer
) -> dict[str, Explanation]:
    """Explain the first hits, one after the other: regions are many, and other searches want to pass."""
    if "explanation" not in options.include:
        return {}
    text = next(term.text for term in terms if term.text is not None)
    phrases = await state.explainer.read_phrases(text)
    explained = {}
    for hit in found.hits[:MAX_EXPLAINED]:
        data = await anyio.to_thread.run_sync(state.collection.original, hit.record.id)
        if data is not None:  # deleted a moment ago
            explained[hit.record.id] = await state.explainer.explain(
                phrases, data, structure_weight=read.question.query.structure_weight
            )
    return explained


def _hit(hit: Hit, explanation: Explanation | None) -> dict[str, Any]:
    """Return a `HitOut` in plain values."""
    return {
        "id": hit.record.id,
        "score": hit.score,
        "scores": {"appearance": hit.appearance, "structure": hit.structure},
        "confidence": hit.confidence,
        "metadata": dict(hit.record.metadata),
        "caption": hit.record.caption,
        "width": hit.record.width,
        "height": hit.record.height,
        "links": link_paths(hit.record.id),
        "explanation": explanation,
    }
