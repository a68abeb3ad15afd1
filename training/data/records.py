"""What a source of pairs gives, and what can be wrong with a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

FaultKind = Literal["missing", "unreadable", "empty", "duplicate", "malformed"]
FAULT_KINDS: tuple[FaultKind, ...] = ("missing", "unreadable", "empty", "duplicate", "malformed")


class DataError(ValueError):
    """The data cannot be used as they are; the message names the record and says what to do."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a record.

    Attributes:
        kind: `missing` has no picture, `unreadable` has one that cannot be decoded whole, `empty` has no caption,
            `duplicate` repeats another record, `malformed` is not a record at all.
        key: Which record: its picture's name, or its place in the file.
        detail: What was found.
    """

    kind: FaultKind
    key: str
    detail: str


@dataclass(frozen=True)
class RawPair:
    """One picture and all that is said about it.

    Attributes:
        key: Its name, unique within its source.
        rgb: uint8 `(H, W, 3)`.
        captions: One or more, each true of the picture on its own.
        boxes: float32 `(N, 4)` regions given with the picture, `x1 y1 x2 y2` as shares of width and height.
    """

    key: str
    rgb: NDArray[np.uint8]
    captions: tuple[str, ...]
    boxes: NDArray[np.float32] | None = None


class PairSource(Protocol):
    """A set of pairs that can be read in any order, by any process."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Records that were left out while the source was opened."""

    @property
    def digest(self) -> str:
        """A digest of what the source holds, for the checkpoint's provenance."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """The name of a record."""

    def captions(self, index: int, epoch: int = 0) -> tuple[str, ...]:
        """What is said about a picture; a source that has several phrasings may give others in another epoch."""

    def read(self, index: int, epoch: int = 0) -> RawPair:
        """Read a record with its pixels.

        Raises:
            DataError: If the picture cannot be read.
        """

    def check(self, index: int, *, decode: bool) -> Fault | None:
        """Look for a fault in a record; `decode` reads the whole picture, not only its header."""
