"""A search that has to wait for a change keeps nobody else waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from index.live_index import LiveIndex
from index.local import LocalCollection
from service.app import create_app, open_collection
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import serve_in_thread, wait_until_ready
from tests.support.tiny_open_clip import write_tiny_open_clip

Change = Callable[[httpx.Client, LocalCollection], AbstractContextManager[None]]
Live = tuple[httpx.Client, LocalCollection]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TwoViewEncoder:
    """A small random model."""
    return load_encoder(f"local-dir:{write_tiny_open_clip(tmp_path_factory.mktemp('model') / 'tiny')}", device="cpu")


@pytest.fixture
def live(tmp_path: Path, encoder: TwoViewEncoder) -> Iterator[Live]:
    """A client of a service and the collection that it searches."""
    settings = Settings(model="tiny", data=tmp_path / "collection")
    with closing(open_collection(settings, encoder, wait=True)) as collection:
        app = create_app(settings, encoder=encoder, collection=collection)
        with serve_in_thread(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            wait_until_ready(url)
            yield client, collection


@contextmanager
def a_change_being_made(_client: httpx.Client, collection: LocalCollection) -> Iterator[None]:
    """Hold the engine as a change does."""
    with collection._live._lock.exclusive():
        yield


@contextmanager
def a_change_committed_but_not_brought_in(client: httpx.Client, _collection: LocalCollection) -> Iterator[None]:
    """Stop between the commit of another picture and the engine's taking it."""
    committed, go_on = threading.Event(), threading.Event()
    apply = LiveIndex.apply

    def apply_later(self: LiveIndex, *arguments: object) -> bool:
        committed.set()
        assert go_on.wait(30)
        return apply(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(LiveIndex, "apply", apply_later)
        added = threads.submit(add, client, 1)
        assert committed.wait(30)
        try:
            yield
        finally:
            go_on.set()
        assert added.result().status_code == 200


def add(client: httpx.Client, seed: int) -> httpx.Response:
    return client.post("/index", files={"files": (f"{seed}.jpg", plain_jpegs(1, seed=seed)[0], "image/jpeg")})


@pytest.mark.parametrize("change", [a_change_being_made, a_change_committed_but_not_brought_in])
def test_others_are_answered_while_a_search_waits_for_a_change(live: Live, change: Change) -> None:
    client, collection = live
    assert add(client, 0).status_code == 200
    ask = {"text": "a red square", "limit": 5}
    assert client.post("/search", json=ask).status_code == 200  # its words are remembered: it waits for nothing else
    with ThreadPoolExecutor(1) as threads:
        with change(client, collection):
            search = threads.submit(client.post, "/search", json=ask)
            for _ in range(20):
                assert client.get("/healthz", timeout=5).status_code == 200
            assert not search.done()
        hits = search.result().json()["hits"]
    assert len(hits) == collection.num_images
