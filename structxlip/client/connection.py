"""Where the service is and how it is talked to: what both clients hand to httpx."""

from __future__ import annotations

from typing import Any

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 60.0
CONNECT_SECONDS = 5.0
USER_AGENT = "structxlip-client"


def http_options(base_url: str, api_key: str | None, timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments of `httpx.Client` and `httpx.AsyncClient`.

    Raises:
        ValueError: If the address is not one of http or https.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"not an address: {base_url!r}: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"expected the service's address, such as {DEFAULT_URL}; received {base_url!r}")
    headers = {"User-Agent": USER_AGENT}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
    return {"base_url": url, "headers": headers, "timeout": timeout}
