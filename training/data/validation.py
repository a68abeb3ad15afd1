"""Every record is looked at before the first step: what is wrong is counted and shown, never silently replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from training.data.records import FAULT_KINDS, DataError, Fault, PairSource
from training.data.sources import FileSource

MAX_SHOWN = 10


@dataclass(frozen=True)
class ValidationReport:
    """What was found in a source.

    Attributes:
        num_records: Records that can be used.
        faults: Those that cannot, each with its reason.
    """

    num_records: int
    faults: tuple[Fault, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind, all kinds named."""
        found = Counter(fault.kind for fault in self.faults)
        return {kind: found[kind] for kind in FAULT_KINDS}

    def told(self) -> str:
        """Return the report as text, the first faults by name."""
        lines = [f"  {fault.kind}: {fault.key}: {fault.detail}" for fault in self.faults[:MAX_SHOWN]]
        if len(self.faults) > MAX_SHOWN:
            lines.append(f"  … and {len(self.faults) - MAX_SHOWN} more")
        return "\n".join([self.summary(), *lines])

    def summary(self) -> str:
        """Return its first line: how many records there are, and how many faults of each kind."""
        told = f"{self.num_records} usable records, {len(self.faults)} faulty"
        counts = ", ".join(f"{number} {kind}" for kind, number in self.counts.items() if number)
        return f"{told} ({counts})" if counts else told


def validated(
    source: PairSource,
    *,
    name: str,
    on_bad_record: Literal["fail", "skip"] = "fail",
    decode: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[PairSource, ValidationReport]:
    """Look at every record and return the source without the faulty ones.

    Args:
        source: What to look at.
        name: What to call it in messages.
        on_bad_record: `fail` raises if there is any fault; `skip` leaves the faulty records out.
        decode: Whether to decode pictures whole, which finds those that are cut short.
        on_progress: Called with the number of records seen.

    Raises:
        DataError: If there is a fault and it is to fail, or no record is left.
    """
    if not isinstance(source, FileSource):
        return source, ValidationReport(len(source), source.faults)
    faults = list(source.faults)
    bad: list[int] = []
    first_with: dict[tuple[str, tuple[str, ...]], str] = {}
    for index in range(len(source)):
        fault = source.check(index, decode=decode) or _repeated(source, index, first_with)
        if fault is not None:
            faults.append(fault)
            bad.append(index)
        if on_progress is not None:
            on_progress(index + 1)
    report = ValidationReport(len(source) - len(bad), tuple(faults))
    if faults and on_bad_record == "fail":
        raise DataError(f"{name}: {report.told()}\nrepair them, or set data.on_bad_record: skip to train without them")
    if not report.num_records:
        raise DataError(f"{name}: {report.told()}\nno record is left")
    return source.without(bad), report


def _repeated(source: FileSource, index: int, first_with: dict[tuple[str, tuple[str, ...]], str]) -> Fault | None:
    """Find a picture that is stored under two names with the same captions."""
    content = (source.picture_digest(index), source.captions(index))
    first = first_with.setdefault(content, source.key(index))
    if first == source.key(index):
        return None
    return Fault("duplicate", source.key(index), f"the same picture and captions as {first}")
