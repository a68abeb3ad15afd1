"""A collection in memory, searched exactly by NumPy: the definition that other collections are tested against."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock

import numpy as np

from index.checks import check_images, check_limit, check_query, check_text, encode_metadata
from index.collection import (
    AddOutcome,
    AddStatus,
    CollectionStatus,
    ImageRecord,
    Metadata,
    NewImage,
    Page,
    SearchHit,
    StoredVectors,
    Vector,
)
from index.cursors import (
    SearchPosition,
    list_cursor,
    list_question,
    read_list_cursor,
    read_search_cursor,
    search_cursor,
    search_question,
)
from index.errors import CollectionClosedError, NotSupportedError
from index.filters import Filter, matches
from index.metadata_summary import FieldSummary, summarise_metadata
from index.scoring import exact_scores


@dataclass(frozen=True, slots=True)
class _Entry:
    record: ImageRecord
    content: bytes
    metadata_text: str
    pair: Vector


class ExactCollection:
    """Pictures in a dictionary; gone when the process ends."""

    def __init__(self, *, dimension: int, fingerprint: str) -> None:
        self._dimension = dimension
        self._fingerprint = fingerprint
        self._entries: dict[str, _Entry] = {}
        self._sequence = 0
        self._lock = RLock()
        self._is_closed = False

    @property
    def dimension(self) -> int:
        """Numbers in one view's vector."""
        return self._dimension

    @property
    def fingerprint(self) -> str:
        """The model that made every vector."""
        return self._fingerprint

    @property
    def is_ready(self) -> bool:
        """Until it is closed."""
        return not self._is_closed

    @property
    def num_images(self) -> int:
        """Pictures stored."""
        return len(self._entries)

    @property
    def engine(self) -> str:
        """Every vector is scored."""
        return "exact"

    def add(self, images: Sequence[NewImage]) -> list[AddOutcome]:
        """Store pictures, all or none."""
        check_images(images, self._dimension)
        texts = [encode_metadata(image.metadata) for image in images]
        with self._lock:
            self._check_open()
            return [AddOutcome(image.id, self._put(image, text)) for image, text in zip(images, texts, strict=True)]

    def update(
        self, image_id: str, *, metadata: Metadata | None = None, caption: str | None = None
    ) -> ImageRecord | None:
        """Replace a picture's metadata and/or caption; ``None`` when there is no such picture."""
        text = None if metadata is None else encode_metadata(metadata)
        if caption is not None:
            check_text(caption, "caption")
        with self._lock:
            self._check_open()
            entry = self._entries.get(image_id)
            if entry is None:
                return None
            new_text = entry.metadata_text if text is None else text
            new_caption = entry.record.caption if caption is None else caption
            if (new_text, new_caption) != (entry.metadata_text, entry.record.caption):
                entry = self._describe(entry, new_text, new_caption)
            return entry.record

    def delete(self, image_id: str) -> bool:
        """Remove a picture; ``False`` when there is none."""
        with self._lock:
            self._check_open()
            if self._entries.pop(image_id, None) is None:
                return False
            self._sequence += 1
            return True

    def get(self, image_id: str) -> ImageRecord | None:
        """Return one record, or ``None``."""
        entry = self._entry(image_id)
        return entry.record if entry else None

    def vectors(self, image_id: str) -> tuple[Vector, Vector] | None:
        """Return the (appearance, structure) vectors of one picture."""
        entry = self._entry(image_id)
        return self._halves(entry.pair) if entry else None

    def find_content(self, content_hash: str) -> StoredVectors | None:
        """Return any stored picture with exactly this content."""
        with self._lock:
            self._check_open()
            for entry in self._entries.values():
                if entry.record.content_hash == content_hash:
                    return StoredVectors(entry.record, *self._halves(entry.pair))
        return None

    def original(self, image_id: str) -> bytes | None:
        """Return the original file."""
        entry = self._entry(image_id)
        return entry.content if entry else None

    def list_images(self, *, limit: int, cursor: str | None = None, filter: Filter | None = None) -> Page[ImageRecord]:
        """List records from the newest change to the oldest."""
        check_limit(limit)
        question = list_question(filter)
        below = None if cursor is None else read_list_cursor(cursor, question)
        records = sorted(
            (entry.record for entry in self._matching(filter)), key=lambda record: record.sequence, reverse=True
        )
        if below is not None:
            records = [record for record in records if record.sequence < below]
        if len(records) <= limit:
            return Page(records, None)
        return Page(records[:limit], list_cursor(question, records[limit - 1].sequence))

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
        """Score everything that matches, in order of ``(-score, id)``; it never waits."""
        query = check_query(query, self._dimension, limit)
        question = search_question(query, filter, min_score)
        after = None if cursor is None else read_search_cursor(cursor, question)
        hits = self._all_hits(query, filter)
        if min_score is not None:
            hits = [hit for hit in hits if hit.score >= min_score]
        if after is not None:
            hits = [hit for hit in hits if (-hit.score, hit.record.id) > (-after.score, after.id)]
        if len(hits) <= limit:
            return Page(hits, None)
        last, num_seen = hits[limit - 1], (after.num_seen if after else 0) + limit
        return Page(hits[:limit], search_cursor(question, SearchPosition(last.score, last.record.id, num_seen)))

    def count(self, filter: Filter | None = None) -> int:
        """Count stored pictures that meet the condition."""
        return len(self._matching(filter))

    def fields(self) -> Sequence[FieldSummary]:
        """Summarise the metadata of every picture."""
        return summarise_metadata(entry.record.metadata for entry in self._matching(None))

    def status(self) -> CollectionStatus:
        """Always ready."""
        return CollectionStatus(
            num_images=self.num_images,
            engine=self.engine,
            is_ready=self.is_ready,
            progress=1.0,
            activity=None,
            snapshot_age_seconds=None,
            sequence=self._sequence,
            self_check_recall=None,
            search_parameters={},
        )

    def snapshot(self) -> None:
        """Nothing is derived here."""

    def backup(self, destination: Path) -> None:
        """Refuse: nothing here is meant to outlive the process.

        Raises:
            NotSupportedError: Always.
        """
        raise NotSupportedError("a collection in memory has no backup; use a local collection")

    def close(self) -> None:
        """Refuse everything from now on."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise CollectionClosedError("the collection is closed")

    def _entry(self, image_id: str) -> _Entry | None:
        with self._lock:
            self._check_open()
            return self._entries.get(image_id)

    def _put(self, image: NewImage, text: str) -> AddStatus:
        entry = self._entries.get(image.id)
        if entry is not None and entry.record.content_hash == image.content_hash:
            if (entry.metadata_text, entry.record.caption) == (text, image.caption):
                return AddStatus.UNCHANGED
            self._describe(entry, text, image.caption)
            return AddStatus.REPLACED
        self._sequence += 1
        now = time.time()
        record = ImageRecord(
            id=image.id,
            content_hash=image.content_hash,
            media_type=image.media_type,
            width=image.width,
            height=image.height,
            num_bytes=len(image.content),
            metadata=json.loads(text),
            caption=image.caption,
            fingerprint=self._fingerprint,
            sequence=self._sequence,
            created_at=entry.record.created_at if entry else now,
            updated_at=now,
        )
        pair = np.concatenate([image.appearance, image.structure]).astype(np.float32)
        self._entries[image.id] = _Entry(record, image.content, text, pair)
        return AddStatus.REPLACED if entry else AddStatus.CREATED

    def _describe(self, entry: _Entry, text: str, caption: str | None) -> _Entry:
        self._sequence += 1
        record = replace(
            entry.record,
            metadata=json.loads(text),
            caption=caption,
            sequence=self._sequence,
            updated_at=time.time(),
        )
        described = replace(entry, record=record, metadata_text=text)
        self._entries[record.id] = described
        return described

    def _matching(self, condition: Filter | None) -> list[_Entry]:
        with self._lock:
            self._check_open()
            entries = list(self._entries.values())
        return [entry for entry in entries if condition is None or matches(condition, entry.record.metadata)]

    def _all_hits(self, query: Vector, condition: Filter | None) -> list[SearchHit]:
        entries = self._matching(condition)
        if not entries:
            return []
        scores = exact_scores(query, np.stack([entry.pair for entry in entries])).tolist()
        hits = [
            SearchHit(entry.record, score, *self._halves(entry.pair))
            for entry, score in zip(entries, scores, strict=True)
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.record.id))

    def _halves(self, pair: Vector) -> tuple[Vector, Vector]:
        return pair[: self._dimension], pair[self._dimension :]
