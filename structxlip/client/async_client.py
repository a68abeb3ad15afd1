"""The client for asyncio: the same calls as the blocking one's, awaited."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import httpx

from structxlip.client import adding, calls, waiting
from structxlip.client.adding import AddPlan, NewPicture, ProgressCallback, ProgressCount
from structxlip.client.binding import AsyncSender, async_method
from structxlip.client.call import Call, Done, Pause, Steps, advance
from structxlip.client.connection import DEFAULT_URL, TIMEOUT_SECONDS, http_options
from structxlip.client.errors import StructXLIPError
from structxlip.client.pictures import Picture
from structxlip.client.results import AddResult, ImageRecord, Readiness
from structxlip.client.retries import RetryPolicy

T = TypeVar("T")


class AsyncClient:
    """A running service, for asyncio; every method is `Client`'s, awaited (or iterated with ``async for``).

    ```python
    async with AsyncClient("http://127.0.0.1:8000") as client:
        async for result in client.add_folder("photos"):
            print(result.id, result.status)
        found = await client.search("a round table")
    ```

    Files are read, and pictures encoded, in threads: the event loop stays free.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Open a client, as `Client`."""
        self.retries = retries or RetryPolicy()
        self._http = httpx.AsyncClient(**http_options(base_url, api_key, timeout_seconds), transport=transport)
        self.images = AsyncImages(self)
        self.watchlists = AsyncWatchlists(self)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({str(self._http.base_url)!r})"

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    search = async_method(calls.search)
    search_image = async_method(calls.search_image)
    explain = async_method(calls.explain)
    embed = async_method(calls.embed)
    fields = async_method(calls.fields)
    info = async_method(calls.info)
    health = async_method(calls.health)
    readiness = async_method(calls.readiness)

    async def add(
        self,
        picture: Picture,
        *,
        id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        caption: str | None = None,
    ) -> AddResult:
        """Add one picture, as `Client.add`."""
        new = NewPicture(picture, id, metadata or {}, caption)
        return await self.run(adding.add_one(new, AddPlan(retries=self.retries)))

    def add_many(
        self,
        pictures: Iterable[NewPicture | Picture],
        *,
        num_workers: int = adding.NUM_WORKERS,
        batch_size: int = adding.BATCH_SIZE,
        max_request_bytes: int = adding.MAX_REQUEST_BYTES,
        skip_unchanged: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> AsyncGenerator[AddResult, None]:
        """Add any number of pictures, as `Client.add_many`."""
        plan = AddPlan(
            batch_size=batch_size,
            max_request_bytes=max_request_bytes,
            skip_unchanged=skip_unchanged,
            retries=self.retries,
        )
        return self._add_many(adding.as_new_pictures(pictures), plan, num_workers, on_progress)

    async def add_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        metadata: Mapping[str, Any] | None = None,
        num_workers: int = adding.NUM_WORKERS,
        batch_size: int = adding.BATCH_SIZE,
        max_request_bytes: int = adding.MAX_REQUEST_BYTES,
        skip_unchanged: bool = True,
        on_progress: ProgressCallback | None = None,
    ) -> AsyncGenerator[AddResult, None]:
        """Add every picture below a folder, as `Client.add_folder`."""
        results = self.add_many(
            await asyncio.to_thread(adding.folder_pictures, folder, metadata),
            num_workers=num_workers,
            batch_size=batch_size,
            max_request_bytes=max_request_bytes,
            skip_unchanged=skip_unchanged,
            on_progress=on_progress,
        )
        async with aclosing(results):  # who stops early stops the adding as well, now and not at some later time
            async for result in results:
                yield result

    async def wait_until_ready(self, seconds: float = 60.0) -> Readiness:
        """Wait until the service can serve, as `Client.wait_until_ready`."""
        return await self.run(waiting.until_ready(seconds))

    async def send(self, call: Call[T], /) -> T:
        """Send a call, as often as the retry policy allows."""
        for num_tried in itertools.count(1):
            outcome = await self._try(call)
            delay = self.retries.delay_seconds(num_tried, outcome) if call.is_retried else None
            if delay is None:
                return call.result(outcome, num_tried=num_tried)
            await asyncio.sleep(delay)
        raise AssertionError("count never ends")

    async def run(self, steps: Steps[T]) -> T:
        """Make the calls that hang together, and return what comes of them."""
        step = await asyncio.to_thread(advance, steps)
        while not isinstance(step, Done):
            try:
                result = await self._perform(step)
            except StructXLIPError as error:
                step = await asyncio.to_thread(advance, steps, error=error)
            else:
                step = await asyncio.to_thread(advance, steps, result)
        return step.value

    async def _try(self, call: Call[Any]) -> httpx.Response | httpx.RequestError:
        try:
            return await self._http.send(call.request(self._http))
        except httpx.RequestError as error:
            return error

    async def _perform(self, step: Call[Any] | Pause) -> object:
        return await (asyncio.sleep(step.seconds) if isinstance(step, Pause) else self.send(step))

    async def _add_many(
        self, pictures: Iterable[NewPicture], plan: AddPlan, num_workers: int, on_progress: ProgressCallback | None
    ) -> AsyncGenerator[AddResult, None]:
        plan = await self.run(adding.settled(plan))
        count = ProgressCount(pictures, on_progress)
        batches = adding.batches(pictures, plan.batch_size)
        running: set[asyncio.Task[list[AddResult]]] = set()
        try:
            while True:
                for batch in itertools.islice(batches, num_workers - len(running)):
                    running.add(asyncio.create_task(self.run(adding.add_batch(batch, plan))))
                if not running:
                    return
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    results = await task
                    running.remove(task)
                    count.count(results)
                    for result in results:
                        yield result
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


class AsyncImages:
    """The stored pictures, one by one."""

    def __init__(self, sender: AsyncSender) -> None:
        self._sender = sender

    async def send(self, call: Call[T], /) -> T:
        """Send a call."""
        return await self._sender.send(call)

    get = async_method(calls.get_image)
    update = async_method(calls.update_image)
    delete = async_method(calls.delete_image)
    file = async_method(calls.image_file)
    thumbnail = async_method(calls.image_thumbnail)
    edges = async_method(calls.image_edges)
    page = async_method(calls.image_page)

    async def list(
        self, *, filter: Mapping[str, Any] | None = None, page_size: int = 200
    ) -> AsyncIterator[ImageRecord]:
        """Return every record, newest change first; pages are fetched as they are needed."""
        cursor: str | None = None
        while True:
            page = await self.page(limit=page_size, cursor=cursor, filter=filter)
            for image in page.images:
                yield image
            cursor = page.cursor
            if cursor is None:
                return


class AsyncWatchlists:
    """Lists of pictures that every added picture is checked against."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def send(self, call: Call[T], /) -> T:
        """Send a call."""
        return await self._client.send(call)

    list = async_method(calls.list_watchlists)
    images = async_method(calls.watched_images)
    delete = async_method(calls.delete_watchlist)
    delete_image = async_method(calls.delete_watched)

    async def add(self, name: str, pictures: Iterable[NewPicture | Picture]) -> tuple[AddResult, ...]:
        """Put pictures on a watch list, as `Watchlists.add`."""
        plan = AddPlan(path=calls.watchlist_path(name), retries=self._client.retries)
        results: tuple[AddResult, ...] = ()
        for batch in adding.batches(adding.as_new_pictures(pictures), plan.batch_size):
            results += tuple(await self._client.run(adding.add_batch(batch, plan)))
        return results
