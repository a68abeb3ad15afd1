from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from structxlip import atomic_folder
from structxlip.atomic_folder import new_folder
from tests.support.shared_data import REPOSITORY


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(target: Path, content: str) -> None:
    with new_folder(target) as draft:
        (draft / "file").write_text(content)


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with new_folder(target) as draft:
        (draft / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"
    assert names(target.parent) == ["b"]


@pytest.mark.parametrize("has_exchange", [True, False])
def test_it_takes_the_place_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_exchange: bool
) -> None:
    if not has_exchange:
        monkeypatch.setattr(atomic_folder.sys, "platform", "darwin")
    target = tmp_path / "kept"
    for content in ("one", "two", "three"):
        write(target, content)
        assert (target / "file").read_text() == content
        assert names(tmp_path) == ["kept"]


def test_a_block_that_fails_leaves_the_earlier_one_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    write(target, "old")
    with pytest.raises(FileNotFoundError), new_folder(target) as draft:
        (draft / "file").write_text((tmp_path / "no such file").read_text())
    assert (target / "file").read_text() == "old"
    assert names(tmp_path) == ["kept"]


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".kept.saving").mkdir()
    (tmp_path / ".kept.saving" / "stale").write_text("half")
    write(tmp_path / "kept", "new")
    assert names(tmp_path / "kept") == ["file"]
    assert names(tmp_path) == ["kept"]


def test_a_writer_killed_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    target = tmp_path / "kept"
    write(target, "0")
    (target / "other").write_text("0")
    code = f"""
from pathlib import Path
from structxlip.atomic_folder import new_folder
print("writing", flush=True)
for number in range(1, 10**9):
    with new_folder(Path({str(target)!r})) as draft:
        (draft / "file").write_text(str(number))
        (draft / "other").write_text(str(number))
"""
    moments = random.Random(0)
    seen = set()
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(moments.uniform(0.01, 0.15))
            writer.send_signal(signal.SIGKILL)
        assert (target / "file").read_text() == (target / "other").read_text()
        seen.add((target / "file").read_text())
    assert seen != {"0"}
