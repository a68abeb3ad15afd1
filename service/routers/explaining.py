"""`POST /explain`: which phrase of a text meets which region of a picture."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter

from service.batching import Lane
from service.bodies import body_documentation, json_body
from service.problems import NotFound
from service.querying import check_text_bytes
from service.schemas import ExplainAnswer, ExplainRequest
from service.security import require
from service.state import ReadyState

router = APIRouter(tags=["search"])


@router.post(
    "/explain",
    dependencies=[require("read")],
    openapi_extra=body_documentation(ExplainRequest),
    summary="Why this picture",
)
async def explain(state: ReadyState, body: Annotated[ExplainRequest, json_body(ExplainRequest)]) -> ExplainAnswer:
    """Hold the phrases of a text against the regions of a picture.

    Each similarity is `(1 - w) * appearance + w * structure` of a phrase and a region, embedded as `POST /embed` embeds
    them: the phrase as a text, and what lies in the box of the upright picture (on whole pixels) as a picture.
    """
    check_text_bytes(body.text, state)
    state.embedder.admission.refuse_when_full(Lane.INTERACTIVE)
    data = body.image
    if data is None:
        assert body.image_id is not None
        data = await anyio.to_thread.run_sync(state.collection.original, body.image_id)
        if data is None:
            raise NotFound(f"no picture has the id {body.image_id!r}")
    weight = body.structure_weight
    if weight is None:
        weight = state.encoder.default_structure_weight
    found = await state.explainer.explain(await state.explainer.read_phrases(body.text), data, structure_weight=weight)
    overlay = await state.explainer.draw(found, data) if body.overlay else None
    return ExplainAnswer(**dict(found), structure_weight=weight, overlay=overlay, fingerprint=state.encoder.fingerprint)
