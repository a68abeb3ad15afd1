"""Tables and sources of the page of measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

# Ends the name of ours tuned on the queries of the comparison, as FAISS is.
BY_HAND = "_by_hand"
# Suffixes of results of other machines, beside those of the first: each kind of processor has its own limits.
OTHER_MACHINES = ("avx512", "avx2")


def measured(results: Mapping[str, Result], name: str) -> list[tuple[str, Result]]:
    """Return the results of one benchmark by name, of every machine that it was measured on."""
    names = (name, *(f"{name}_{suffix}" for suffix in OTHER_MACHINES))
    return [(each, results[each]) for each in names if each in results]


def source(name: str, result: Result) -> str:
    """Return a link to a result with the machine's cores and the day."""
    day, machine = str(result["measured_at"])[:10], result["machine"]
    processor = machine.get("processor", "")
    maker = next((maker for maker in ("Intel", "AMD") if maker in processor), processor)
    cores = f"{machine['cores']} {maker} cores".replace("  ", " ")
    if instructions := machine.get("matrix_instructions"):
        cores += f" with {', '.join(instructions)}"
    return f"[{name}.json](../benchmarks/results/{name}.json), {cores}, {day}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
