"""How much of a mapped file a process has in memory, by what Linux says of it."""

from __future__ import annotations

from pathlib import Path

import pytest


def resident_bytes(file: Path, *, process: int | str = "self") -> int:
    """Return the bytes of a file that are in the memory of a process that maps it; skip the test without /proc."""
    maps = Path(f"/proc/{process}/smaps")
    if not maps.exists():
        pytest.skip("needs /proc")
    total, is_of_file = 0, False
    for line in maps.read_text().splitlines():
        first, second = line.split()[:2]
        if not first.endswith(":"):  # a new mapping: addresses, rights, …, name
            is_of_file = line.endswith(str(file))
        elif is_of_file and first == "Rss:":
            total += int(second) * 1024
    return total
