"""From a search request to a question for the collection: every term embedded, or taken from the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from index.filters import Filter, parse_filter
from service.batching import Lane
from service.problems import InvalidRequest, NotFound, PayloadTooLarge
from service.schemas import NegativeTerm, QueryTerm, SearchOptions
from service.search.finding import Question
from service.search.negatives import make_exclusions, with_penalty
from service.search.queries import Term, combine
from service.state import ServiceState
from structxlip.calibration import QueryKind


@dataclass(frozen=True, slots=True)
class EmbeddedTerm:
    """One term of a request with its vectors, and what a caller is told of it.

    Attributes:
        term: For the query algebra.
        structural_text: What the structural view read of a text.
        warnings: About this term.
    """

    term: Term
    structural_text: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """A question, and what a caller is told of how it was read."""

    question: Question
    structural_text: str | None
    warnings: tuple[str, ...]


async def read_question(state: ServiceState, terms: Sequence[QueryTerm], options: SearchOptions) -> ReadQuestion:
    """Embed what is looked for and what is not, and put the question together.

    Raises:
        InvalidRequest: If the request asks for what this model or this query cannot give.
        NotFound: If a stored picture is named that is not there.
    """
    calibration, default = state.encoder.calibration, state.encoder.default_structure_weight
    if options.only_confident and calibration is None:
        raise InvalidRequest(
            "only_confident needs a calibrated model, and this one carries none: leave it out, use min_score, "
            "or calibrate the checkpoint with `structxlip calibrate`"
        )
    condition = read_filter(options.filter)
    read = [await _embedded(state, term) for term in terms]
    negatives = [(await _embedded(state, term)) for term in options.negatives]
    query = combine([each.term for each in read], structure_weight=options.structure_weight, default_weight=default)
    away = [each.term for each in negatives]
    question = Question(
        query=with_penalty(query, away),
        exclusions=make_exclusions(
            away, query, structure_weight=options.structure_weight, default_weight=default, calibration=calibration
        ),
        limit=options.limit,
        cursor=options.cursor,
        filter=condition,
        min_score=options.min_score,
        only_confident=options.only_confident,
    )
    texts = [each.structural_text for each in read if each.structural_text is not None]
    warnings = tuple(warning for each in (*read, *negatives) for warning in each.warnings)
    return ReadQuestion(question, "; ".join(texts) if texts else None, warnings)


def check_text_bytes(text: str, state: ServiceState) -> None:
    """Refuse a text longer than the operator allows."""
    num_bytes = len(text.encode())
    if num_bytes > state.settings.max_text_bytes:
        raise PayloadTooLarge(f"the text takes {num_bytes} bytes; at most {state.settings.max_text_bytes} are read")


def read_filter(value: JsonValue) -> Filter | None:
    """Parse a request's filter, if there is one."""
    return None if value is None else parse_filter(value)


async def _embedded(state: ServiceState, term: NegativeTerm) -> EmbeddedTerm:
    weight = term.weight if isinstance(term, QueryTerm) else 1.0
    if term.text is not None:
        return await _embedded_text(state, term.text, weight)
    if term.image is not None:
        vectors = await _embedded_picture(state, term.image)
        return EmbeddedTerm(Term(QueryKind.PICTURE, *vectors, weight))
    if term.sketch is not None:
        structure = await _embedded_sketch(state, term.sketch)
        return EmbeddedTerm(Term(QueryKind.SKETCH, None, structure, weight))
    assert term.image_id is not None
    stored = state.collection.vectors(term.image_id)  # one row by its key: quicker than a thread's turn
    if stored is None:
        raise NotFound(f"no picture has the id {term.image_id!r}")
    return EmbeddedTerm(Term(QueryKind.PICTURE, *stored, weight))


async def _embedded_text(state: ServiceState, text: str, weight: float) -> EmbeddedTerm:
    check_text_bytes(text, state)
    found = await state.query_cache.get(("text", text), lambda: state.embedder.embed_text(text))
    warnings: tuple[str, ...] = ()
    if found.is_truncated:
        told = f"the text has {found.num_tokens} tokens and the model reads {state.encoder.context_length}"
        warnings = (f"{told}: its end was not used",)
    term = Term(QueryKind.TEXT, found.appearance, found.structure, weight)
    return EmbeddedTerm(term, found.structural_text, warnings)


async def _embedded_picture(state: ServiceState, data: bytes) -> tuple[Any, Any]:
    async def embed() -> tuple[Any, Any]:
        embedded = await state.embedder.embed_picture(data, lane=Lane.INTERACTIVE)
        return embedded.appearance, embedded.structure

    vectors: tuple[Any, Any] = await _of_content(state, "picture", data, embed)
    return vectors


async def _embedded_sketch(state: ServiceState, data: bytes) -> Any:
    return await _of_content(state, "sketch", data, lambda: state.embedder.embed_sketch(data))


async def _of_content(
    state: ServiceState, kind: str, data: bytes, embed: Callable[[], Coroutine[Any, Any, Any]]
) -> Any:
    async def admitted() -> Any:
        state.embedder.admission.refuse_when_full(Lane.INTERACTIVE)
        return await embed()

    return await state.query_cache.get((kind, hashlib.sha256(data).digest()), admitted)
