"""Adding pictures: pair each file with its record, embed what is new, store what came through."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.collection import AddOutcome, NewImage
from service.batching import Lane
from service.bodies import validated
from service.embedding import PictureFacts
from service.problems import ImageProblem, InvalidRequest, MalformedRequest, PayloadTooLarge, Problem
from service.schemas import ImageIn, IndexAnswer, IndexItemOut, IndexRequest, ProblemOut, RecordIn, ResemblanceOut
from service.state import RECORDS_FIELD, ServiceState
from service.uploads import Upload, parse_json

Vector = NDArray[np.float32]
Store = Callable[[Sequence[NewImage]], Sequence[AddOutcome]]
FILES_FIELD = "files"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One picture as it came in: its record and bytes, or what is wrong with it."""

    record: RecordIn | None
    data: bytes | None
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class ReadyPicture:
    """A picture that decoded and embedded."""

    image_id: str
    record: RecordIn
    data: bytes
    facts: PictureFacts
    appearance: Vector
    structure: Vector


def candidates_from_upload(upload: Upload) -> list[Candidate]:
    """Pair uploaded files with their records, by order."""
    files = [file for file in upload.files if file.field == FILES_FIELD]
    unknown = {file.field for file in upload.files} - {FILES_FIELD}
    unknown |= set(upload.fields) - {RECORDS_FIELD}
    if unknown:
        raise InvalidRequest(
            f"unknown part {sorted(unknown)[0]!r}; POST /index takes parts named 'files' and one named 'records'"
        )
    if not files:
        raise InvalidRequest("no file received; send each picture as a part named 'files' with a file name")
    records = _parse_records(upload.fields.get(RECORDS_FIELD), len(files))
    return [_with_record(record, file.data, file.problem) for record, file in zip(records, files, strict=True)]


async def candidates_from_json(state: ServiceState, body: JsonValue) -> list[Candidate]:
    """Read pictures sent as base64 (or by URL, where that is on)."""
    request = validated(IndexRequest, body, source="body")
    if len(request.images) > state.settings.max_files:
        raise PayloadTooLarge(
            f"{len(request.images)} pictures in one request; at most {state.settings.max_files} are taken"
        )
    return list(await asyncio.gather(*(_json_candidate(state, value) for value in request.images)))


async def add_pictures(state: ServiceState, candidates: Sequence[Candidate]) -> IndexAnswer:
    """Embed the good ones, store them in one durable step, and say what each of them resembles on a watch list."""
    prepared, answer = await _prepare_and_store(state, candidates, state.collection.add)
    items = [
        item.model_copy(update={"resembles": await _resembles(state, picture)})
        if isinstance(picture, ReadyPicture)
        else item
        for picture, item in zip(prepared, answer.items, strict=True)
    ]
    return answer.model_copy(update={"items": items})


async def watch_pictures(state: ServiceState, name: str, candidates: Sequence[Candidate]) -> IndexAnswer:
    """Embed the good ones and put them on a watch list, in one durable step."""
    _, answer = await _prepare_and_store(state, candidates, partial(state.watchlists.add, name))
    return answer


async def _prepare_and_store(
    state: ServiceState, candidates: Sequence[Candidate], store: Store
) -> tuple[Sequence[ReadyPicture | Problem], IndexAnswer]:
    prepared = await asyncio.gather(*(_prepare(state, candidate) for candidate in candidates))
    _count_failures(state, prepared)
    ready = [item for item in prepared if isinstance(item, ReadyPicture)]
    outcomes = iter(await _store(ready, store))
    items = [
        _stored_item(next(outcomes)) if isinstance(item, ReadyPicture) else _failed_item(candidate, item)
        for candidate, item in zip(candidates, prepared, strict=True)
    ]
    return prepared, IndexAnswer(items=items, fingerprint=state.encoder.fingerprint)


async def _resembles(state: ServiceState, picture: ReadyPicture) -> list[ResemblanceOut]:
    found = await anyio.to_thread.run_sync(state.watchlists.find, picture.appearance, picture.structure)
    return [
        ResemblanceOut(
            watchlist=each.watchlist,
            id=each.id,
            score=each.found.score,
            structure_weight=each.found.structure_weight,
            confidence=each.found.confidence,
        )
        for each in found
    ]


async def _prepare(state: ServiceState, candidate: Candidate) -> ReadyPicture | Problem:
    if candidate.problem is not None:
        return candidate.problem
    assert candidate.record is not None
    assert candidate.data is not None
    try:
        return await _embed(state, candidate.record, candidate.data)
    except Problem as problem:
        return problem


def _count_failures(state: ServiceState, prepared: Sequence[ReadyPicture | Problem]) -> None:
    for item in prepared:
        if isinstance(item, ImageProblem):
            state.metrics.rejected_total.labels(item.type.rpartition("/")[2].replace("-", "_")).inc()


async def _embed(state: ServiceState, record: RecordIn, data: bytes) -> ReadyPicture:
    content_hash = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
    image_id = record.id or f"sha256-{content_hash[:32]}"
    known = await anyio.to_thread.run_sync(state.collection.find_content, content_hash)
    if known is not None:  # the same bytes were embedded by the same model before
        facts = PictureFacts(content_hash, known.record.media_type, known.record.width, known.record.height)
        return ReadyPicture(image_id, record, data, facts, known.appearance, known.structure)
    embedded = await state.embedder.embed_picture(data, lane=Lane.BULK)
    return ReadyPicture(image_id, record, data, embedded.facts, embedded.appearance, embedded.structure)


async def _store(ready: Sequence[ReadyPicture], store: Store) -> Sequence[AddOutcome]:
    if not ready:
        return []
    images = [
        NewImage(
            id=picture.image_id,
            content=picture.data,
            content_hash=picture.facts.content_hash,
            media_type=picture.facts.media_type,
            width=picture.facts.width,
            height=picture.facts.height,
            appearance=picture.appearance,
            structure=picture.structure,
            metadata=picture.record.metadata,
            caption=picture.record.caption,
        )
        for picture in ready
    ]
    # Shielded: once the write has begun it finishes, whether or not the caller still listens.
    return await asyncio.shield(anyio.to_thread.run_sync(store, images))


def _stored_item(outcome: AddOutcome) -> IndexItemOut:
    return IndexItemOut(id=outcome.id, status=outcome.status.value)


def _failed_item(candidate: Candidate, problem: Problem) -> IndexItemOut:
    image_id = candidate.record.id if candidate.record is not None else None
    return IndexItemOut(
        id=image_id,
        status="failed",
        problem=ProblemOut(
            type=problem.type,
            title=problem.title,
            status=problem.status,
            detail=problem.detail,
            errors=problem.extra.get("errors"),
        ),
    )


def _parse_records(text: str | None, num_files: int) -> list[JsonValue]:
    if text is None:
        return [{} for _ in range(num_files)]
    try:
        records = parse_json(text)
    except MalformedRequest as malformed:
        raise InvalidRequest(f"the part 'records': {malformed.detail}") from malformed
    if not isinstance(records, list):
        raise InvalidRequest(
            f"the part 'records' is a JSON list with one record a file; received {type(records).__name__}"
        )
    if len(records) > num_files:
        raise InvalidRequest(f"{len(records)} records for {num_files} files; send at most one record a file")
    return [*records, *({} for _ in range(num_files - len(records)))]


def _with_record(value: JsonValue, data: bytes | None, problem: Problem | None) -> Candidate:
    try:
        return Candidate(validated(RecordIn, value, source="record"), data, problem)
    except InvalidRequest as invalid:
        return Candidate(None, None, invalid)


async def _json_candidate(state: ServiceState, value: JsonValue) -> Candidate:
    try:
        image = validated(ImageIn, value, source="record")
    except InvalidRequest as invalid:
        return Candidate(None, None, invalid)
    try:
        return Candidate(image, await _image_bytes(state, image.image))
    except Problem as problem:
        return Candidate(image, None, problem)


async def _image_bytes(state: ServiceState, image: str) -> bytes:
    if image.startswith(("http://", "https://")):
        return await state.remote_images.fetch(image)
    payload = image.partition(",")[2] if image.startswith("data:") else image
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            "`image` is not valid base64; send the file's bytes in standard base64 with padding, or as a data: URI"
        ) from error
