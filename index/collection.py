"""The seam between the service and whatever stores its pictures.

A collection keeps, for each picture, its original file, its metadata and its two unit vectors (appearance and
structure, ``D`` numbers each), and answers inner-product searches over the pair. One search is
``score = query[:D] . appearance + query[D:] . structure``; the caller has already put the weights into the query.

Nothing here assumes one process or one disk: that belongs in `index.local`. All calls are synchronous and may come
from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from index.filters import Filter
from index.metadata_summary import FieldSummary

Vector = NDArray[np.float32]
Metadata = Mapping[str, JsonValue]
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class NewImage:
    """A picture to add, already embedded.

    Attributes:
        id: The caller's identifier; adding it again replaces the picture.
        content: The original file, byte for byte.
        content_hash: SHA-256 of ``content``, hexadecimal.
        media_type: For example ``image/jpeg``, found from the content.
        width: Pixels, after EXIF orientation.
        height: Pixels, after EXIF orientation.
        appearance: Unit vector of the colour picture, shape ``(D,)``, float32.
        structure: Unit vector of the edge map, shape ``(D,)``, float32.
        metadata: JSON object to filter on.
        caption: Free text kept beside the picture.
    """

    id: str
    content: bytes
    content_hash: str
    media_type: str
    width: int
    height: int
    appearance: Vector
    structure: Vector
    metadata: Metadata
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What the collection knows of a stored picture; times are Unix seconds."""

    id: str
    content_hash: str
    media_type: str
    width: int
    height: int
    num_bytes: int
    metadata: Metadata
    caption: str | None
    fingerprint: str
    sequence: int
    created_at: float
    updated_at: float


class AddStatus(StrEnum):
    """What adding a picture did: the same id with other content, metadata or caption is ``replaced``."""

    CREATED = "created"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class AddOutcome:
    """The durable result for one added picture."""

    id: str
    status: AddStatus


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """A stored picture's record and its two unit vectors, each of shape ``(D,)``."""

    record: ImageRecord
    appearance: Vector
    structure: Vector


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A found picture with its stored vectors, so that the caller can split the score without asking again.

    ``score = query[:D] . appearance + query[D:] . structure``, computed exactly in float32 from the stored vectors,
    whichever engine found the candidate.
    """

    record: ImageRecord
    score: float
    appearance: Vector
    structure: Vector


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """Some items and where the next ones start; ``cursor`` is ``None`` on the last page."""

    items: Sequence[ItemT]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """What `/readyz`, `/info` and `/metrics` show of a collection.

    Attributes:
        num_images: Pictures stored.
        engine: How neighbours are found, for example ``flat``, ``ivf_sq8``, ``hnsw``, ``gpu_flat``.
        is_ready: The index holds every committed picture.
        progress: Share of the index that is loaded or rebuilt, 0 to 1.
        activity: ``None``, or what is going on: ``loading``, ``replaying``, ``rebuilding``, ``tuning``.
        snapshot_age_seconds: Since the newest snapshot of the index; ``None`` when there is none.
        sequence: The last committed change.
        self_check_recall: Recall of the engine against exact search on stored vectors, lately; ``None`` before
            the first check.
        search_parameters: The tuned parameters of the engine, for example ``{"nprobe": 8}``.
    """

    num_images: int
    engine: str
    is_ready: bool
    progress: float
    activity: str | None
    snapshot_age_seconds: float | None
    sequence: int
    self_check_recall: float | None
    search_parameters: Mapping[str, float]


class Collection(Protocol):
    """Pictures, their metadata and their vectors, searchable by inner product."""

    @property
    def dimension(self) -> int:
        """Numbers in one view's vector (``D``); a query has ``2 D``."""
        ...

    @property
    def fingerprint(self) -> str:
        """The model that made every vector searched here."""
        ...

    @property
    def is_ready(self) -> bool:
        """The index holds every committed picture."""
        ...

    @property
    def num_images(self) -> int:
        """Pictures stored."""
        ...

    @property
    def engine(self) -> str:
        """How neighbours are found, as in `CollectionStatus`."""
        ...

    def add(self, images: Sequence[NewImage]) -> list[AddOutcome]:
        """Store pictures; on return they are durable and searchable. All or none of one call is stored."""
        ...

    def update(
        self, image_id: str, *, metadata: Metadata | None = None, caption: str | None = None
    ) -> ImageRecord | None:
        """Replace a picture's metadata and/or caption (``None`` leaves it); ``None`` when there is no such picture."""
        ...

    def delete(self, image_id: str) -> bool:
        """Remove a picture; ``False`` when there is none."""
        ...

    def get(self, image_id: str) -> ImageRecord | None:
        """Return one record, or ``None``."""
        ...

    def vectors(self, image_id: str) -> tuple[Vector, Vector] | None:
        """Return the (appearance, structure) vectors of one picture, each of shape ``(D,)``."""
        ...

    def find_content(self, content_hash: str) -> StoredVectors | None:
        """Return any stored picture with exactly this content, so that it need not be embedded again."""
        ...

    def original(self, image_id: str) -> bytes | None:
        """Return the original file."""
        ...

    def list_images(self, *, limit: int, cursor: str | None = None, filter: Filter | None = None) -> Page[ImageRecord]:
        """List records from the newest change to the oldest; a cursor stays valid while pictures come and go."""
        ...

    def search(
        self,
        query: Vector,
        *,
        limit: int,
        cursor: str | None = None,
        filter: Filter | None = None,
        min_score: float | None = None,
        wait: bool = True,
    ) -> Page[SearchHit]:
        """Return the pictures with the highest ``query . [appearance ; structure]``, best first, ties by id.

        Args:
            query: Shape ``(2 D,)``, float32, not necessarily of unit length.
            limit: Hits wanted; fewer only where fewer match.
            cursor: From the page before.
            filter: Metadata condition that every hit meets.
            min_score: Hits below are left out.
            wait: Whether to wait, if need be, while a change is brought in.

        Raises:
            WouldWaitError: If it would have to wait, and may not.
        """
        ...

    def count(self, filter: Filter | None = None) -> int:
        """Count stored pictures that meet the condition."""
        ...

    def fields(self) -> Sequence[FieldSummary]:
        """Tell what metadata the pictures hold; those added last speak for all of a large collection."""
        ...

    def status(self) -> CollectionStatus:
        """Tell what the collection is doing; cheap enough for a probe every second."""
        ...

    def snapshot(self) -> None:
        """Write the derived index to disk, so that the next start is quick."""
        ...

    def backup(self, destination: Path) -> None:
        """Write a consistent copy of everything to a new folder while the collection stays in use."""
        ...

    def close(self) -> None:
        """Finish pending writes, take a snapshot and release everything."""
        ...
