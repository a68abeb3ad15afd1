"""Pictures by address: only public servers, dialled as checked; real servers on the loopback stand for both sides."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from service.problems import RemoteImageRefused, RemoteImageUnavailable
from service.remote_images import RemoteImages, RemoteLimits, is_public
from service.settings import Settings
from tests.support.pictures import jpeg, scene

LOOPBACK = (ipaddress.ip_network("127.0.0.0/24"),)
PICTURE = jpeg(scene(64, 48, seed=1))


class Server:
    """A web server that answers each path as scripted, and remembers who was asked for what."""

    def __init__(self, answers: dict[str, bytes | Callable[[], Awaitable[bytes]]]) -> None:
        self._answers = answers
        self.requests: list[tuple[str, str]] = []
        self.headers: list[str] = []
        self._handlers: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Server:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await asyncio.sleep(0)  # lets the transports notice

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._converse(reader, writer)
        finally:
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        host = next(line[6:] for line in head.split("\r\n") if line.lower().startswith("host: "))
        self.requests.append((path, host))
        self.headers.append(head)
        answer = self._answers[path]
        writer.write(answer if isinstance(answer, bytes) else await answer())
        with suppress(ConnectionError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()


def ok(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


def names(**addresses: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    async def resolver(host: str, port: int) -> Sequence[str]:
        try:
            return addresses.get(host.replace(".", "_")) or [str(ipaddress.ip_address(host))]
        except ValueError:
            raise OSError("no such host") from None

    return resolver


def fetcher(resolver: Any = None, **limits: Any) -> RemoteImages:
    return RemoteImages(
        is_enabled=True,
        limits=RemoteLimits(**{"max_seconds": 10.0, **limits}),
        resolver=resolver or names(photos_example=["127.0.0.1"]),
        allowed_networks=LOOPBACK,
    )


def fetch(answers: dict[str, Any], path: str = "/a.jpg", images: RemoteImages | None = None) -> tuple[bytes, Server]:
    async def scenario() -> tuple[bytes, Server]:
        async with Server(answers) as server:
            return await (images or fetcher()).fetch(f"http://photos.example:{server.port}{path}"), server

    return asyncio.run(scenario())


def test_a_picture_is_fetched_with_the_name_in_the_host_header() -> None:
    data, server = fetch({"/a.jpg?size=1": ok(PICTURE)}, "/a.jpg?size=1#top")
    assert data == PICTURE
    assert server.requests == [("/a.jpg?size=1", f"photos.example:{server.port}")]
    assert "Accept-Encoding: identity" in server.headers[0]


def test_by_default_nothing_is_fetched() -> None:
    with pytest.raises(RemoteImageRefused, match="off"):
        asyncio.run(RemoteImages.from_settings(Settings()).fetch("http://photos.example/a.jpg"))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://photos.example/a.jpg",
        "gopher://127.0.0.1:70/",
        "data:image/png;base64,AAAA",
        "//photos.example/a.jpg",
        "/a.jpg",
        "http://",
        "http:///a.jpg",
        "http://user:secret@photos.example/a.jpg",
        "http://photos.example:99999/a.jpg",
        "http://[::1",
        "http://photos.example/" + "a" * 3000,
        "",
    ],
)
def test_what_is_no_plain_http_address_is_refused(url: str) -> None:
    with pytest.raises(RemoteImageRefused):
        asyncio.run(fetcher().fetch(url))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
        "2002:7f00:1::",
        "2002:808:808::1",
        "2001::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "100::1",
        "2001:db8::1",
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_a_public_address_is_not_refused(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "2130706433", "0x7f.1", "127.1"]
)
def test_the_loopback_is_refused_under_each_of_its_names(host: str) -> None:
    images = RemoteImages(is_enabled=True, limits=RemoteLimits())

    async def scenario() -> None:
        async with Server({"/a.jpg": ok(PICTURE)}) as server:
            with pytest.raises((RemoteImageRefused, RemoteImageUnavailable)):
                await images.fetch(f"http://{host}:{server.port}/a.jpg")
            assert server.requests == []

    asyncio.run(scenario())


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    images = fetcher(names(photos_example=["127.0.0.1", "10.0.0.1"]))
    with pytest.raises(RemoteImageRefused) as raised:
        fetch({"/a.jpg": ok(PICTURE)}, images=images)
    assert "10.0.0.1" not in raised.value.detail


def test_a_name_that_changes_its_answer_is_dialled_as_it_was_checked() -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    data, server = fetch({"/a.jpg": ok(PICTURE)}, images=fetcher(rebinding))
    assert data == PICTURE
    assert asked == ["photos.example"]
    assert len(server.requests) == 1


def test_each_redirect_is_resolved_and_checked_again() -> None:
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    with pytest.raises(RemoteImageRefused):
        fetch({"/a.jpg": redirect("/b.jpg")}, images=fetcher(rebinding))
    assert asked == ["photos.example", "photos.example"]


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data", "http://[::1]/", "file:///etc/passwd", "http://[::1", "http://\x7f/"],
)
def test_a_redirect_into_our_network_is_refused(target: str) -> None:
    with pytest.raises(RemoteImageRefused):
        fetch({"/a.jpg": redirect(target)})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_three_redirects_are_followed(status: int) -> None:
    answers = {f"/{step}": redirect(f"/{step + 1}", status) for step in range(3)} | {"/3": ok(PICTURE)}
    data, server = fetch(answers, "/0")
    assert data == PICTURE
    assert [path for path, _ in server.requests] == ["/0", "/1", "/2", "/3"]


def test_the_fourth_redirect_is_not_followed() -> None:
    with pytest.raises(RemoteImageUnavailable, match="more than 3"):
        fetch({f"/{step}": redirect(f"/{step + 1}") for step in range(5)}, "/0")


def test_a_picture_may_have_its_limit_of_bytes_and_not_one_more() -> None:
    assert fetch({"/a.jpg": ok(PICTURE)}, images=fetcher(max_bytes=len(PICTURE)))[0] == PICTURE
    with pytest.raises(RemoteImageUnavailable, match="more than"):
        fetch({"/a.jpg": ok(PICTURE)}, images=fetcher(max_bytes=len(PICTURE) - 1))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
        ok(PICTURE, length=len(PICTURE) + 100),
        ok(PICTURE, "Content-Encoding: gzip"),
    ],
)
def test_whatever_else_a_server_says_is_unavailable(answer: bytes) -> None:
    with pytest.raises(RemoteImageUnavailable):
        fetch({"/a.jpg": answer})


def test_a_server_that_stalls_is_given_up() -> None:
    async def stall() -> bytes:
        await asyncio.sleep(5)
        return b""

    with pytest.raises(RemoteImageUnavailable, match=r"within 0\.2 seconds"):
        fetch({"/a.jpg": stall}, images=fetcher(max_seconds=0.2))


@pytest.mark.parametrize("host", ["no-such.example", "a" * 64 + ".example"])
def test_a_name_without_an_address_is_unavailable(host: str) -> None:
    with pytest.raises((RemoteImageUnavailable, RemoteImageRefused)):
        asyncio.run(fetcher().fetch(f"http://{host}/a.jpg"))
