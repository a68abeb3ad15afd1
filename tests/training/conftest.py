from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def keep_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """How memory is kept is a setting of a training process, and this process has other tests to run."""
    monkeypatch.setattr("training.commands.keep_freed_memory", lambda: False)
