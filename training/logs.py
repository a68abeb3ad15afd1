"""What a run tells while it goes: a progress line, CSV files, TensorBoard.

A run that is resumed goes on in the same files; rows of steps that were done after the last save, and so will be done
again, are taken out first.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

STEPS_FILE, VALIDATION_FILE = "steps.csv", "validation.csv"
SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Print a line on the screen, over a progress line where one stands."""
    print(message, end="\x1b[K\n" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


class RunLog:
    """Writes a run's numbers; use it in a `with` block.

    Args:
        folder: Of the run.
        resumed_at: Steps that are done.
        is_quiet: Print nothing, as every process but the first.
    """

    def __init__(self, folder: Path, *, resumed_at: int = 0, is_quiet: bool = False) -> None:
        self._is_quiet = is_quiet
        self._steps = None if is_quiet else _Table(folder / STEPS_FILE, resumed_at)
        self._validation = None if is_quiet else _Table(folder / VALIDATION_FILE, resumed_at)
        self._board: Any = None if is_quiet else _open_board(folder / "tensorboard", resumed_at)
        self._last_line = 0.0

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for open_part in (self._steps, self._validation, self._board):
            if open_part is not None:
                open_part.close()

    def step(self, step: int, num_steps: int, values: Mapping[str, float]) -> None:
        """Record a step and show it now and then."""
        if self._steps is None:
            return
        self._steps.add({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)
        self._show(step, num_steps, values)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Record and show a validation."""
        if self._validation is None:
            return
        self._validation.add({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(f"validation/{name}", value, step)
        self.say("validation: " + "  ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def say(self, message: str) -> None:
        """Print a line."""
        if not self._is_quiet:
            say(message)

    def _show(self, step: int, num_steps: int, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        is_live = sys.stderr.isatty()
        if step < num_steps and now - self._last_line < (0.2 if is_live else SECONDS_BETWEEN_LINES):
            return
        self._last_line = now
        done = round(20 * step / num_steps)
        told = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        line = f"[{'#' * done}{'.' * (20 - done)}] {step}/{num_steps}  {told}"
        print(f"\r{line}\x1b[K" if is_live else line, end="" if is_live else "\n", file=sys.stderr, flush=True)


class _Table:
    """A CSV file whose columns are those of its first row."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        kept = _rows_up_to(path, resumed_at) if resumed_at else []
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")
        self._writer: Any = None
        for row in kept:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(row), extrasaction="ignore")
            self._writer.writeheader()
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_table(path: Path) -> list[dict[str, float]]:
    """Read a log as numbers; nothing where there is no file."""
    return [{name: float(value) for name, value in row.items() if value} for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _rows_up_to(path: Path, step: int) -> list[dict[str, str]]:
    return [row for row in _rows(path) if row["step"].isdigit() and int(row["step"]) <= step]


def _open_board(folder: Path, resumed_at: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else None)
