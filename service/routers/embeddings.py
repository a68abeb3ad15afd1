"""`POST /embed` and `POST /v1/embeddings`: raw vectors of texts and pictures."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Annotated

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray

from service.batching import Lane
from service.bodies import body_documentation, json_body
from service.encoding import EmbeddedText, OneView, View
from service.problems import InvalidRequest
from service.querying import check_text_bytes
from service.schemas import (
    EmbedAnswer,
    EmbedRequest,
    ImageEmbedding,
    OpenAiEmbedding,
    OpenAiEmbeddingAnswer,
    OpenAiEmbeddingRequest,
    OpenAiUsage,
    TextEmbedding,
)
from service.security import require
from service.state import ServiceState, State

router = APIRouter(tags=["embeddings"])


@router.post(
    "/embed",
    dependencies=[require("read")],
    openapi_extra=body_documentation(EmbedRequest),
    summary="Vectors of both views",
)
async def embed(state: State, body: Annotated[EmbedRequest, json_body(EmbedRequest)]) -> EmbedAnswer:
    """Embed texts and pictures; unit vectors of both views."""
    for text in body.texts:
        check_text_bytes(text, state)
    state.embedder.admission.refuse_when_full()
    texts, images = await asyncio.gather(
        asyncio.gather(*(state.embedder.embed_text(text, lane=Lane.BULK) for text in body.texts)),
        asyncio.gather(*(state.embedder.embed_picture(image, lane=Lane.BULK) for image in body.images)),
    )
    return EmbedAnswer(
        texts=[_text_embedding(text) for text in texts],
        images=[
            ImageEmbedding(appearance=image.appearance.tolist(), structure=image.structure.tolist()) for image in images
        ],
        dimension=state.encoder.dimension,
        fingerprint=state.encoder.fingerprint,
    )


@router.post(
    "/v1/embeddings",
    dependencies=[require("read")],
    openapi_extra=body_documentation(OpenAiEmbeddingRequest),
    summary="OpenAI-shaped vectors",
)
async def openai_embeddings(
    state: State, body: Annotated[OpenAiEmbeddingRequest, json_body(OpenAiEmbeddingRequest)]
) -> OpenAiEmbeddingAnswer:
    """Embed texts (or `data:` URIs of pictures) and answer in the OpenAI shape."""
    inputs = [body.input] if isinstance(body.input, str) else body.input
    embedded = await asyncio.gather(*(_embed_input(value, body.view, state) for value in inputs))
    num_tokens = sum(item.num_tokens for item in embedded)
    return OpenAiEmbeddingAnswer(
        data=[
            OpenAiEmbedding(index=index, embedding=_encoded(item.vector, body.encoding_format))
            for index, item in enumerate(embedded)
        ],
        model=state.encoder.name,
        usage=OpenAiUsage(prompt_tokens=num_tokens, total_tokens=num_tokens),
    )


async def _embed_input(value: str, view: View, state: ServiceState) -> OneView:
    if not value.startswith("data:image/"):
        check_text_bytes(value, state)
        return await state.embedder.embed_text_view(value, view, lane=Lane.BULK)
    state.embedder.admission.refuse_when_full()
    try:
        data = base64.b64decode(value.partition(",")[2], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("the data: URI does not hold valid base64") from error
    return await state.embedder.embed_picture_view(data, view, lane=Lane.BULK)


def _encoded(vector: NDArray[np.float32], encoding_format: str) -> list[float] | str:
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _text_embedding(text: EmbeddedText) -> TextEmbedding:
    return TextEmbedding(
        appearance=text.appearance.tolist(),
        structure=text.structure.tolist(),
        structural_text=text.structural_text,
        num_tokens=text.num_tokens,
        is_truncated=text.is_truncated,
    )
