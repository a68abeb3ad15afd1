"""The blocking client."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

import httpx

from structxlip.client import adding, calls, waiting
from structxlip.client.adding import AddPlan, NewPicture, ProgressCallback, ProgressCount
from structxlip.client.binding import Sender, method
from structxlip.client.call import Call, Done, Pause, Steps, advance
from structxlip.client.connection import DEFAULT_URL, TIMEOUT_SECONDS, http_options
from structxlip.client.errors import StructXLIPError
from structxlip.client.pictures import Picture
from structxlip.client.results import AddResult, ImageRecord, Readiness
from structxlip.client.retries import RetryPolicy

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Client:
    """A running service, for blocking code. Safe to use from several threads.

    ```python
    with Client("http://127.0.0.1:8000") as client:
        client.add("table.jpg", id="table", metadata={"shop": "x"})
        for hit in client.search("a round table", structure_weight=0.4).hits:
            print(hit.id, hit.score, hit.scores.appearance, hit.scores.structure)
    ```

    Every method raises `StructXLIPError`; `structxlip.client.errors` draws the tree of what that can be.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Open a client; nothing is sent before the first call.

        Args:
            base_url: May end in a path, where a proxy keeps the service below one.
            timeout_seconds: For an answer to one try, and for each part of a body.
            transport: What httpx sends with, where certificates, proxies or pools are to be chosen.

        Raises:
            ValueError: If the address is not one of http or https.
        """
        self.retries = retries or RetryPolicy()
        self._http = httpx.Client(**http_options(base_url, api_key, timeout_seconds), transport=transport)
        self.images = Images(self)
        self.watchlists = Watchlists(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._http.base_url)!r})"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    search = method(calls.search)
    search_image = method(calls.search_image)
    explain = method(calls.explain)
    embed = method(calls.embed)
    fields = method(calls.fields)
    info = method(calls.info)
    health = method(calls.health)
    readiness = method(calls.readiness)

    def add(
        self,
        picture: Picture,
        *,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        caption: str | None = None,
    ) -> AddResult:
        """Add one picture; it is stored and searchable when this returns.

        Args:
            picture: In any form that `picture_bytes` takes.
            id: Adding the same id again replaces the picture; None lets the service make one from the content.
            metadata: JSON that searches can filter on.

        Raises:
            PictureError: If the picture cannot be used.
            OSError: If its file cannot be read.
        """
        return self.run(adding.add_one(NewPicture(picture, id, metadata or {}, caption), AddPlan(retries=self.retries)))

    def add_many(
        self,
        pictures: Iterable[NewPicture | Picture],
        *,
        num_workers: int = adding.NUM_WORKERS,
        batch_size: int = adding.BATCH_SIZE,
        max_request_bytes: int = adding.MAX_REQUEST_BYTES,
        skip_unchanged: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> Generator[AddResult, None, None]:
        """Add any number of pictures in bounded requests, several at once; read lazily, as the results are.

        Nothing is sent until the first result is asked for. Results come as their batches are done, each with the
        picture that it is about; a picture that fails costs itself alone.

        Args:
            num_workers: Batches on their way at once.
            batch_size: Pictures in a batch.
            max_request_bytes: Bytes of pictures in a request; a single larger picture goes alone.
            skip_unchanged: Ask for the record of each id first, and do not send what is stored as it is.
            on_progress: Called after each batch, in the thread that reads the results.

        Raises:
            StructXLIPError: If it is not about one picture: the service cannot be reached, the key lacks the scope.
        """
        plan = AddPlan(
            batch_size=batch_size,
            max_request_bytes=max_request_bytes,
            skip_unchanged=skip_unchanged,
            retries=self.retries,
        )
        return self._add_many(adding.as_new_pictures(pictures), plan, num_workers, on_progress)

    def add_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        num_workers: int = adding.NUM_WORKERS,
        batch_size: int = adding.BATCH_SIZE,
        max_request_bytes: int = adding.MAX_REQUEST_BYTES,
        skip_unchanged: bool = True,
        on_progress: ProgressCallback | None = None,
    ) -> Generator[AddResult, None, None]:
        """Add every picture below a folder, as `add_many`; doing it again sends only what is new or changed.

        A picture's id is its path below the folder with ``:`` for ``/``, and its metadata has that path as ``path``.

        Args:
            metadata: For every picture, beside ``path``.

        Raises:
            NotADirectoryError: If there is no such folder.
        """
        return self.add_many(
            adding.folder_pictures(folder, metadata),
            num_workers=num_workers,
            batch_size=batch_size,
            max_request_bytes=max_request_bytes,
            skip_unchanged=skip_unchanged,
            on_progress=on_progress,
        )

    def wait_until_ready(self, seconds: float = 60.0) -> Readiness:
        """Wait until the service can serve.

        Raises:
            StructXLIPError: What kept it from serving, when the time is over.
        """
        return self.run(waiting.until_ready(seconds))

    def send(self, call: Call[T], /) -> T:
        """Send a call, as often as the retry policy allows."""
        for num_tried in itertools.count(1):
            outcome = self._try(call)
            delay = self.retries.delay_seconds(num_tried, outcome) if call.is_retried else None
            if delay is None:
                return call.result(outcome, num_tried=num_tried)
            time.sleep(delay)
        raise AssertionError("count never ends")

    def run(self, steps: Steps[T]) -> T:
        """Make the calls that hang together, and return what comes of them."""
        step = advance(steps)
        while not isinstance(step, Done):
            try:
                result = self._perform(step)
            except StructXLIPError as error:
                step = advance(steps, error=error)
            else:
                step = advance(steps, result)
        return step.value

    def _try(self, call: Call[Any]) -> httpx.Response | httpx.RequestError:
        try:
            return self._http.send(call.request(self._http))
        except httpx.RequestError as error:
            return error

    def _perform(self, step: Call[Any] | Pause) -> object:
        if not isinstance(step, Pause):
            return self.send(step)
        time.sleep(step.seconds)
        return None

    def _add_many(
        self, pictures: Iterable[NewPicture], plan: AddPlan, num_workers: int, on_progress: ProgressCallback | None
    ) -> Generator[AddResult, None, None]:
        plan = self.run(adding.settled(plan))
        count = ProgressCount(pictures, on_progress)
        batches = adding.batches(pictures, plan.batch_size)
        for results in in_parallel(lambda batch: self.run(adding.add_batch(batch, plan)), batches, num_workers):
            count.count(results)
            yield from results


class Images:
    """The stored pictures, one by one."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def send(self, call: Call[T], /) -> T:
        """Send a call."""
        return self._sender.send(call)

    get = method(calls.get_image)
    update = method(calls.update_image)
    delete = method(calls.delete_image)
    file = method(calls.image_file)
    thumbnail = method(calls.image_thumbnail)
    edges = method(calls.image_edges)
    page = method(calls.image_page)

    def list(self, *, filter: Mapping[str, Any] | None = None, page_size: int = 200) -> Iterator[ImageRecord]:
        """Return every record, newest change first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            page = self.page(limit=page_size, cursor=cursor, filter=filter)
            yield from page.images
            cursor = page.cursor
            if cursor is None:
                return


class Watchlists:
    """Lists of pictures that every added picture is checked against."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, call: Call[T], /) -> T:
        """Send a call."""
        return self._client.send(call)

    list = method(calls.list_watchlists)
    images = method(calls.watched_images)
    delete = method(calls.delete_watchlist)
    delete_image = method(calls.delete_watched)

    def add(self, name: str, pictures: Iterable[NewPicture | Picture]) -> tuple[AddResult, ...]:
        """Put pictures on a watch list, which is made if there is none of the name; one result each, in order."""
        plan = AddPlan(path=calls.watchlist_path(name), retries=self._client.retries)
        batches = adding.batches(adding.as_new_pictures(pictures), plan.batch_size)
        return tuple(result for batch in batches for result in self._client.run(adding.add_batch(batch, plan)))


def in_parallel(function: Callable[[ItemT], ResultT], items: Iterable[ItemT], num_workers: int) -> Iterator[ResultT]:
    """Apply a function to a stream of items in several threads; results come as they are done.

    At most one item more than there are workers is taken ahead: nobody waits, and memory stays bounded.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(num_workers, thread_name_prefix="structxlip") as pool:
        running: set[Future[ResultT]] = {pool.submit(function, item) for item in islice(remaining, num_workers + 1)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    running |= {pool.submit(function, item) for item in islice(remaining, 1)}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
