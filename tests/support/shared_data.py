"""Where the larger real data lives, for the tests that need it: `../shared` beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shared_path(relative: str) -> Path:
    """Return a path below the shared data folder, or skip the test when this machine does not have it."""
    root = Path(os.environ.get("STRUCTXLIP_SHARED", REPOSITORY.parent / "shared"))
    path = root / relative
    if not path.exists():
        pytest.skip(f"needs {relative} of the shared data folder, which is not beside this checkout")
    return path
