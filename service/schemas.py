"""The shapes of requests and answers; pydantic lives here, where data enters and leaves."""

from __future__ import annotations

import base64
import binascii
import json
import unicodedata
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    model_validator,
)

MAX_METADATA_BYTES = 16 * 1024
MAX_CAPTION_BYTES = 8 * 1024
MAX_RESULTS = 1000
MAX_TERMS = 8


def _printable_id(value: str) -> str:
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in value):
        raise ValueError("an id holds no control characters")
    if value in {".", ".."} or "/" in value or "\\" in value:
        raise ValueError("an id holds no slash or backslash, and is neither '.' nor '..'")
    if value != value.strip():
        raise ValueError("an id neither starts nor ends with white space")
    return value


def _storable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, UnicodeEncodeError, RecursionError) as error:
        raise ValueError("metadata is plain JSON: no NaN, no infinity, no lone surrogates, not too deep") from error
    if len(encoded) > MAX_METADATA_BYTES:
        raise ValueError(f"metadata takes {len(encoded)} bytes; at most {MAX_METADATA_BYTES} are stored")
    return value


def _normal_text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text holds half a surrogate pair and cannot be encoded") from error
    return unicodedata.normalize("NFC", value)


def _caption(value: str) -> str:
    normal = _normal_text(value)
    if len(normal.encode()) > MAX_CAPTION_BYTES:
        raise ValueError(f"the caption takes {len(normal.encode())} bytes; at most {MAX_CAPTION_BYTES} are stored")
    return normal


def _decoded_base64(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("expected the file as a base64 string (or a data: URI)")
    _, _, payload = value.rpartition(",") if value.startswith("data:") else ("", "", value)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not valid base64; send the file's bytes in standard base64 with padding") from error


ImageId = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable_id)]
MetadataObject = Annotated[dict[str, Any], AfterValidator(_storable)]
Caption = Annotated[str, AfterValidator(_caption)]
Base64Bytes = Annotated[
    bytes,
    BeforeValidator(_decoded_base64, json_schema_input_type=str),
    Field(json_schema_extra={"contentEncoding": "base64"}),
]
# JSON has booleans of its own: `true` is no 1.
Number = Annotated[float, Field(strict=True)]
NormalText = Annotated[str, AfterValidator(_normal_text)]


class RequestModel(BaseModel):
    """A request's part: unknown names are errors, so that a typing mistake never passes in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AnswerModel(BaseModel):
    """An answer's part."""

    model_config = ConfigDict(frozen=True)


# POST /index


class RecordIn(RequestModel):
    """What to keep beside one uploaded file; the n-th record belongs to the n-th file."""

    id: ImageId | None = Field(None, description="Adding the same id again replaces the picture.")
    metadata: MetadataObject = Field(default_factory=dict)
    caption: Caption | None = None


class ImageIn(RecordIn):
    """One picture in a JSON request."""

    image: str = Field(description="The file in base64, or a `data:` URI; with `remote_images` on, an http(s) URL.")


class IndexRequest(RequestModel):
    """Pictures to add, as JSON."""

    images: list[Any] = Field(
        min_length=1,
        description="Objects with `image` (base64), `id`, `metadata`, `caption`; a malformed one costs itself alone.",
    )


class ProblemOut(AnswerModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    errors: JsonValue = Field(None, description="Each value that is not valid, where there are several.")


class AnsweredProblem(AnswerModel):
    """RFC 9457 problem details, when the whole request is answered with them."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str | None
    errors: list[dict[str, str]] | None = None


class ResemblanceOut(AnswerModel):
    """A picture of a watch list that a new picture resembles."""

    watchlist: str
    id: str
    score: float
    structure_weight: float = Field(description="At which the two resemble each other most.")
    confidence: float | None = Field(description="`null` where the model carries no calibration.")


class IndexItemOut(AnswerModel):
    """What became of one picture."""

    id: str | None = Field(description="`null` only when the record itself could not be read.")
    status: Literal["created", "replaced", "unchanged", "failed"]
    problem: ProblemOut | None = None
    resembles: list[ResemblanceOut] = Field([], description="Pictures of watch lists, the surest first.")


class IndexAnswer(AnswerModel):
    """One item for each picture sent, in their order."""

    items: list[IndexItemOut]
    fingerprint: str


# /watchlists


class WatchlistOut(AnswerModel):
    """A list and its size."""

    name: str
    num_images: int


class WatchlistsAnswer(AnswerModel):
    """Every list, by name."""

    watchlists: list[WatchlistOut]


class WatchedImageOut(AnswerModel):
    """A picture that is watched for."""

    id: str
    content_hash: str
    media_type: str
    width: int
    height: int
    caption: str | None
    created_at: float


class WatchlistAnswer(AnswerModel):
    """The pictures of one list, oldest first."""

    name: str
    images: list[WatchedImageOut]


# POST /search


QUERY_FORMS = ("text", "image", "image_id", "sketch")


def _given(model: BaseModel, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(model, name) is not None]


def _require_one(model: BaseModel, names: tuple[str, ...]) -> None:
    given = _given(model, names)
    if len(given) != 1:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise ValueError(f"give exactly one of {listed}; received {' and '.join(given) or 'none'}")


class QueryForms(RequestModel):
    """What can be looked for."""

    text: NormalText | None = Field(None, min_length=1)
    image: Base64Bytes | None = Field(None, description="A picture, in base64.")
    image_id: ImageId | None = Field(None, description="A stored picture.")
    sketch: Base64Bytes | None = Field(None, description="Strokes on any ground, as a picture in base64.")


class NegativeTerm(QueryForms):
    """What hits must not look like: exactly one form."""

    @model_validator(mode="after")
    def check_one_form(self) -> Self:
        """Exactly one form is given."""
        _require_one(self, QUERY_FORMS)
        return self


class QueryTerm(NegativeTerm):
    """One of several things that a query names: exactly one form, and its weight among the others."""

    weight: Number = Field(1.0, gt=0, le=1000)


class SearchOptions(RequestModel):
    """Everything about a search but what is looked for."""

    negative: NegativeTerm | Annotated[list[NegativeTerm], Field(max_length=MAX_TERMS)] | None = Field(
        None, description="One term or a list: pictures that look like any of them are pushed down or left out."
    )
    structure_weight: Number | None = Field(
        None,
        ge=0,
        le=1,
        description="How much structure counts against appearance; default: the model's, and 1 for a sketch.",
    )
    limit: int = Field(10, ge=1, le=MAX_RESULTS)
    cursor: str | None = Field(None, max_length=500)
    filter: dict[str, Any] | None = Field(
        None,
        description='For example `{"all": [{"field": "shop", "eq": "x"}, {"field": "price", "lt": 10}]}`.',
    )
    min_score: Number | None = Field(None, ge=-1e6, le=1e6)
    only_confident: StrictBool = Field(
        False, description="Leave out hits below the calibrated level; an error where the model carries none."
    )
    include: list[Literal["explanation"]] = Field(
        [], max_length=4, description="What to add to each hit; `explanation` needs a query with words."
    )

    @property
    def negatives(self) -> list[NegativeTerm]:
        """The negatives as a list."""
        if self.negative is None:
            return []
        return self.negative if isinstance(self.negative, list) else [self.negative]


class SearchRequest(SearchOptions, QueryForms):
    """A query: words, a picture, a stored picture's id, a sketch, or a weighted list of these."""

    query: Annotated[list[QueryTerm], Field(min_length=1, max_length=MAX_TERMS)] | None = Field(
        None, description="Several of these together, each with its weight."
    )

    @model_validator(mode="after")
    def check_one_query(self) -> Self:
        """Exactly one form of query is given."""
        _require_one(self, (*QUERY_FORMS, "query"))
        return self

    @property
    def terms(self) -> list[QueryTerm]:
        """The query as a list of terms."""
        if self.query is not None:
            return self.query
        return [QueryTerm.model_construct(weight=1.0, **{name: getattr(self, name) for name in QUERY_FORMS})]


class ViewScores(AnswerModel):
    """The two inner products; `score = (1 - w) * appearance + w * structure`."""

    appearance: float
    structure: float


class ImageLinks(AnswerModel):
    """Where the rest of a picture is."""

    self: str
    file: str
    thumbnail: str
    edges: str


class Phrase(AnswerModel):
    """A piece of the query's words: `text[start:end]`, in characters of the text that was asked with."""

    text: str
    start: int
    end: int


class RegionOut(AnswerModel):
    """A part of a picture."""

    box: tuple[float, float, float, float] = Field(
        description="Left, top, right, bottom as shares of the picture's width and height."
    )


class PhrasePair(AnswerModel):
    """A phrase and the region that meets it best."""

    phrase: int
    region: int
    similarity: float


class Explanation(AnswerModel):
    """Which phrase meets which region, and how well."""

    phrases: list[Phrase]
    regions: list[RegionOut]
    similarities: list[list[float]] = Field(description="One row for each phrase, one number for each region.")
    pairs: list[PhrasePair] = Field(description="The best region of each phrase, best first.")


class ExplainRequest(RequestModel):
    """A text and a picture, stored or sent along."""

    text: Annotated[NormalText, Field(min_length=1)]
    image_id: ImageId | None = None
    image: Base64Bytes | None = None
    structure_weight: Number | None = Field(
        None, ge=0, le=1, description="How much structure counts against appearance; default: the model's."
    )
    overlay: StrictBool = Field(False, description="Also draw the best pairs over the picture.")

    @model_validator(mode="after")
    def check_one_picture(self) -> Self:
        """Exactly one picture is named."""
        _require_one(self, ("image_id", "image"))
        return self


class ExplainAnswer(Explanation):
    """An explanation of one picture."""

    structure_weight: float
    overlay: str | None = Field(description="The picture with the boxes of the pairs, a PNG in base64.")
    fingerprint: str


class HitOut(AnswerModel):
    """One found picture."""

    id: str
    score: float
    scores: ViewScores
    confidence: float | None = Field(
        description="Probability that a hit which stands so far above chance is a match; `null` without a calibration."
    )
    metadata: dict[str, JsonValue]
    caption: str | None
    width: int = Field(description="Of the original, upright: a gallery can be laid out before pictures arrive.")
    height: int
    links: ImageLinks
    explanation: Explanation | None = Field(None, description="Where it was asked for.")


class SearchAnswer(AnswerModel):
    """Hits, best first."""

    hits: list[HitOut]
    no_match: bool | None = Field(
        description="Nothing in the collection clears the calibrated level; `null` where the model carries none."
    )
    false_accept_rate: float | None = Field(
        description="Share of queries without a match that clear the level all the same, as calibrated."
    )
    num_excluded: int = Field(description="Candidates that a negative left out, on this page.")
    structure_weight: float
    structural_text: str | None = Field(description="What the structural view read of a text query.")
    cursor: str | None
    took_ms: float
    fingerprint: str
    warnings: list[str] = []


# /images


class ImageOut(AnswerModel):
    """The record of one stored picture."""

    id: str
    metadata: dict[str, JsonValue]
    caption: str | None
    media_type: str
    width: int
    height: int
    num_bytes: int
    content_hash: str
    fingerprint: str
    created_at: float
    updated_at: float
    links: ImageLinks


class ImageListAnswer(AnswerModel):
    """One page of records, newest change first."""

    images: list[ImageOut]
    cursor: str | None
    total: int


class ImagePatch(RequestModel):
    """New metadata and/or caption; metadata is replaced as a whole."""

    metadata: MetadataObject | None = None
    caption: Caption | None = None


# /embed and /v1/embeddings


class EmbedRequest(RequestModel):
    """Texts and pictures to embed."""

    texts: list[Annotated[NormalText, Field(min_length=1)]] = Field(default_factory=list, max_length=256)
    images: list[Base64Bytes] = Field(default_factory=list, max_length=64)

    @model_validator(mode="after")
    def check_not_empty(self) -> EmbedRequest:
        """At least one thing to embed is given."""
        if not self.texts and not self.images:
            raise ValueError("give texts, images or both; received neither")
        return self


class TextEmbedding(AnswerModel):
    """Both views of a text."""

    appearance: list[float]
    structure: list[float]
    structural_text: str
    num_tokens: int
    is_truncated: bool


class ImageEmbedding(AnswerModel):
    """Both views of a picture."""

    appearance: list[float]
    structure: list[float]


class EmbedAnswer(AnswerModel):
    """Unit vectors, in the order of the request."""

    texts: list[TextEmbedding]
    images: list[ImageEmbedding]
    dimension: int
    fingerprint: str


class OpenAiEmbeddingRequest(BaseModel):
    """The OpenAI shape; `data:image/…;base64,…` strings are embedded as pictures."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    input: (
        Annotated[NormalText, Field(min_length=1)]
        | Annotated[list[Annotated[NormalText, Field(min_length=1)]], Field(min_length=1, max_length=256)]
    )
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    view: Literal["appearance", "structure"] = Field("appearance", description="Ours: which view to return.")


class OpenAiEmbedding(AnswerModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAiUsage(AnswerModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class OpenAiEmbeddingAnswer(AnswerModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[OpenAiEmbedding]
    model: str
    usage: OpenAiUsage


# /info, /healthz, /readyz


class FieldValue(AnswerModel):
    """A value that pictures have."""

    value: str | bool | int | float
    num_images: int


class FieldOut(AnswerModel):
    """One field of the metadata."""

    name: str | list[str] = Field(
        description="As a filter's `field` takes it: a list of keys where one of them contains a dot."
    )
    kinds: list[Literal["string", "number", "boolean"]]
    num_images: int
    values: list[FieldValue] = Field(description="The commonest, most frequent first.")
    min: float | None
    max: float | None


class FieldsAnswer(AnswerModel):
    """What metadata the collection holds."""

    fields: list[FieldOut]


class CalibrationOut(AnswerModel):
    """How matches are told from chance."""

    is_calibrated: bool
    false_accept_rate: float | None = Field(description="Share of queries without a match that find one all the same.")
    level: float | None = Field(
        description="The confidence at which a hit counts as a match: of words, at the default structure weight."
    )


class InfoAnswer(AnswerModel):
    """The model, the collection and the limits."""

    version: str
    model: dict[str, Any]
    collection: dict[str, Any]
    limits: dict[str, int | float]
    calibration: CalibrationOut
    features: list[str] = Field(description="What this service can do; a client offers nothing else.")
    is_changing_backend: bool = Field(
        False, description="Whether torch runs the model only until a faster backend is made, a while after the start."
    )
    warnings: list[str]


class HealthAnswer(AnswerModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadinessAnswer(AnswerModel):
    """Whether requests can be served now, and if not, what is missing."""

    ready: bool
    checks: dict[str, bool]
    activity: str | None = None
    progress: float | None = None
