"""Conditional requests (RFC 9110 §13): what the caller already holds is not sent, or made, again."""

from __future__ import annotations

from fastapi import Request


def holds_current(request: Request, etag: str) -> bool:
    """Whether the caller's copy is the current one.

    Args:
        request: Its ``If-None-Match`` lists the copies that the caller holds; they are compared weakly, as RFC 9110
            asks for this header.
        etag: Of what would be sent, quotes included.
    """
    listed = request.headers.get("if-none-match", "")
    held = {part.strip().removeprefix("W/") for part in listed.split(",")}
    return "*" in held or etag in held
