"""Adding pictures: read them, leave out what is stored already, send the rest in bounded requests.

All of it is steps (`call.Steps`): nothing here sends or waits by itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from structxlip.client.call import TRANSIENT_STATUSES, Pause, Steps
from structxlip.client.calls import OutgoingPicture, get_image, info, send_pictures
from structxlip.client.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    Problem,
    TooLargeError,
)
from structxlip.client.folders import find_pictures, id_of_path
from structxlip.client.pictures import Picture, picture_bytes
from structxlip.client.results import AddResult, ImageRecord, Info
from structxlip.client.retries import RetryPolicy

T = TypeVar("T")

INDEX_PATH = "/index"
BATCH_SIZE = 16
MAX_REQUEST_BYTES = 32 * 1024 * 1024
NUM_WORKERS = 3


@dataclass(frozen=True, slots=True)
class NewPicture:
    """A picture to add.

    Attributes:
        picture: In any form that `picture_bytes` takes.
        id: Adding the same id again replaces the picture; None lets the service make one from the content.
        metadata: JSON that searches can filter on.
    """

    picture: Picture = field(repr=False)
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an adding of many pictures is; ``num_total`` is None where the end cannot be foreseen."""

    num_done: int
    num_total: int | None
    num_by_status: Mapping[str, int]


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class AddPlan:
    """How many pictures are added: in which portions, and what is left out.

    Attributes:
        path: `/index`, or a watch list's path.
        batch_size: Pictures that a worker takes at once, and the most that go into one request.
        max_request_bytes: A request is closed before it outgrows this; a single larger picture goes alone.
        skip_unchanged: Ask for the record of each id first, and send no picture that is stored as it is.
    """

    path: str = INDEX_PATH
    batch_size: int = BATCH_SIZE
    max_request_bytes: int = MAX_REQUEST_BYTES
    skip_unchanged: bool = False
    retries: RetryPolicy = field(default_factory=RetryPolicy)


class ProgressCount:
    """Counts results and tells a callback of them."""

    def __init__(self, pictures: Iterable[NewPicture], callback: ProgressCallback | None) -> None:
        self._total = len(pictures) if isinstance(pictures, Sized) else None
        self._callback = callback
        self._by_status: Counter[str] = Counter()

    def count(self, results: Iterable[AddResult]) -> None:
        """Count some more."""
        self._by_status.update(result.status for result in results)
        if self._callback is not None:
            self._callback(Progress(self._by_status.total(), self._total, dict(self._by_status)))


def folder_pictures(folder: str | PathLike[str], metadata: Mapping[str, Any] | None = None) -> list[NewPicture]:
    """Return a folder's pictures, each with an id made of its path and the path as metadata.

    Raises:
        NotADirectoryError: If there is no such folder.
    """
    root = Path(folder)
    relatives = [(path, path.relative_to(root).as_posix()) for path in find_pictures(root)]
    return [
        NewPicture(path, id_of_path(relative), {"path": relative, **(metadata or {})}) for path, relative in relatives
    ]


def as_new_pictures(pictures: Iterable[NewPicture | Picture]) -> Iterable[NewPicture]:
    """Give every bare picture an empty record; lazily, unless the number is known."""
    made = (item if isinstance(item, NewPicture) else NewPicture(item) for item in pictures)
    return list(made) if isinstance(pictures, Sized) else made


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of at most ``size``."""
    remaining = iter(items)
    return iter(lambda: list(itertools.islice(remaining, size)), [])


def add_one(new: NewPicture, plan: AddPlan) -> Steps[AddResult]:
    """Add one picture.

    Raises:
        ApiError: If it was refused.
    """
    results = yield from _send([_load(0, new)], plan)
    return results[0].raise_if_failed()


def settled(plan: AddPlan) -> Steps[AddPlan]:
    """Return the plan, without asking first where that is useless: an empty collection, a key that may only write."""
    if not plan.skip_unchanged:
        return plan
    try:
        answer: Info = yield info()
    except ForbiddenError:
        return replace(plan, skip_unchanged=False)
    return replace(plan, skip_unchanged=answer.num_images > 0)


def add_batch(pictures: Sequence[NewPicture], plan: AddPlan) -> Steps[list[AddResult]]:
    """Add some pictures in as few requests as the plan allows; one result each, in their order."""
    results: dict[int, AddResult] = {}
    held: list[_Loaded] = []
    for position, new in enumerate(pictures):
        try:
            loaded = _load(position, new)
        except (OSError, ValueError) as error:
            results[position] = AddResult(new.picture, new.id, "failed", _unreadable(error))
            continue
        if plan.skip_unchanged and (yield from _is_stored(loaded)):
            results[position] = AddResult(new.picture, new.id, "unchanged")
            continue
        if held and sum(len(item.data) for item in held) + len(loaded.data) > plan.max_request_bytes:
            results.update((yield from _send(held, plan)))
            held = []
        held.append(loaded)
    results.update((yield from _send(held, plan)))
    return [results[position] for position in range(len(pictures))]


@dataclass(frozen=True, slots=True)
class _Loaded:
    position: int
    new: NewPicture
    data: bytes
    record: str


def _load(position: int, new: NewPicture) -> _Loaded:
    record = {"id": new.id, "metadata": dict(new.metadata), "caption": new.caption}
    try:
        record_text = json.dumps(record, allow_nan=False)
    except ValueError as error:  # in a request with others it would fail them all
        raise ValueError(f"the metadata is no JSON: {error}") from error
    return _Loaded(position, new, picture_bytes(new.picture), record_text)


def _send(held: Sequence[_Loaded], plan: AddPlan) -> Steps[dict[int, AddResult]]:
    """Send pictures until each has a lasting answer; those that met a passing problem are sent again."""
    results: dict[int, AddResult] = {}
    for num_tried in itertools.count(1):
        if not held:
            break
        outgoing = [OutgoingPicture(item.new.picture, item.data, item.record) for item in held]
        try:
            answered: list[AddResult] = yield send_pictures(plan.path, outgoing)
        except TooLargeError as error:
            return {**results, **(yield from _send_halves(held, plan, error))}
        again: list[_Loaded] = []
        for loaded, result in zip(held, answered, strict=True):
            is_passing = result.problem is not None and result.problem.status in TRANSIENT_STATUSES
            if is_passing and num_tried < plan.retries.max_tries:
                again.append(loaded)
            else:
                results[loaded.position] = result
        held = again
        if held:
            yield Pause(plan.retries.backoff_seconds(num_tried))
    return results


def _send_halves(held: Sequence[_Loaded], plan: AddPlan, error: TooLargeError) -> Steps[dict[int, AddResult]]:
    """Send what was too much for one request in two; a single picture that is too much has failed."""
    if len(held) == 1:
        (only,) = held
        return {only.position: AddResult(only.new.picture, only.new.id, "failed", error.problem)}
    middle = len(held) // 2
    first = yield from _send(held[:middle], plan)
    second = yield from _send(held[middle:], plan)
    return {**first, **second}


def _is_stored(loaded: _Loaded) -> Steps[bool]:
    if loaded.new.id is None:
        return False
    try:
        record: ImageRecord = yield get_image(loaded.new.id)
    except (NotFoundError, InvalidRequestError, ForbiddenError, ValueError):
        return False  # new; or an id that cannot be, which adding will say; or a key that may only write
    return (
        record.content_hash == hashlib.sha256(loaded.data).hexdigest()
        and _as_text(record.metadata) == _as_text(loaded.new.metadata)
        and record.caption == _normal(loaded.new.caption)
    )


def _as_text(metadata: Mapping[str, Any]) -> str:
    # As text, because to Python 1, 1.0 and True are equal.
    return json.dumps(metadata, sort_keys=True)


def _normal(caption: str | None) -> str | None:
    return None if caption is None else unicodedata.normalize("NFC", caption)


def _unreadable(error: OSError | ValueError) -> Problem:
    detail = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
    return Problem("about:blank", "The picture cannot be sent", 0, detail)
