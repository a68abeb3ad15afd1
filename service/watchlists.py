"""Watch lists: named pictures that every picture added is held against.

They live in a collection of their own beside the main one, so that they are as durable, and carry the fingerprint of
the model that made their vectors. One search covers all lists.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from pydantic import JsonValue

from index.collection import AddOutcome, Collection, ImageRecord, NewImage, Vector
from index.filters import Compare, Filter, Operator
from service.search.resemblance import Resemblance, ResemblanceRules, all_records

FOLDER = "watchlists"
LIST_FIELD, ID_FIELD = "watchlist", "id"
MAX_RESEMBLANCES = 10


@dataclass(frozen=True, slots=True)
class WatchedResemblance:
    """A picture of a watch list that a new picture resembles."""

    watchlist: str
    id: str
    found: Resemblance


class Watchlists:
    """Keeps watch lists; its collection is made when the first picture is watched. Calls may come from any thread.

    Args:
        folder: Of the collection.
        open_collection: Opens or makes it.
        rules: When a picture counts as a copy.
    """

    def __init__(self, folder: Path, open_collection: Callable[[Path], Collection], rules: ResemblanceRules) -> None:
        self._folder = folder
        self._open = open_collection
        self._rules = rules
        self._lock = Lock()
        self._collection = open_collection(folder) if folder.is_dir() else None

    def add(self, name: str, images: Sequence[NewImage]) -> list[AddOutcome]:
        """Watch pictures under a list's name; durable on return."""
        with self._lock:
            if self._collection is None:
                self._collection = self._open(self._folder)
        watched = [
            dataclasses.replace(
                image, id=_key(name, image.id), metadata={LIST_FIELD: name, ID_FIELD: image.id, **_kept(image)}
            )
            for image in images
        ]
        outcomes = self._collection.add(watched)
        return [AddOutcome(image.id, outcome.status) for image, outcome in zip(images, outcomes, strict=True)]

    def find(self, appearance: Vector, structure: Vector) -> list[WatchedResemblance]:
        """Return what a picture resembles, the surest first; nothing where nothing is watched."""
        if self._collection is None or not self._collection.num_images:
            return []
        found = self._rules.find(self._collection, appearance, structure, limit=MAX_RESEMBLANCES)
        return [WatchedResemblance(*_names(each.record), each) for each in found[:MAX_RESEMBLANCES]]

    def names(self) -> dict[str, int]:
        """Return every list with the number of its pictures, by name."""
        if self._collection is None:
            return {}
        return dict(sorted(Counter(_names(record)[0] for record in all_records(self._collection)).items()))

    def images(self, name: str) -> list[tuple[str, ImageRecord]]:
        """Return the ids and records of one list, oldest first; none where there is no such list."""
        if self._collection is None:
            return []
        records, cursor = list[ImageRecord](), None
        while True:
            page = self._collection.list_images(limit=1000, cursor=cursor, filter=_in_list(name))
            records += page.items
            cursor = page.cursor
            if cursor is None:
                return [(_names(record)[1], record) for record in reversed(records)]

    def delete(self, name: str, image_id: str) -> bool:
        """Stop watching one picture; ``False`` when there is none."""
        return self._collection is not None and self._collection.delete(_key(name, image_id))

    def delete_list(self, name: str) -> int:
        """Stop watching a whole list; returns how many pictures it had."""
        return sum(self.delete(name, image_id) for image_id, _ in self.images(name))

    def close(self) -> None:
        """Close the collection, if there is one."""
        if self._collection is not None:
            self._collection.close()


def _key(name: str, image_id: str) -> str:
    return f"{name}/{image_id}"  # neither holds a slash


def _names(record: ImageRecord) -> tuple[str, str]:
    return str(record.metadata[LIST_FIELD]), str(record.metadata[ID_FIELD])


def _kept(image: NewImage) -> dict[str, JsonValue]:
    return {"metadata": dict(image.metadata)} if image.metadata else {}


def _in_list(name: str) -> Filter:
    return Compare((LIST_FIELD,), Operator.EQ, name)
