from __future__ import annotations

import asyncio
import json
import threading
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.security import KeyStore, create_key
from service.settings import Settings
from structxlip.client import (
    AddResult,
    AsyncClient,
    Client,
    NewPicture,
    PictureError,
    Progress,
    TooLargeError,
    UnauthorizedError,
)
from structxlip.encoder import TwoViewEncoder
from tests.support.pictures import jpeg, scene
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures in two folders, one that is none, and a file that nobody would take for one."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for number, data in enumerate(plain_jpegs(7, seed=21)):
        (root / ("sub" if number % 2 else ".") / f"{number}.jpg").write_bytes(data)
    (root / "broken.PNG").write_bytes(b"not a picture")
    (root / "notes.txt").write_text("not even named like one")
    return root


class CountingTransport(httpx.HTTPTransport):
    """Sends over the socket, and remembers what."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, str, int]] = []
        self.most_at_once = 0
        self._num_running = 0
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body_bytes = int(request.headers.get("Content-Length", 0))
        with self._lock:
            self.sent.append((request.method, request.url.path, body_bytes))
            self._num_running += 1
            self.most_at_once = max(self.most_at_once, self._num_running)
        try:
            return super().handle_request(request)
        finally:
            with self._lock:
                self._num_running -= 1

    def posted(self) -> list[int]:
        return [num_bytes for method, path, num_bytes in self.sent if (method, path) == ("POST", "/index")]


def statuses(results: list[AddResult]) -> dict[str | None, str]:
    return {result.id: result.status for result in results}


def test_one_picture_in_every_form(client: Client, tmp_path: Path) -> None:
    rgb = scene(64, 48, seed=5)
    file = jpeg(rgb)
    (tmp_path / "a.jpg").write_bytes(file)
    assert client.add(tmp_path / "a.jpg", id="path", metadata={"shop": "x"}, caption="four parts").status == "created"
    assert client.add(str(tmp_path / "a.jpg"), id="string").status == "created"
    assert client.add(file, id="bytes").status == "created"
    assert client.add(BytesIO(file), id="file").status == "created"
    assert client.add(Image.fromarray(rgb), id="pillow").status == "created"
    assert client.add(rgb, id="array").status == "created"
    records = {record.id: record for record in client.images.list()}
    assert set(records) == {"path", "string", "bytes", "file", "pillow", "array"}
    assert (records["path"].metadata, records["path"].caption) == ({"shop": "x"}, "four parts")
    assert records["path"].content_hash == records["file"].content_hash
    assert records["pillow"].content_hash == records["array"].content_hash
    stored = Image.open(BytesIO(client.images.file("array")))
    assert np.array_equal(np.asarray(stored), rgb)


def test_adding_again_replaces_or_changes_nothing(client: Client) -> None:
    first, second = plain_jpegs(2, seed=22)
    made = client.add(first)
    assert made.id is not None
    assert made.id.startswith("sha256-")
    assert client.add(first).status == "unchanged"
    assert client.add(first, id="a").status == "created"
    assert client.add(second, id="a").status == "replaced"


def test_a_picture_that_cannot_be_used_says_why(client: Client, tmp_path: Path) -> None:
    with pytest.raises(PictureError) as refused:
        client.add(b"not a picture")
    assert refused.value.problem.type == "/problems/image-unsupported"
    with pytest.raises(FileNotFoundError):
        client.add(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match="received float64"):
        client.add(np.zeros((4, 4)))


def test_a_folder_is_added_with_progress_and_a_bad_file_costs_itself_alone(client: Client, folder: Path) -> None:
    seen: list[Progress] = []
    results = list(client.add_folder(folder, metadata={"shop": "x"}, batch_size=3, on_progress=seen.append))
    good = {f"{'sub:' if number % 2 else ''}{number}.jpg": "created" for number in range(7)}
    assert statuses(results) == {**good, "broken.PNG": "failed"}
    (failed,) = (result for result in results if result.status == "failed")
    assert failed.picture == folder / "broken.PNG"
    assert failed.problem is not None
    assert [progress.num_done for progress in seen] == sorted(progress.num_done for progress in seen)
    assert len(seen) == 3
    assert (seen[-1].num_done, seen[-1].num_total) == (8, 8)
    assert seen[-1].num_by_status == {"created": 7, "failed": 1}
    assert client.images.get("sub:3.jpg").metadata == {"path": "sub/3.jpg", "shop": "x"}


def test_a_folder_added_again_sends_only_what_is_new_or_changed(service_url: str, folder: Path) -> None:
    (folder / "broken.PNG").unlink()
    transport = CountingTransport()
    with Client(service_url, transport=transport) as client:
        list(client.add_folder(folder))
        assert not [path for _, path, _ in transport.sent if path.startswith("/images")], "an empty collection is known"
        transport.sent.clear()
        assert set(statuses(list(client.add_folder(folder))).values()) == {"unchanged"}
        assert transport.posted() == []

        (folder / "2.jpg").write_bytes(plain_jpegs(1, seed=77)[0])
        (folder / "new.jpg").write_bytes(plain_jpegs(1, seed=78)[0])
        again = statuses(list(client.add_folder(folder)))
        assert {name: status for name, status in again.items() if status != "unchanged"} == {
            "2.jpg": "replaced",
            "new.jpg": "created",
        }
        assert len(again) == 8
        transport.sent.clear()
        list(client.add_folder(folder, skip_unchanged=False, batch_size=8))
        assert len(transport.posted()) == 1


@pytest.mark.parametrize(
    ("stored", "now", "is_sent"),
    [
        ({}, {}, False),
        ({"metadata": {"a": 1, "b": [1, None]}}, {"metadata": {"b": [1, None], "a": 1}}, False),
        ({"metadata": {"a": 1}}, {"metadata": {"a": True}}, True),
        ({"metadata": {"a": 1}}, {}, True),
        ({"caption": "Caf\u00e9"}, {"caption": "Cafe\u0301"}, False),
        ({"caption": "x"}, {}, True),
    ],
)
def test_unchanged_is_what_the_service_would_call_so(
    service_url: str, stored: dict[str, object], now: dict[str, object], is_sent: bool
) -> None:
    transport = CountingTransport()
    data = jpeg(scene(40, 40, seed=9))
    with Client(service_url, transport=transport) as client:
        list(client.add_many([NewPicture(data, "a", **stored)]))  # type: ignore[arg-type]
        transport.sent.clear()
        (result,) = client.add_many([NewPicture(data, "a", **now)], skip_unchanged=True)  # type: ignore[arg-type]
        assert bool(transport.posted()) == is_sent
        assert (result.status != "unchanged") == is_sent


def test_requests_are_bounded_in_number_and_bytes(service_url: str, folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.rglob("*.jpg")]
    transport = CountingTransport()
    bound = 3 * max(sizes)
    with Client(service_url, transport=transport) as client:
        results = list(client.add_folder(folder, max_request_bytes=bound, batch_size=8, num_workers=1))
        assert len(results) == 8
        assert len(transport.posted()) >= sum(sizes) / bound
        overhead = 4096
        assert max(transport.posted()) <= bound + overhead


def test_a_bound_below_one_picture_sends_each_alone(service_url: str) -> None:
    transport = CountingTransport()
    with Client(service_url, transport=transport) as client:
        assert len(list(client.add_many(plain_jpegs(4, seed=3), max_request_bytes=1))) == 4
    assert len(transport.posted()) == 4


def test_several_workers_work_at_once_and_read_no_further_than_they_must(service_url: str) -> None:
    taken: list[int] = []

    def endless() -> object:
        for number, data in enumerate(plain_jpegs(60, seed=31)):
            taken.append(number)
            yield data

    transport = CountingTransport()
    with Client(service_url, transport=transport) as client:
        results = client.add_many(endless(), batch_size=2, num_workers=3)  # type: ignore[arg-type]
        assert taken == []
        assert next(results).status == "created"
        assert len(taken) <= 2 * (3 + 2)
        results.close()
    assert 1 < transport.most_at_once <= 3


def test_a_service_with_lower_limits_gets_smaller_requests(tmp_path: Path, bundled_encoder: TwoViewEncoder) -> None:
    pictures = [NewPicture(data, str(number)) for number, data in enumerate(plain_jpegs(9, seed=41))]
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    settings = Settings(data=tmp_path / "data", max_files=4, max_body_bytes=100_000)
    with running_service(settings, bundled_encoder) as url, Client(url) as client:
        results = list(client.add_many([*pictures, noise]))
        assert [result.status for result in results] == ["created"] * 9 + ["failed"]
        with pytest.raises(TooLargeError):
            results[-1].raise_if_failed()
        assert client.info().num_images == 9


def test_files_that_vanish_are_results_too(client: Client, tmp_path: Path) -> None:
    (good,) = plain_jpegs(1, seed=51)
    results = list(client.add_many([tmp_path / "missing.jpg", good, np.zeros((2, 2, 2), np.uint8)]))
    assert [result.status for result in results] == ["failed", "created", "failed"]
    missing, _, misshapen = results
    assert missing.problem is not None
    assert (missing.problem.status, missing.problem.detail) == (0, "cannot be read: No such file or directory")
    assert misshapen.problem is not None
    assert "received uint8 and shape (2, 2, 2)" in misshapen.problem.detail


def test_records_that_cannot_be_cost_themselves_alone(client: Client) -> None:
    data = plain_jpegs(1, seed=52)[0]
    news = [
        NewPicture(data, "good"),
        NewPicture(data, "", {}),
        NewPicture(data, ".."),
        NewPicture(data, "a/b"),
        NewPicture(data, "x" * 300),
        NewPicture(data, "nan", {"price": float("nan")}),
    ]
    client.add(plain_jpegs(1, seed=53)[0], id="so that records are asked for")
    results = list(client.add_many(news, skip_unchanged=True))
    assert [result.status for result in results] == ["created", *["failed"] * 5]
    assert results[-1].problem is not None
    assert "no JSON" in results[-1].problem.detail


def test_a_folder_that_is_none_is_said_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="name each of them"):
        client.add_folder(tmp_path / "nowhere")


def test_a_key_that_may_only_write_is_enough(tmp_path: Path, bundled_encoder: TwoViewEncoder, folder: Path) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "writer", {"write"})
    settings = Settings(data=tmp_path / "data", api_keys=file)
    with running_service(settings, bundled_encoder, keys=KeyStore.load(file)) as url:
        with Client(url) as nobody, pytest.raises(UnauthorizedError):
            list(nobody.add_folder(folder))
        with Client(url, api_key=key) as writer:
            assert key not in repr(writer)
            for status in ("created", "unchanged"):
                found = statuses(list(writer.add_folder(folder)))
                assert set(found.values()) == {status, "failed"}


def test_an_async_client_adds_and_skips_likewise(service_url: str, folder: Path) -> None:
    seen: list[Progress] = []

    async def scenario() -> None:
        async with AsyncClient(service_url) as client:
            first = [result async for result in client.add_folder(folder, batch_size=2, on_progress=seen.append)]
            assert sorted(json.dumps(statuses(first))) == sorted(json.dumps({**expected, "broken.PNG": "failed"}))
            again = [result async for result in client.add_folder(folder)]
            assert {result.status for result in again} == {"unchanged", "failed"}
            with pytest.raises(PictureError):
                await client.add(b"not a picture")
            stopped = client.add_many(plain_jpegs(20, seed=61), batch_size=1)
            assert (await anext(stopped)).status == "created"
            await stopped.aclose()
            with pytest.raises(NotADirectoryError):
                await anext(client.add_folder(folder / "nowhere"))

    expected = {f"{'sub:' if number % 2 else ''}{number}.jpg": "created" for number in range(7)}
    asyncio.run(scenario())
    assert (seen[-1].num_done, seen[-1].num_total) == (8, 8)


def test_an_async_adding_that_cannot_go_on_ends_in_one_error(folder: Path) -> None:
    async def scenario() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(401, json={}))
        async with AsyncClient(transport=transport) as client:
            with pytest.raises(UnauthorizedError):
                await anext(client.add_folder(folder, batch_size=1, skip_unchanged=False))

    asyncio.run(scenario())
