"""Tables and sources of the page of measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def source(name: str, result: Result) -> str:
    """Return a link to a result with the machine's cores and the day."""
    day = str(result["measured_at"])[:10]
    return f"[{name}.json](../benchmarks/results/{name}.json), {result['machine']['cores']} cores, {day}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
