"""What the commands work on: a collection in a folder of this machine, or a running service over HTTP."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import httpx
from pydantic import JsonValue

from service.commands.errors import CommandError
from service.commands.sources import PictureSource
from structxlip.client import AddResult as ClientAddResult
from structxlip.client import Client, NewPicture, RetryPolicy
from structxlip.client import Term as QueryTerm
from structxlip.client.adding import AddPlan, add_batch, settled
from structxlip.client.call import Call

if TYPE_CHECKING:
    from index.collection import NewImage
    from index.local import LocalCollection
    from service.search.queries import Term
    from structxlip.encoder import TwoViewEncoder

# A service that starts, or that others keep busy, is waited for: 20 s or so.
MAX_TRIES = 8
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of one picture; ``reason`` tells why it failed."""

    source: PictureSource
    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """One hit as a command shows it."""

    id: str
    score: float
    appearance: float
    structure: float
    metadata: Mapping[str, JsonValue]
    caption: str | None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for: words, a picture file, a sketch file, or several of them in equal parts.

    Raises:
        CommandError: If nothing is named.
    """

    text: str | None = None
    image: bytes | None = None
    sketch: bytes | None = None
    negatives: tuple[str, ...] = ()
    structure_weight: float | None = None
    limit: int = 10
    filter: JsonValue = None

    def __post_init__(self) -> None:
        if self.text is None and self.image is None and self.sketch is None:
            raise CommandError("name what to look for: words, --image FILE, --sketch FILE, or several of these")


@dataclass(frozen=True, slots=True)
class FoundPictures:
    """Hits, best first; ``no_match`` is ``None`` where the model carries no calibration."""

    hits: list[FoundPicture]
    no_match: bool | None


class Target(Protocol):
    """Somewhere to add pictures to and to search."""

    def add(self, sources: Sequence[PictureSource]) -> list[AddResult]:
        """Add some pictures; one result each, in order. Safe to call from several threads."""
        ...

    def search(self, query: Query) -> FoundPictures:
        """Find pictures."""
        ...

    def original(self, image_id: str) -> bytes:
        """Return one picture's file."""
        ...

    def info(self) -> dict[str, Any]:
        """Describe the model and the collection."""
        ...


@contextmanager
def open_target(
    *,
    url: str | None,
    api_key: str | None,
    data: Path | None,
    model: str | None,
    device: str | None,
    is_bulk: bool = False,
) -> Iterator[Target]:
    """Open the service at ``url`` if one is given, else the collection in ``data`` with ``model``.

    With ``is_bulk`` the model is made fast first, which takes longer than one query does without.
    """
    if url is not None:
        if data is not None or model is not None:
            raise CommandError("give either --url (a running service) or --data and --model (a local collection)")
        with HttpTarget(url, api_key) as target:
            yield target
        return
    from structxlip.quick_start import import_without_compiler

    import_without_compiler()
    from service.app import open_collection
    from service.commands.serve import load_settings
    from service.model import load_model
    from structxlip.models import load_encoder

    given = {"data": data, "model": model, "device": device}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    encoder = load_model(settings) if is_bulk else load_encoder(settings.model, device=settings.device)
    collection = open_collection(settings, encoder, wait=True)
    try:
        yield LocalTarget(encoder, collection, settings.max_file_bytes, settings.max_pixels)
    finally:
        collection.close()


class LocalTarget:
    """A collection opened by this process; decoding runs in the callers' threads, the model in one at a time."""

    def __init__(
        self, encoder: TwoViewEncoder, collection: LocalCollection, max_file_bytes: int, max_pixels: int
    ) -> None:
        from service.images import ImageLimits

        self._encoder = encoder
        self._collection = collection
        self._limits = ImageLimits(max_bytes=max_file_bytes, max_pixels=max_pixels)
        self._model_lock = threading.Lock()

    def add(self, sources: Sequence[PictureSource]) -> list[AddResult]:
        """Decode, embed what is new, and store it in one durable step."""
        loaded = [self._load(source) for source in sources]
        images = self._embed([item for item in loaded if isinstance(item, _Loaded)])
        outcomes = iter(self._collection.add(images) if images else [])
        return [
            AddResult(item.source, next(outcomes).status.value) if isinstance(item, _Loaded) else item
            for item in loaded
        ]

    def search(self, query: Query) -> FoundPictures:
        """Find pictures."""
        from index.filters import parse_filter
        from service.search.finding import Question, find
        from service.search.negatives import make_exclusions, with_penalty
        from service.search.queries import combine

        encoder = self._encoder
        chosen, default = query.structure_weight, encoder.default_structure_weight
        wanted = combine(self._terms(query), structure_weight=chosen, default_weight=default)
        away = [self._text_term(text) for text in query.negatives]
        question = Question(
            query=with_penalty(wanted, away),
            exclusions=make_exclusions(
                away, wanted, structure_weight=chosen, default_weight=default, calibration=encoder.calibration
            ),
            limit=query.limit,
            filter=None if query.filter is None else parse_filter(query.filter),
        )
        answer = find(self._collection, encoder.calibration, question)
        hits = [
            FoundPicture(
                hit.record.id,
                hit.score,
                hit.appearance,
                hit.structure,
                hit.record.metadata,
                hit.record.caption,
                hit.confidence,
            )
            for hit in answer.hits
        ]
        return FoundPictures(hits, answer.no_match)

    def _terms(self, query: Query) -> list[Term]:
        from service.images import decode_image
        from service.search.queries import Term
        from structxlip.calibration import QueryKind
        from structxlip.sketch import EmptySketchError

        terms = [] if query.text is None else [self._text_term(query.text)]
        if query.image is not None:
            decoded = decode_image(query.image, self._limits, min_side=self._encoder.image_size)
            seen = self._encoder.encode_images([self._encoder.prepare_image(decoded.rgb)])
            terms.append(Term(QueryKind.PICTURE, seen.appearance[0], seen.structure[0]))
        if query.sketch is not None:
            try:
                edges = self._encoder.prepare_sketch(decode_image(query.sketch, self._limits).rgb)
            except EmptySketchError as error:
                raise CommandError(str(error)) from error
            terms.append(Term(QueryKind.SKETCH, None, self._encoder.encode_edge_maps([edges])[0]))
        return terms

    def _text_term(self, text: str) -> Term:
        from service.search.queries import Term
        from structxlip.calibration import QueryKind

        told = self._encoder.encode_texts([self._encoder.prepare_text(text)])
        return Term(QueryKind.TEXT, told.appearance[0], told.structure[0])

    def original(self, image_id: str) -> bytes:
        """Return one picture's file."""
        data = self._collection.original(image_id)
        if data is None:
            raise CommandError(f"no picture has the id {image_id!r}")
        return data

    def info(self) -> dict[str, Any]:
        """Describe the model and the collection."""
        import dataclasses

        return {
            "model": self._encoder.describe(),
            "collection": dataclasses.asdict(self._collection.status()),
        }

    def _load(self, source: PictureSource) -> _Loaded | AddResult:
        from service.images import decode_image
        from service.problems import Problem

        if source.problem is not None:
            return AddResult(source, "failed", source.problem)
        try:
            data = source.path.read_bytes()
        except OSError as error:
            return AddResult(source, "failed", f"cannot be read: {error.strerror or error}")
        content_hash = hashlib.sha256(data).hexdigest()
        known = self._collection.find_content(content_hash)
        if known is not None:
            record = known.record
            return _Loaded(
                source, data, content_hash, record.media_type, record.width, record.height, None,
                (known.appearance, known.structure),
            )  # fmt: skip
        try:
            decoded = decode_image(data, self._limits, min_side=self._encoder.image_size)
        except Problem as problem:
            return AddResult(source, "failed", problem.detail)
        prepared = self._encoder.prepare_image(decoded.rgb)
        return _Loaded(source, data, content_hash, decoded.media_type, decoded.width, decoded.height, prepared, None)

    def _embed(self, loaded: Sequence[_Loaded]) -> list[NewImage]:
        fresh = [item.prepared for item in loaded if item.prepared is not None]
        vectors: Iterator[tuple[Any, Any]] = iter(())
        if fresh:
            with self._model_lock:
                embedded = self._encoder.encode_images(fresh)
            vectors = iter(zip(embedded.appearance, embedded.structure, strict=True))
        return [item.as_new_image(item.vectors or next(vectors)) for item in loaded]


@dataclass(frozen=True, slots=True)
class _Loaded:
    source: PictureSource
    data: bytes
    content_hash: str
    media_type: str
    width: int
    height: int
    prepared: Any
    vectors: tuple[Any, Any] | None

    def as_new_image(self, vectors: tuple[Any, Any]) -> NewImage:
        from index.collection import NewImage

        return NewImage(
            id=self.source.id or f"sha256-{self.content_hash[:32]}",
            content=self.data,
            content_hash=self.content_hash,
            media_type=self.media_type,
            width=self.width,
            height=self.height,
            appearance=vectors[0],
            structure=vectors[1],
            metadata=self.source.metadata,
            caption=self.source.caption,
        )


class HttpTarget:
    """A running service; waits and retries when it is busy or starting."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._retries = RetryPolicy(max_tries=MAX_TRIES)
        try:
            self._client = Client(url, api_key=api_key, timeout_seconds=TIMEOUT_SECONDS, retries=self._retries)
        except ValueError as error:
            raise CommandError(f"--url: {error}") from error

    def __enter__(self) -> HttpTarget:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def add(self, sources: Sequence[PictureSource]) -> list[AddResult]:
        """Send these pictures, but for those that are stored as they are."""
        usable = [source for source in sources if source.problem is None]
        pictures = [NewPicture(source.path, source.id, source.metadata, source.caption) for source in usable]
        added = iter(self._client.run(add_batch(pictures, self._plan)))
        return [
            AddResult(source, "failed", source.problem)
            if source.problem is not None
            else _result_of(source, next(added))
            for source in sources
        ]

    def search(self, query: Query) -> FoundPictures:
        """Find pictures."""
        forms: dict[str, Any] = {"text": query.text, "image": query.image, "sketch": query.sketch}
        terms = [QueryTerm(**{name: value}) for name, value in forms.items() if value is not None]
        found = self._client.search(
            query=terms,
            negative=query.negatives,
            structure_weight=query.structure_weight,
            limit=query.limit,
            filter=cast("Mapping[str, JsonValue] | None", query.filter),
        )
        hits = [
            FoundPicture(
                hit.id,
                hit.score,
                hit.scores.appearance,
                hit.scores.structure,
                hit.metadata,
                hit.caption,
                hit.confidence,
            )
            for hit in found.hits
        ]
        return FoundPictures(hits, found.no_match)

    def original(self, image_id: str) -> bytes:
        """Return one picture's file."""
        return self._client.images.file(image_id)

    def info(self) -> dict[str, Any]:
        """Describe the model and the collection."""
        answer: dict[str, Any] = self._client.send(Call("GET", "/info", httpx.Response.json))
        return answer

    @cached_property
    def _plan(self) -> AddPlan:
        return self._client.run(settled(AddPlan(skip_unchanged=True, retries=self._retries)))


def _result_of(source: PictureSource, result: ClientAddResult) -> AddResult:
    return AddResult(source, result.status, None if result.problem is None else result.problem.detail)
