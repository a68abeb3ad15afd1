"""Request bodies, bounded while they arrive: multipart uploads and JSON.

Nothing is buffered that will not be used. A file over its limit is refused alone: the rest of its bytes are
read past and dropped, and the other files of the request stand. What is buffered counts against a budget of
the whole process, so that many large uploads at once get a 429 rather than the machine's memory.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import Request
from pydantic import JsonValue
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from service.problems import (
    ImageTooLarge,
    InvalidRequest,
    MalformedRequest,
    PayloadTooLarge,
    Problem,
    RequestIncomplete,
    RequestTimeout,
    TooManyRequests,
    UnsupportedMediaType,
)

MEBIBYTE = 1024 * 1024
DEFAULT_BODY_SECONDS = 120.0
MAX_FILENAME_LENGTH = 255
MAX_PART_NAME_LENGTH = 100

# How long an upload usually holds its bytes: a guess, for the budget has no rate of its own.
BUDGET_RETRY_SECONDS = 2


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """How much one request body may be.

    Attributes:
        max_file_bytes: Of one file; a larger one is refused alone.
        max_files: In one request.
        max_field_bytes: Of one part that is not a file.
        max_fields: Parts that are not files.
        max_body_bytes: Of the whole body, headers of its parts included.
        max_header_bytes: Of one header line of a part.
        max_headers: Of one part.
        max_seconds: From the first byte to the last.
        text_fields: Parts of these names are fields even when they come with a file name.
    """

    max_file_bytes: int = 20 * MEBIBYTE
    max_files: int = 64
    max_field_bytes: int = MEBIBYTE
    max_fields: int = 16
    max_body_bytes: int = 256 * MEBIBYTE
    max_header_bytes: int = 4096
    max_headers: int = 8
    max_seconds: float = DEFAULT_BODY_SECONDS
    text_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of an upload: its bytes, or the problem with it.

    Attributes:
        field: Name of the part.
        filename: As the client called it, without folders; for messages only.
        data: All its bytes, None when there is a problem.
        problem: Why the file is not taken.
    """

    field: str
    filename: str
    data: bytes | None
    problem: Problem | None


@dataclass(frozen=True, slots=True)
class Upload:
    """A whole multipart body: files in the order in which they came, and text fields by name."""

    files: tuple[UploadedFile, ...]
    fields: dict[str, str]


class BytesBudget:
    """Bytes of request bodies that the process may hold at once; used from one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes held by all leases together."""
        return self._held_bytes

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[BytesLease]:
        """Hold bytes until the block ends: read the body and use it inside."""
        lease = BytesLease(self)
        try:
            yield lease
        finally:
            lease.end()

    def ensure(self, num_bytes: int) -> None:
        """Refuse now what would not fit later.

        Raises:
            TooManyRequests: If ``num_bytes`` more are not free.
        """
        if self._held_bytes and self._held_bytes + num_bytes > self._max_bytes:
            raise TooManyRequests(
                f"The service holds {self._held_bytes} bytes of uploads and takes {self._max_bytes} at once; "
                "retry after the time in the Retry-After header.",
                retry_after_seconds=BUDGET_RETRY_SECONDS,
            )

    def take(self, num_bytes: int) -> None:
        """Count bytes in."""
        self.ensure(num_bytes)
        self._held_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Count bytes out."""
        self._held_bytes -= num_bytes


class BytesLease:
    """One request's share of the budget; made by `BytesBudget.lease`."""

    def __init__(self, budget: BytesBudget) -> None:
        self._budget = budget
        self.held_bytes = 0

    def expect(self, num_bytes: int) -> None:
        """Refuse a body that says it is larger than what is free, before it is read.

        Raises:
            TooManyRequests: If the budget has no room for it now.
        """
        self._budget.ensure(num_bytes)

    def take(self, num_bytes: int) -> None:
        """Count bytes that are now held.

        Raises:
            TooManyRequests: If the budget is spent.
        """
        self._budget.take(num_bytes)
        self.held_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        """Count bytes out that are no longer held."""
        self._budget.give_back(num_bytes)
        self.held_bytes -= num_bytes

    def end(self) -> None:
        """Give back all that is held."""
        self.give_back(self.held_bytes)


async def read_multipart(request: Request, limits: UploadLimits, lease: BytesLease) -> Upload:
    """Read a ``multipart/form-data`` body while it arrives.

    Raises:
        UnsupportedMediaType: If the body is something else, or compressed.
        MalformedRequest: If it is not multipart as RFC 7578 says, or is cut off.
        PayloadTooLarge: If it has too many files, fields or bytes, or a field is too large.
        InvalidRequest: If a field is not UTF-8 or comes twice.
        RequestTimeout: If it takes too long.
        TooManyRequests: If the process holds too many uploads already.
    """
    boundary = _boundary(request)
    lease.expect(_checked_length(request, limits.max_body_bytes))
    reader = _MultipartReader(boundary, limits, lease)
    async for chunk in _bounded_body(request, limits.max_body_bytes, limits.max_seconds):
        reader.feed(chunk)
    return reader.finish()


async def read_json_body(
    request: Request,
    max_bytes: int,
    *,
    max_seconds: float = DEFAULT_BODY_SECONDS,
    lease: BytesLease | None = None,
) -> JsonValue:
    """Read a JSON body of at most ``max_bytes``.

    Raises:
        UnsupportedMediaType: If the content type is not JSON, or the body is compressed.
        MalformedRequest: If it is not JSON: Python's own additions, such as ``NaN``, are not.
        PayloadTooLarge: If it is larger.
        RequestTimeout: If it takes too long.
        TooManyRequests: If the process holds too many uploads already.
    """
    media_type = _media_type(request)
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaType(f"This call takes application/json; received {media_type or 'no content type'!r}.")
    _refuse_compressed(request)
    length = _checked_length(request, max_bytes)
    if lease is not None:
        lease.expect(length)
    body = bytearray()
    async for chunk in _bounded_body(request, max_bytes, max_seconds):
        if lease is not None:
            lease.take(len(chunk))
        body += chunk
    return parse_json(bytes(body))


def parse_json(text: str | bytes) -> JsonValue:
    """Parse JSON strictly, from someone who may not mean well.

    Raises:
        MalformedRequest: If it is not JSON, or nested too deeply to be read.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        parsed: JsonValue = _DECODER.decode(decoded)
        if isinstance(text, str) or "\\u" in decoded:  # in strict UTF-8 nothing else can write half a pair
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise MalformedRequest("A string of the JSON has half a surrogate pair, which is no character.") from None
    except RecursionError:
        raise MalformedRequest("The JSON is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"The JSON is not UTF-8: byte {error.start} is wrong.") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"Not JSON: {error.msg} at character {error.pos}.") from None
    except ValueError as error:
        raise MalformedRequest(f"Not JSON: {error}.") from None
    return parsed


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large a number")
    return number


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite_float)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _refuse_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMediaType(f"The body is compressed ({encoding[:40]!r}); send it as it is.")


def _boundary(request: Request) -> bytes:
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data":
        received = _media_type(request) or "no content type"
        raise UnsupportedMediaType(f"This call takes multipart/form-data; received {received[:100]!r}.")
    _refuse_compressed(request)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise MalformedRequest("The content type multipart/form-data needs a boundary of 1 to 70 characters.")
    return boundary


def _checked_length(request: Request, max_bytes: int) -> int:
    """Return the body's declared length, 0 when it comes in chunks, after checking it."""
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise MalformedRequest(f"Content-Length is not a number: {declared[:40]!r}.")
    if int(declared) > max_bytes:
        raise _body_too_large(max_bytes)
    return int(declared)


def _body_too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body has more than {max_bytes} bytes; send it in several requests.")


async def _bounded_body(request: Request, max_bytes: int, max_seconds: float) -> AsyncIterator[bytes]:
    """Yield the body's chunks; the time a consumer takes counts too, but consumers here only copy."""
    num_bytes = 0
    ends_at = asyncio.get_running_loop().time() + max_seconds
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout_at(ends_at):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise RequestTimeout(f"The body did not arrive within {max_seconds} seconds.") from None
        except ClientDisconnect:
            raise RequestIncomplete(f"The connection ended after {num_bytes} bytes of the body.") from None
        if chunk is None:
            return
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _body_too_large(max_bytes)
        if chunk:
            yield chunk


@dataclass(slots=True)
class _Part:
    """A part whose headers are complete and whose bytes arrive."""

    name: str
    filename: str | None
    max_bytes: int
    data: bytearray = field(default_factory=bytearray)
    num_bytes: int = 0

    @property
    def is_over(self) -> bool:
        return self.num_bytes > self.max_bytes


class _MultipartReader:
    """Collects what python-multipart's parser finds, within the limits."""

    def __init__(self, boundary: bytes, limits: UploadLimits, lease: BytesLease) -> None:
        self._limits = limits
        self._lease = lease
        self._files: list[UploadedFile] = []
        self._fields: dict[str, str] = {}
        self._headers: dict[bytes, bytes] = {}
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._part: _Part | None = None
        self._num_files = 0
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_to_header_name,
                "on_header_value": self._add_to_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=limits.max_headers,
            max_header_size=limits.max_header_bytes,
        )

    def feed(self, chunk: bytes) -> None:
        """Parse more of the body.

        Raises:
            Problem: As `read_multipart`.
        """
        if self._is_complete:
            return  # an epilogue, which RFC 2046 allows and nobody reads
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedRequest(f"The multipart body is malformed: {error}.") from error

    def finish(self) -> Upload:
        """Return all parts, if the final boundary has come."""
        if not self._is_complete:
            raise MalformedRequest("The multipart body ends before its final boundary; it was cut off.")
        return Upload(tuple(self._files), self._fields)

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or not options.get(b"name"):
            raise MalformedRequest("A part has no 'Content-Disposition: form-data' with a name.")
        name = options[b"name"].decode("utf-8", "replace")[:MAX_PART_NAME_LENGTH]
        filename = options.get(b"filename")
        if filename is None or name in self._limits.text_fields:
            self._part = self._new_field(name)
        else:
            self._part = self._new_file(name, clean_filename(filename))

    def _new_file(self, name: str, filename: str) -> _Part:
        self._num_files += 1
        if self._num_files > self._limits.max_files:
            raise PayloadTooLarge(
                f"More than {self._limits.max_files} files in one request; send them in several requests."
            )
        return _Part(name, filename, self._limits.max_file_bytes)

    def _new_field(self, name: str) -> _Part:
        if name in self._fields:
            raise InvalidRequest(f"The field {name!r} was sent twice.")
        if len(self._fields) >= self._limits.max_fields:
            raise PayloadTooLarge(f"More than {self._limits.max_fields} fields in one request.")
        return _Part(name, None, self._limits.max_field_bytes)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        assert part is not None
        part.num_bytes += end - start
        if not part.is_over:
            self._lease.take(end - start)
            part.data += data[start:end]
        elif part.filename is None:
            raise PayloadTooLarge(f"The field {part.name!r} has more than {part.max_bytes} bytes.")
        else:
            self._lease.give_back(len(part.data))
            part.data = bytearray()  # the problem stands; neither what came nor what will come is kept

    def _end_part(self) -> None:
        part, self._part = self._part, None
        assert part is not None
        if part.filename is None:
            self._fields[part.name] = _decoded(part)
        else:
            self._files.append(_as_file(part, part.filename))

    def _end(self) -> None:
        self._is_complete = True


def _decoded(part: _Part) -> str:
    try:
        return part.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The field {part.name!r} is not UTF-8: byte {error.start} is wrong.") from None


def _as_file(part: _Part, filename: str) -> UploadedFile:
    if not part.is_over:
        return UploadedFile(part.name, filename, bytes(part.data), None)
    problem = ImageTooLarge(
        f"The file has {part.num_bytes} bytes; at most {part.max_bytes} are accepted. Send a smaller one."
    )
    return UploadedFile(part.name, filename, None, problem)


def clean_filename(raw: bytes) -> str:
    """Return a file's name without folders and control characters, fit for a message and for nothing else."""
    name = raw.decode("utf-8", "replace").replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in name if character.isprintable())[:MAX_FILENAME_LENGTH]
