"""What an encoder runs on in the end."""

from __future__ import annotations

from pathlib import Path

from structxlip.backends.selection import Execution, towers_in_turn
from structxlip.backends.towers import Towers
from structxlip.encoder import TwoViewEncoder


def select_towers(encoder: TwoViewEncoder, execution: Execution, *, folder: Path | None = None) -> Towers:
    """Return the last of `towers_in_turn`: all that was asked for, checked."""
    *_, towers = towers_in_turn(encoder, execution, folder=folder)
    return towers
