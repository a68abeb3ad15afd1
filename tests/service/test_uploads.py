"""Request bodies over raw ASGI: the same parts however they are chunked, limits that hold while bytes arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st

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
from service.uploads import (
    BytesBudget,
    Upload,
    UploadLimits,
    clean_filename,
    parse_json,
    read_json_body,
    read_multipart,
)

BOUNDARY = "frontier"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
Event = dict[str, Any]


def part(name: str, data: bytes, filename: str | None = None, boundary: str = BOUNDARY) -> bytes:
    disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    return f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


def body(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def events(chunks: Sequence[bytes]) -> list[Event]:
    return [
        *({"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks),
        {"type": "http.request", "body": b"", "more_body": False},
    ]


def request(received: Sequence[Event], content_type: str | None = MULTIPART, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if content_type is not None:
        raw.append((b"content-type", content_type.encode()))
    remaining = iter(received)

    async def receive() -> Event:
        event = next(remaining, None)
        if event is None:
            await asyncio.Event().wait()  # a client that says nothing more
        assert event is not None
        return event

    return Request({"type": "http", "method": "POST", "path": "/index", "headers": raw}, receive)


def read(
    chunks: Sequence[bytes],
    limits: UploadLimits | None = None,
    content_type: str | None = MULTIPART,
    budget: BytesBudget | None = None,
    **headers: str,
) -> Upload:
    async def scenario() -> Upload:
        async with (budget or BytesBudget(10**9)).lease() as lease:
            return await read_multipart(
                request(events(chunks), content_type, **headers), limits or UploadLimits(), lease
            )

    return asyncio.run(scenario())


def test_files_and_fields_come_out_in_order() -> None:
    upload = read(
        [body(part("files", b"one", "a.jpg"), part("records", '["é"]'.encode()), part("files", b"", "b.png"))]
    )
    assert [(file.field, file.filename, file.data, file.problem) for file in upload.files] == [
        ("files", "a.jpg", b"one", None),
        ("files", "b.png", b"", None),
    ]
    assert upload.fields == {"records": '["é"]'}


@settings(max_examples=200, deadline=None)
@given(
    contents=st.lists(st.binary(max_size=200) | st.just(b"\r\n--frontie\r\n--frontier"[:-1]), max_size=5),
    cuts=st.lists(st.integers(0, 1500), max_size=30),
    boundary=st.sampled_from(
        ["frontier", "-", "---------------------------9051914041544843365972754266", "a'()+_,./:=?b"]
    ),
)
def test_any_chunking_gives_the_same_parts(contents: list[bytes], cuts: list[int], boundary: str) -> None:
    contents = [content for content in contents if f"\r\n--{boundary}".encode() not in content]
    whole = body(
        *(part("files", content, f"{number}.jpg", boundary) for number, content in enumerate(contents)),
        part("records", b"{}", boundary=boundary),
        boundary=boundary,
    )
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    chunks = [whole[start:end] for start, end in pairwise(edges)]
    upload = read(chunks, content_type=f'multipart/form-data; boundary="{boundary}"')
    assert [file.data for file in upload.files] == contents
    assert upload.fields == {"records": "{}"}


def test_one_byte_at_a_time_gives_the_same_parts() -> None:
    whole = body(part("files", b"\r\n--frontie\r\n", "a.jpg"), part("records", b"{}"))
    upload = read([whole[index : index + 1] for index in range(len(whole))])
    assert upload.files[0].data == b"\r\n--frontie\r\n"


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=300), position=st.integers(0, 400))
def test_garbage_is_an_upload_or_a_problem_and_nothing_else(garbage: bytes, position: int) -> None:
    whole = body(part("files", b"one", "a.jpg"), part("records", b"[]"))
    try:
        read([whole[:position] + garbage + whole[position:]])
        read([garbage])
    except Problem:
        pass


def test_a_file_over_its_limit_is_refused_alone_and_not_kept() -> None:
    budget = BytesBudget(1000)
    whole = body(part("files", b"x" * 5000, "big.jpg"), part("files", b"y" * 100, "fits.jpg"))

    async def scenario() -> None:
        async with budget.lease() as lease:
            chunks = [whole[start : start + 64] for start in range(0, len(whole), 64)]
            upload = await read_multipart(request(events(chunks)), UploadLimits(max_file_bytes=100), lease)
            assert budget.held_bytes == 100
        big, fits = upload.files
        assert isinstance(big.problem, ImageTooLarge)
        assert "5000" in big.problem.detail
        assert big.data is None
        assert fits.data == b"y" * 100

    asyncio.run(scenario())
    assert budget.held_bytes == 0


def test_one_file_too_many_is_refused_and_the_limit_is_not() -> None:
    limits = UploadLimits(max_files=3)
    assert len(read([body(*(part("files", b"x", "a") for _ in range(3)))], limits).files) == 3
    with pytest.raises(PayloadTooLarge, match="More than 3 files"):
        read([body(*(part("files", b"x", "a") for _ in range(4)))], limits)


@pytest.mark.parametrize(
    ("limits", "parts"),
    [
        (UploadLimits(max_field_bytes=10), [part("records", b"x" * 11)]),
        (UploadLimits(max_fields=2), [part(name, b"x") for name in "abc"]),
        (UploadLimits(max_body_bytes=300), [part("files", b"x" * 300, "a")]),
    ],
)
def test_a_body_over_a_limit_is_too_large(limits: UploadLimits, parts: list[bytes]) -> None:
    with pytest.raises(PayloadTooLarge):
        read([body(*parts)], limits)


def test_a_declared_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    async def scenario() -> None:
        async with BytesBudget(10**9).lease() as lease:
            await read_multipart(request([], content_length="301"), UploadLimits(max_body_bytes=300), lease)

    with pytest.raises(PayloadTooLarge):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    "whole",
    [
        b"",
        b"no multipart at all",
        part("files", b"x", "a"),
        body(part("files", b"x", "a"))[:-8],
        b"--frontier\r\n\r\nno headers\r\n--frontier--\r\n",
        b"--frontier\r\nContent-Disposition: attachment\r\n\r\nx\r\n--frontier--\r\n",
        b"--frontier\r\nContent-Disposition: form-data\r\n\r\nx\r\n--frontier--\r\n",
        b"--frontier\r\nBad Header: x\r\n\r\nx\r\n--frontier--\r\n",
        b"--frontier\r\n" + b"X: y\r\n" * 50 + b"\r\nx\r\n--frontier--\r\n",
        b"--frontier\r\nX: " + b"y" * 10_000 + b"\r\n\r\nx\r\n--frontier--\r\n",
    ],
)
def test_a_malformed_body_is_a_400(whole: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read([whole])


@pytest.mark.parametrize("content_type", [None, "application/json", "multipart/mixed; boundary=x", "text/plain"])
def test_another_content_type_is_a_415(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMediaType):
        read([b""], content_type=content_type)


@pytest.mark.parametrize("content_type", ["multipart/form-data", f"multipart/form-data; boundary={'b' * 71}"])
def test_a_boundary_is_needed_and_bounded(content_type: str) -> None:
    with pytest.raises(MalformedRequest, match="boundary"):
        read([b""], content_type=content_type)


def test_a_compressed_body_is_a_415() -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip"):
        read([b""], content_encoding="gzip")


@pytest.mark.parametrize("parts", [[part("records", b"\xff\xfe")], [part("records", b"1"), part("records", b"2")]])
def test_a_field_that_is_not_utf_8_or_comes_twice_is_a_422(parts: list[bytes]) -> None:
    with pytest.raises(InvalidRequest):
        read([body(*parts)])


def test_a_text_field_may_come_with_a_file_name() -> None:
    limits = UploadLimits(text_fields=frozenset({"records"}))
    assert read([body(part("records", b"[]", "records.json"))], limits).fields == {"records": "[]"}


def test_what_follows_the_final_boundary_is_ignored() -> None:
    assert len(read([body(part("files", b"x", "a")), b"epilogue"]).files) == 1


def test_a_client_that_goes_away_is_noticed() -> None:
    async def scenario() -> None:
        received = [{"type": "http.request", "body": part("files", b"x", "a"), "more_body": True}]
        async with BytesBudget(10**9).lease() as lease:
            await read_multipart(request([*received, {"type": "http.disconnect"}]), UploadLimits(), lease)

    with pytest.raises(RequestIncomplete):
        asyncio.run(scenario())


def test_a_client_that_stalls_is_cut_off_and_its_bytes_are_given_back() -> None:
    budget = BytesBudget(10**9)

    async def scenario() -> None:
        received = [{"type": "http.request", "body": part("files", b"x" * 50, "a"), "more_body": True}]
        async with budget.lease() as lease:
            await read_multipart(request(received), UploadLimits(max_seconds=0.05), lease)

    with pytest.raises(RequestTimeout):
        asyncio.run(scenario())
    assert budget.held_bytes == 0


def test_the_budget_of_the_process_refuses_with_retry_after_and_recovers() -> None:
    async def scenario() -> None:
        budget = BytesBudget(1000)
        whole = body(part("files", b"x" * 600, "a"))
        async with budget.lease() as first:
            await read_multipart(request(events([whole])), UploadLimits(), first)
            with pytest.raises(TooManyRequests) as raised:
                async with budget.lease() as second:
                    await read_multipart(request(events([whole])), UploadLimits(), second)
            assert int(raised.value.headers["Retry-After"]) >= 1
            with pytest.raises(TooManyRequests):  # told before a byte of the body is read
                async with budget.lease() as third:
                    await read_multipart(request([], content_length="700"), UploadLimits(), third)
            assert budget.held_bytes == 600
        async with budget.lease() as fourth:
            await read_multipart(request(events([whole])), UploadLimits(), fourth)
        assert budget.held_bytes == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"a.jpg", "a.jpg"),
        (b"../../etc/passwd", "passwd"),
        (b"C:\\photos\\a.jpg", "a.jpg"),
        (b"a\x00\r\nb.jpg", "ab.jpg"),
        (b"\xff.jpg", "�.jpg"),
        (b"x" * 1000, "x" * 255),
    ],
)
def test_a_file_name_is_made_harmless(raw: bytes, expected: str) -> None:
    assert clean_filename(raw) == expected


def read_json(chunks: Sequence[bytes], max_bytes: int = 1000, content_type: str = "application/json") -> object:
    return asyncio.run(read_json_body(request(events(chunks), content_type), max_bytes))


def test_json_is_read_whatever_its_chunks() -> None:
    assert read_json([b'{"a', b'": [1, 2', b".5]}"]) == {"a": [1, 2.5]}
    assert read_json([b"[]"], content_type="application/problem+json; charset=utf-8") == []


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[NaN]", b"[1e999]", b"[" * 100_000, b"\xff", b'"\\ud800"', b"1" * 5000, b"{'a': 1}"],
)
def test_what_is_not_json_is_a_400(text: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_json(text)


def test_a_json_body_may_have_its_limit_and_not_one_byte_more() -> None:
    assert read_json([b"[", b"1]"], max_bytes=3) == [1]
    with pytest.raises(PayloadTooLarge):
        read_json([b"[", b"10]"], max_bytes=3)


def test_json_of_another_content_type_is_a_415() -> None:
    with pytest.raises(UnsupportedMediaType, match="text/plain"):
        read_json([b"[]"], content_type="text/plain")
