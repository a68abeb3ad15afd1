"""Who may ask: API keys, the address we listen on, request rates, and what a browser may be talked into.

With keys, every request names one. Without keys the service listens on a loopback address only, and there the
danger is the user's own browser: a foreign page may send requests to localhost, or point its own host name at
127.0.0.1 (DNS rebinding). So without keys the Host header must be one of ours, and nothing is changed for a
foreign origin.

A key is 256 random bits, so that one round of SHA-256 protects it at rest: there is nothing to guess, which
is what slow hashes and salts are for. Hashes are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.metrics import Metrics
from service.problems import Forbidden, MisdirectedRequest, TooManyRequests, Unauthorized, problem_response
from service.settings import Settings

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

KeyScope = Literal["read", "write", "admin"]
ALL_SCOPES: Final = frozenset[str](get_args(KeyScope))

KEY_PREFIX: Final = "sxl_"
KEY_BYTES: Final = 32
KEY_FILE_VERSION: Final = 1
KEY_FILE_CHECK_SECONDS: Final = 1.0
MAX_NAME_LENGTH: Final = 100

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain"})


class KeyFileError(ValueError):
    """The file of API keys cannot be used; the message says why and what to do."""


class UnsafeAddressError(ValueError):
    """The service would be open to everybody; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is stored: never the key itself."""

    name: str
    sha256: str
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """Whether the key may do this; ``admin`` may do everything, ``write`` does not include ``read``."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the name of the key, or the anonymous caller of a service without keys."""

    name: str | None


class _KeyEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    sha256: str
    scopes: list[KeyScope]


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    keys: list[_KeyEntry]


class KeyStore:
    """The keys of a file; the file is read again when it changes, so that a revoked key ends within a second.

    A file that becomes missing or unreadable while the service runs means that no key is valid until it is
    repaired: the other way round, damage would keep a revoked key alive.
    """

    def __init__(self, path: Path, keys: Sequence[ApiKey]) -> None:
        self._path = path
        self._keys = tuple(keys)
        self._signature = _file_signature(path)
        self._checked_at = time.monotonic()

    @classmethod
    def load(cls, path: Path) -> KeyStore:
        """Read a file that `create_key` has written.

        Raises:
            KeyFileError: If there is no such file, or it is not one of keys.
        """
        return cls(path, _read_keys(path))

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The keys as of the last look at the file."""
        return self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, token: str) -> ApiKey | None:
        """Return the key that ``token`` is, None when it is none; takes as long for any wrong token."""
        self._reread_if_changed()
        digest = _digest(token)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def _reread_if_changed(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < KEY_FILE_CHECK_SECONDS:
            return
        self._checked_at = now
        signature = _file_signature(self._path)
        if signature == self._signature:
            return
        self._signature = signature
        try:
            self._keys = tuple(_read_keys(self._path))
            logger.info("api_keys_reread", num_keys=len(self._keys))
        except KeyFileError as error:
            self._keys = ()
            logger.error("api_keys_unreadable", error=str(error))


def create_key(path: Path, name: str, scopes: Collection[str]) -> str:
    """Add a key to the file, which is made when missing, and return it: the only time that it is seen.

    Raises:
        KeyFileError: If the name is taken or empty, a scope unknown, or the file damaged.
    """
    if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise KeyFileError(f"a key needs a printable name of 1 to {MAX_NAME_LENGTH} characters; received {name!r}")
    unknown = set(scopes) - ALL_SCOPES
    if unknown or not scopes:
        raise KeyFileError(f"scopes are some of {sorted(ALL_SCOPES)}; received {sorted(scopes)}")
    keys = _read_keys(path) if path.exists() else []
    if any(key.name == name for key in keys):
        raise KeyFileError(f"there is a key named {name!r} already; revoke it first, or choose another name")
    token = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    _write_keys(path, [*keys, ApiKey(name, _digest(token), frozenset(scopes))])
    return token


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from the file; a running service notices within a second.

    Raises:
        KeyFileError: If there is no such key, or the file is damaged.
    """
    keys = _read_keys(path)
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        raise KeyFileError(f"there is no key named {name!r}; there are {[key.name for key in keys]}")
    _write_keys(path, kept)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _read_keys(path: Path) -> list[ApiKey]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(
            f"cannot read the API keys in {path}: {error.strerror}; make one with `structxlip keys create`"
        ) from error
    try:
        parsed = _KeyFile.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = "/".join(str(step) for step in first["loc"]) or "the file"
        raise KeyFileError(f"{path} is not a file of API keys: {where}: {first['msg']}") from error
    return [ApiKey(entry.name, entry.sha256, frozenset(entry.scopes)) for entry in parsed.keys]


def _write_keys(path: Path, keys: Sequence[ApiKey]) -> None:
    """Replace the file in one step, readable by its owner only."""
    listed = [{"name": key.name, "sha256": key.sha256, "scopes": sorted(key.scopes)} for key in keys]
    text = json.dumps({"version": KEY_FILE_VERSION, "keys": listed}, indent=2, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _file_signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_bind_address(host: str, *, has_keys: bool, allow_unauthenticated: bool = False) -> None:
    """Refuse to be open to a network without keys.

    Args:
        host: What the server will bind: an address, a host name, or ``unix:PATH``.
        has_keys: Requests must name an API key.
        allow_unauthenticated: The operator said that something in front of us checks callers.

    Raises:
        UnsafeAddressError: If anybody who reaches ``host`` could use the service.
    """
    if has_keys or allow_unauthenticated or is_loopback(host):
        return
    raise UnsafeAddressError(
        f"listening on {host or 'all addresses'!r} without API keys would let anybody on the "
        "network read, add and delete pictures. Listen on 127.0.0.1 (the default); or make a key with "
        "`structxlip keys create NAME --file FILE` and serve with `--api-keys FILE`; or, behind something "
        "that checks callers, say `--allow-unauthenticated`."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``; a name must lead to nothing else."""
    if host.startswith(("unix:", "/")):
        return True  # the file's permissions say who may connect
    if not host:
        return False  # all addresses
    address = _parse_address(host)
    if address is not None:
        return address.is_loopback
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = [_parse_address(str(entry[4][0])) for entry in found]
    return bool(addresses) and all(address is not None and address.is_loopback for address in addresses)


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class RateLimiter:
    """So many requests in a moving window for each key, or for each address where there are no keys.

    Args:
        limit: For example ``600/minute`` or ``10/second;600/minute``.
    """

    def __init__(self, limit: str) -> None:
        self._items: list[RateLimitItem] = parse_many(limit)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, who: str) -> None:
        """Count one request.

        Raises:
            TooManyRequests: If ``who`` has had all of theirs.
        """
        for item in self._items:
            if not self._limiter.hit(item, who):
                reset_at = self._limiter.get_window_stats(item, who).reset_time
                raise TooManyRequests(
                    f"The limit is {item}; retry after the time in the Retry-After header.",
                    retry_after_seconds=reset_at - time.time(),
                )


class AccessControl:
    """What `require` asks: the keys and the rates of one service.

    Args:
        keys: None lets everybody in; an empty store nobody.
        rate_limiter: None counts nothing.
        on_rejected: Told ``unauthorized``, ``forbidden`` or ``rate_limit``.
    """

    def __init__(
        self,
        keys: KeyStore | None,
        rate_limiter: RateLimiter | None,
        on_rejected: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._keys = keys
        self._rate_limiter = rate_limiter
        self._on_rejected = on_rejected

    def admit(self, token: str | None, address: str | None, scope: str) -> Caller:
        """Check one request.

        Args:
            token: What was sent as the key.
            address: Where the connection comes from.
            scope: What the call needs.

        Raises:
            Unauthorized: If there is no key or a wrong one.
            Forbidden: If the key is not for this.
            TooManyRequests: If the rate is spent.
        """
        key = self._identify(token)
        if key is not None and not key.allows(scope):
            self._on_rejected("forbidden")
            raise Forbidden(f"The key {key.name!r} has the scopes {sorted(key.scopes)}; this call needs {scope!r}.")
        if self._rate_limiter is not None:
            self._count(self._rate_limiter, f"key:{key.name}" if key is not None else network_of(address))
        return Caller(key.name if key is not None else None)

    def _identify(self, token: str | None) -> ApiKey | None:
        if self._keys is None:
            return None
        key = self._keys.find(token) if token else None
        if key is None:
            self._on_rejected("unauthorized")
            received = "The API key is not valid" if token else "No API key received"
            raise Unauthorized(f"{received}; send `Authorization: Bearer KEY` or `X-API-Key: KEY`.")
        return key

    def _count(self, rate_limiter: RateLimiter, who: str) -> None:
        try:
            rate_limiter.check(who)
        except TooManyRequests:
            self._on_rejected("rate_limit")
            raise


def network_of(address: str | None) -> str:
    """Name who sits at an address: an IPv4 address, or an IPv6 /64, of which one caller has all."""
    parsed = _parse_address(address) if address else None
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((parsed, 64), strict=False))
    return str(parsed or address or "unknown")


# FastAPI looks annotations up among the module's names. These also put the two headers into OpenAPI.
_BEARER = HTTPBearer(auto_error=False, description="An API key made by `structxlip keys create`.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key, in a header of its own.")
BearerCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
HeaderKey = Annotated[str | None, Depends(_HEADER)]


def require(scope: KeyScope) -> Any:
    """Return the FastAPI dependency that lets a request through if its key has ``scope``.

    `install_security` says what it asks; its value is the `Caller`.
    """

    async def authorize(request: Request, bearer: BearerCredentials, header_key: HeaderKey) -> Caller:
        access: AccessControl = request.app.state.access
        token = bearer.credentials if bearer is not None else header_key
        return access.admit(token, request.client.host if request.client is not None else None, scope)

    return Depends(authorize)


def install_security(app: FastAPI, settings: Settings, keys: KeyStore | None, metrics: Metrics) -> None:
    """Put `AccessControl` where `require` finds it, and guard a service without keys against foreign pages.

    Args:
        app: The service.
        settings: Rates, hosts and origins.
        keys: None when nobody needs one.
        metrics: Where refusals are counted.
    """

    def count_rejected(reason: str) -> None:
        metrics.rejected_total.labels(reason).inc()

    rate_limiter = RateLimiter(settings.rate_limit) if settings.rate_limit else None
    app.state.access = AccessControl(keys, rate_limiter, count_rejected)
    if keys is None:
        app.add_middleware(
            BrowserGuard,
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=settings.cors_origins,
            # On a public address without keys, where the operator answers for the callers, any name may be
            # ours.
            check_host=is_loopback(settings.host) or bool(settings.allowed_hosts),
            on_rejected=count_rejected,
        )


class BrowserGuard:
    """Keeps foreign web pages from using a service without keys through its user's browser.

    * A Host header that is none of ours means that someone's name leads to our address: DNS rebinding.
    * A request that changes something, from a page of another origin, is refused; reading its answer is
    CORS's matter.

    Args:
        app: The ASGI application inside.
        allowed_hosts: Names besides localhost and the loopback addresses; ``*.example.org`` is for all below
            it.
        allowed_origins: As in CORS: ``https://shop.example.org``.
        check_host: False takes any Host header.
        on_rejected: Told ``foreign_host`` or ``foreign_origin``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        check_host: bool = True,
        on_rejected: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._allowed_origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
        self._check_host = check_host
        self._on_rejected = on_rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            problem = self._refusal(scope["method"], Headers(scope=scope))
            if problem is not None:
                await problem_response(scope, problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> MisdirectedRequest | Forbidden | None:
        host = headers.get("host", "")
        if self._check_host and not self._is_ours(host_name(host)):
            self._on_rejected("foreign_host")
            return MisdirectedRequest(
                f"The Host header is {host[:100]!r}; this service answers for localhost. Add the name to "
                "`allowed_hosts` (STRUCTXLIP_ALLOWED_HOSTS) if it is yours."
            )
        if method not in SAFE_METHODS and not self._is_same_site(headers, host):
            self._on_rejected("foreign_origin")
            return Forbidden(
                "The request comes from a web page of another origin; add it to `cors_origins` "
                "(STRUCTXLIP_CORS_ORIGINS) if it may use this service."
            )
        return None

    def _is_ours(self, name: str) -> bool:
        if name in LOOPBACK_NAMES or name in self._allowed_hosts:
            return True
        address = _parse_address(name)
        return (address is not None and address.is_loopback) or any(
            allowed[:2] == "*." and name.endswith(allowed[1:]) for allowed in self._allowed_hosts
        )

    def _is_same_site(self, headers: Headers, host: str) -> bool:
        """No Origin header means no browser, or one so old that Sec-Fetch-Site is not there either."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in {"none", "same-origin"}
        if origin.lower().rstrip("/") in self._allowed_origins:
            return True
        return origin != "null" and urlsplit(origin).netloc.lower() == host.lower()


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


def host_name(host: str) -> str:
    """Return the name of a Host header, in lower case, without port and final dot; empty when malformed."""
    match = _HOST.fullmatch(host.lower())
    return match.group(1).strip("[]").rstrip(".") if match is not None else ""
