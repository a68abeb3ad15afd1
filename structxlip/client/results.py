"""What the service answers, as frozen values.

Each type reads itself from the answer's JSON. Members that a later service adds are passed over, and those that an
earlier one does not send yet are None or empty, so that client and service may differ by a release.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from structxlip.client.errors import Problem, error_of
from structxlip.client.pictures import Picture

Json = Mapping[str, Any]
Vector = NDArray[np.float32]
AddStatus = Literal["created", "replaced", "unchanged", "failed"]


@dataclass(frozen=True, slots=True)
class Scores:
    """The two inner products of a hit: ``score = (1 - w) * appearance + w * structure``."""

    appearance: float
    structure: float


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of the query's text: the characters from ``start`` up to ``end``."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the picture: ``(x0, y0, x1, y1)`` as shares of its width and height."""

    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """A phrase that meets a region; both are positions in the explanation's lists."""

    phrase: int
    region: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a picture was found: which phrase of the query meets which region.

    Attributes:
        similarities: One row a phrase, one column a region.
        pairs: The best region of each phrase, best first.
        structure_weight: Of an explanation by itself; that of a hit has its search's.
        overlay: PNG of the picture with the boxes of the pairs, where it was asked for.
    """

    phrases: tuple[Phrase, ...]
    regions: tuple[Region, ...]
    similarities: tuple[tuple[float, ...], ...]
    pairs: tuple[Pair, ...]
    structure_weight: float | None = None
    overlay: bytes | None = field(default=None, repr=False)
    fingerprint: str | None = None

    @classmethod
    def from_json(cls, value: Json) -> Explanation:
        """Read an answer of `POST /explain`, or the explanation of a hit."""
        overlay = value.get("overlay")
        return cls(
            phrases=tuple(Phrase(item["text"], item["start"], item["end"]) for item in value["phrases"]),
            regions=tuple(Region(_box(item["box"])) for item in value["regions"]),
            similarities=tuple(tuple(map(float, row)) for row in value["similarities"]),
            pairs=tuple(Pair(item["phrase"], item["region"], item["similarity"]) for item in value["pairs"]),
            structure_weight=value.get("structure_weight"),
            overlay=None if overlay is None else base64.b64decode(overlay),
            fingerprint=value.get("fingerprint"),
        )


@dataclass(frozen=True, slots=True)
class Hit:
    """One found picture.

    Attributes:
        confidence: Probability that a hit which stands so far above chance is a match; None where the model carries no
            calibration.
        links: Where the picture's record, file, thumbnail and edge map are, relative to the service.
        explanation: None unless the search asked for it.
    """

    id: str
    score: float
    scores: Scores
    confidence: float | None
    metadata: Json
    caption: str | None
    links: Mapping[str, str]
    explanation: Explanation | None = None

    @classmethod
    def from_json(cls, value: Json) -> Hit:
        """Read one hit."""
        explanation = value.get("explanation")
        return cls(
            id=value["id"],
            score=value["score"],
            scores=Scores(value["scores"]["appearance"], value["scores"]["structure"]),
            confidence=value.get("confidence"),
            metadata=value["metadata"],
            caption=value["caption"],
            links=value["links"],
            explanation=None if explanation is None else Explanation.from_json(explanation),
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and what the query was read as.

    Attributes:
        no_match: True when no hit clears the calibrated level; None where the model carries no calibration.
        false_accept_rate: Share of queries without a match that clear the level all the same, as calibrated.
        num_excluded: Candidates that the negatives left out, on this page.
        structure_weight: The weight in force: the caller's, or the model's own.
        structural_text: What the structural view read of a query in words.
        cursor: Give it to the same search for the next hits; None at the end.
    """

    hits: tuple[Hit, ...]
    no_match: bool | None
    false_accept_rate: float | None
    num_excluded: int
    structure_weight: float
    structural_text: str | None
    cursor: str | None
    took_ms: float
    fingerprint: str
    warnings: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Json) -> SearchResult:
        """Read an answer of `POST /search`."""
        return cls(
            hits=tuple(map(Hit.from_json, value["hits"])),
            no_match=value.get("no_match"),
            false_accept_rate=value.get("false_accept_rate"),
            num_excluded=value.get("num_excluded", 0),
            structure_weight=value["structure_weight"],
            structural_text=value.get("structural_text"),
            cursor=value["cursor"],
            took_ms=value["took_ms"],
            fingerprint=value["fingerprint"],
            warnings=tuple(value.get("warnings", ())),
        )


@dataclass(frozen=True, slots=True)
class Resemblance:
    """A picture of a watch list that an added one resembles.

    Attributes:
        structure_weight: At which the two resemble each other most.
        confidence: None where the model carries no calibration.
    """

    watchlist: str
    id: str
    score: float
    confidence: float | None
    structure_weight: float | None = None

    @classmethod
    def from_json(cls, value: Json) -> Resemblance:
        """Read one resemblance."""
        return cls(
            value["watchlist"], value["id"], value["score"], value.get("confidence"), value.get("structure_weight")
        )


@dataclass(frozen=True, slots=True)
class AddResult:
    """What became of one picture.

    Attributes:
        picture: As it was given: the path, for a folder's.
        id: None only when the picture was refused before it had one.
        problem: Why it failed; None otherwise.
        resembles: Pictures of watch lists. Empty for a picture that was unchanged and therefore not sent.
    """

    picture: Picture = field(repr=False)
    id: str | None
    status: AddStatus
    problem: Problem | None = None
    resembles: tuple[Resemblance, ...] = ()

    @classmethod
    def from_json(cls, picture: Picture, value: Json) -> AddResult:
        """Read one item of `POST /index`."""
        problem = value.get("problem")
        return cls(
            picture=picture,
            id=value["id"],
            status=value["status"],
            problem=None if problem is None else Problem.from_json(problem),
            resembles=tuple(map(Resemblance.from_json, value.get("resembles") or ())),
        )

    def raise_if_failed(self) -> AddResult:
        """Return this result, unless the picture failed.

        Raises:
            ApiError: Most often a `PictureError`.
        """
        if self.problem is not None:
            raise error_of(self.problem)
        return self


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The record of one stored picture; times are seconds since 1970."""

    id: str
    metadata: Json
    caption: str | None
    media_type: str
    width: int
    height: int
    num_bytes: int
    content_hash: str
    fingerprint: str
    created_at: float
    updated_at: float
    links: Mapping[str, str]

    @classmethod
    def from_json(cls, value: Json) -> ImageRecord:
        """Read one record."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class ImagePage:
    """Some records, newest change first, and where the next ones begin."""

    images: tuple[ImageRecord, ...]
    cursor: str | None
    total: int

    @classmethod
    def from_json(cls, value: Json) -> ImagePage:
        """Read an answer of `GET /images`."""
        return cls(tuple(map(ImageRecord.from_json, value["images"])), value["cursor"], value["total"])


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbedding:
    """Both views of a picture, as unit vectors of shape ``(D,)``."""

    appearance: Vector
    structure: Vector


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """Both views of a text, as unit vectors of shape ``(D,)``.

    Attributes:
        structural_text: What the structural view read.
        is_truncated: The text has more tokens than the model reads, so its end was not used.
    """

    appearance: Vector
    structure: Vector
    structural_text: str
    num_tokens: int
    is_truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors in the order of the request."""

    texts: tuple[TextEmbedding, ...]
    images: tuple[ImageEmbedding, ...]
    dimension: int
    fingerprint: str

    @classmethod
    def from_json(cls, value: Json) -> Embeddings:
        """Read an answer of `POST /embed`."""
        return cls(
            texts=tuple(
                TextEmbedding(
                    appearance=_vector(item["appearance"]),
                    structure=_vector(item["structure"]),
                    structural_text=item["structural_text"],
                    num_tokens=item["num_tokens"],
                    is_truncated=item["is_truncated"],
                )
                for item in value["texts"]
            ),
            images=tuple(
                ImageEmbedding(_vector(item["appearance"]), _vector(item["structure"])) for item in value["images"]
            ),
            dimension=value["dimension"],
            fingerprint=value["fingerprint"],
        )


@dataclass(frozen=True, slots=True)
class Watchlist:
    """A named list of pictures that every picture added is held against."""

    name: str
    num_images: int

    @classmethod
    def from_json(cls, value: Json) -> Watchlist:
        """Read one watch list."""
        return cls(value["name"], value["num_images"])


@dataclass(frozen=True, slots=True)
class WatchedImage:
    """A picture of a watch list; ``created_at`` is in seconds since 1970."""

    id: str
    content_hash: str
    media_type: str
    width: int
    height: int
    caption: str | None
    created_at: float

    @classmethod
    def from_json(cls, value: Json) -> WatchedImage:
        """Read one picture."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A frequent value of a metadata field."""

    value: str | float | bool | None
    num_images: int


@dataclass(frozen=True, slots=True)
class MetadataField:
    """A metadata field that the collection holds.

    Attributes:
        name: As a filter's ``field`` takes it: several keys where one of them contains a dot.
        kinds: ``"string"``, ``"number"``, ``"boolean"`` …; a field may have several.
        values: The most frequent ones.
        min: Of the numbers; None without any.
        max: Likewise.
    """

    name: str | tuple[str, ...]
    kinds: tuple[str, ...]
    num_images: int
    values: tuple[FieldValue, ...]
    min: float | None
    max: float | None

    @classmethod
    def from_json(cls, value: Json) -> MetadataField:
        """Read one field."""
        return cls(
            name=value["name"] if isinstance(value["name"], str) else tuple(value["name"]),
            kinds=tuple(value["kinds"]),
            num_images=value["num_images"],
            values=tuple(FieldValue(item["value"], item["num_images"]) for item in value["values"]),
            min=value.get("min"),
            max=value.get("max"),
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `confidence` and `no_match` rest on.

    Attributes:
        false_accept_rate: Share of queries without a match that clear the level all the same.
        level: The confidence at which a hit counts as a match: of words, at the default structure weight.
    """

    is_calibrated: bool
    false_accept_rate: float | None
    level: float | None


@dataclass(frozen=True, slots=True)
class Info:
    """The model, the collection, and the limits in force.

    Attributes:
        features: What this service can do; empty for one that does not say so yet.
    """

    version: str
    model: Json
    collection: Json
    limits: Mapping[str, float]
    warnings: tuple[str, ...]
    calibration: Calibration
    features: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Json) -> Info:
        """Read an answer of `GET /info`."""
        calibration = value.get("calibration") or {}
        return cls(
            version=value["version"],
            model=value["model"],
            collection=value["collection"],
            limits=value["limits"],
            warnings=tuple(value["warnings"]),
            calibration=Calibration(
                is_calibrated=bool(calibration.get("is_calibrated", False)),
                false_accept_rate=calibration.get("false_accept_rate"),
                level=calibration.get("level"),
            ),
            features=tuple(value.get("features", ())),
        )

    @property
    def fingerprint(self) -> str:
        """Which model made the vectors."""
        return str(self.model["fingerprint"])

    @property
    def num_images(self) -> int:
        """How many pictures the collection holds."""
        return int(self.collection["num_images"])

    @property
    def default_structure_weight(self) -> float:
        """The weight of a search that names none."""
        return float(self.model["default_structure_weight"])


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can serve now; if not, which check fails and what it is busy with."""

    is_ready: bool
    checks: Mapping[str, bool]
    activity: str | None
    progress: float | None

    @classmethod
    def from_json(cls, value: Json) -> Readiness:
        """Read an answer of `GET /readyz`."""
        return cls(value["ready"], value["checks"], value.get("activity"), value.get("progress"))


def _box(value: Sequence[float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, value)
    return x0, y0, x1, y1


def _vector(value: Sequence[float]) -> Vector:
    return np.asarray(value, np.float32)
