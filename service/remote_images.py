"""Pictures given by their address, fetched so that nobody can use us to look into our own network.

Off unless the operator turns it on. What an address leads to is checked and dialled in one step: the name is
resolved here, every address it has must be public, and the connection goes to a checked address, so that a
name which answers differently the second time (DNS rebinding) gains nothing. TLS still asks for the
certificate of the name. Each redirect is a new request with the same checks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import httpcore
import httpx
import structlog

from service.problems import RemoteImageRefused, RemoteImageUnavailable
from service.settings import Settings

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_URL_LENGTH: Final = 2048
REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# Addresses that carry an IPv4 address to be reached through a translator (RFC 6052): that one counts.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

# Never public, whatever this Python's tables say: tunnels that can lead anywhere (6to4, Teredo,
# IPv4-compatible), the local NAT64 prefix, site-local and discard-only addresses, shared address space of
# carriers, and 6to4's relays.
_REFUSED_NETWORKS: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "2002::/16",
        "2001::/32",
        "::/96",
        "64:ff9b:1::/48",
        "fec0::/10",
        "100::/64",
        "100.64.0.0/10",
        "192.88.99.0/24",
    )
)


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """What one fetch may cost.

    Attributes:
        max_bytes: Of the picture.
        max_seconds: For everything: names, connections, redirects, bytes.
        max_redirects: Hops after the first address.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_seconds: float = 15.0
    max_redirects: int = 3


def is_public(address: Address, *, allowed_networks: Iterable[Network] = ()) -> bool:
    """Whether an address belongs to the public internet, or to a network that the operator allows.

    An IPv4 address inside IPv6 (mapped, NAT64) counts as the IPv4 address that would be reached.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in allowed_networks):
        return True
    if any(address in network for network in _REFUSED_NETWORKS):
        return False
    # `is_global` alone says yes to multicast.
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return all addresses of a name, as the operating system finds them.

    Raises:
        OSError: If it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, to addresses that were checked and to no others."""

    def __init__(self, resolver: Resolver, allowed_networks: Sequence[Network]) -> None:
        self._resolver = resolver
        self._allowed_networks = tuple(allowed_networks)
        self._dialler = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check every address, and connect to the first that answers."""
        addresses = await self._checked_addresses(host, port)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._dialler.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no address leads to a socket file."""
        raise httpcore.ConnectError("sockets in the file system are not dialled")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore asks between attempts."""
        await asyncio.sleep(seconds)

    async def _checked_addresses(self, host: str, port: int) -> list[Address]:
        try:
            found = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise RemoteImageUnavailable(f"The host name {host[:100]!r} cannot be resolved.") from error
        addresses = [ipaddress.ip_address(text) for text in found]
        if not all(is_public(address, allowed_networks=self._allowed_networks) for address in addresses):
            # The address itself is not repeated: it would tell an outsider how our network resolves names.
            logger.warning("remote_image_refused", host=host, addresses=[str(address) for address in addresses])
            raise RemoteImageRefused(f"The host {host[:100]!r} is not on the public internet.")
        return addresses


class RemoteImages:
    """Fetches pictures from public web servers; nothing is kept open between two fetches.

    Args:
        is_enabled: False refuses every address.
        limits: What a fetch may cost.
        resolver: Finds a name's addresses.
        allowed_networks: Networks that are visited although they are not public.
    """

    def __init__(
        self,
        *,
        is_enabled: bool,
        limits: RemoteLimits,
        resolver: Resolver = resolve,
        allowed_networks: Sequence[Network] = (),
    ) -> None:
        self._is_enabled = is_enabled
        self._limits = limits
        self._backend = CheckedBackend(resolver, allowed_networks)

    @classmethod
    def from_settings(cls, settings: Settings) -> RemoteImages:
        """Fetch as the operator chose: not at all, by default."""
        return cls(is_enabled=settings.remote_images, limits=RemoteLimits(max_bytes=settings.max_file_bytes))

    async def fetch(self, url: str) -> bytes:
        """Return what ``url`` leads to; whether it is a picture is for `service.images` to say.

        Raises:
            RemoteImageRefused: If pictures by address are off, or this one is not public http or https.
            RemoteImageUnavailable: If the server does not give it, in time and within the bytes.
        """
        if not self._is_enabled:
            raise RemoteImageRefused(
                "Pictures by address are off on this service; send the picture itself, as base64 or a file."
            )
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                return await self._follow(url)
        except TimeoutError:
            raise RemoteImageUnavailable(
                f"The picture did not arrive within {self._limits.max_seconds} seconds."
            ) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            logger.info("remote_image_failed", error=f"{type(error).__name__}: {error}"[:300])
            raise RemoteImageUnavailable("The other server could not be reached, or broke off.") from error

    async def _follow(self, url: str) -> bytes:
        target = _checked_url(url)
        for _ in range(self._limits.max_redirects + 1):
            answer = await self._get(target)
            if isinstance(answer, bytes):
                return answer
            target = _checked_url(answer.location, base=target)
        raise RemoteImageUnavailable(f"The address redirects more than {self._limits.max_redirects} times.")

    async def _get(self, url: httpx.URL) -> bytes | _Redirect:
        """Send one request on a connection of its own."""
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(
                httpcore.AsyncConnectionPool(network_backend=self._backend, max_connections=1)
            )
            timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self._limits.max_seconds)
            response = await stack.enter_async_context(
                pool.stream(
                    "GET",
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=_headers(url),
                    extensions={"timeout": timeouts},
                )
            )
            if response.status in REDIRECT_STATUSES:
                return _Redirect(_header(response, b"location"))
            return await self._body(response)

    async def _body(self, response: httpcore.Response) -> bytes:
        if response.status != 200:
            raise RemoteImageUnavailable(f"The other server answered with status {response.status}.")
        if _header(response, b"content-encoding") not in {"", "identity"}:
            raise RemoteImageUnavailable("The other server compressed the picture although it was asked not to.")
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self._limits.max_bytes:
                raise RemoteImageUnavailable(f"The picture has more than {self._limits.max_bytes} bytes.")
        return bytes(body)


@dataclass(frozen=True, slots=True)
class _Redirect:
    location: str


def _headers(url: httpx.URL) -> list[tuple[bytes, bytes]]:
    return [
        (b"Host", url.netloc),
        (b"User-Agent", b"structxlip"),
        (b"Accept", b"image/*"),
        (b"Accept-Encoding", b"identity"),
        (b"Connection", b"close"),
    ]


def _header(response: httpcore.Response, name: bytes) -> str:
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("latin-1").strip() if values else ""


def _checked_url(text: str, *, base: httpx.URL | None = None) -> httpx.URL:
    """Parse an address once, with the parser whose parts are then dialled.

    Raises:
        RemoteImageRefused: If it is not plain http or https.
    """
    if len(text) > MAX_URL_LENGTH:
        raise RemoteImageRefused(f"The address has more than {MAX_URL_LENGTH} characters.")
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise RemoteImageRefused("The address is not a URL.") from error
    if url.scheme not in DEFAULT_PORTS or not url.host:
        raise RemoteImageRefused(f"Only http and https addresses are visited; received {url.scheme[:20]!r}.")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise RemoteImageRefused(f"The address has the port {url.port}; ports are 1 to 65535.")
    if url.userinfo:
        raise RemoteImageRefused("The address carries a user name or password; those are not sent.")
    return url
