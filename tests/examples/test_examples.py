"""The examples as a reader runs them: as scripts, against the bundled checkpoint behind a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from structxlip.models import load_encoder
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service
from tests.support.shared_data import REPOSITORY


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty service: the first example fills it, and the others find it filled."""
    settings = Settings(data=tmp_path_factory.mktemp("examples") / "collection")
    with running_service(settings, load_encoder("scenes-tiny", device="cpu")) as url:
        yield url


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, REPOSITORY / "examples" / script, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def lines(script: str, *arguments: str | Path) -> list[str]:
    example = run(script, *arguments)
    assert (example.returncode, example.stderr) == (0, "")
    return example.stdout.splitlines()


def test_the_quick_start_adds_once_and_finds(url: str) -> None:
    first = lines("quick_start.py", "--url", url)
    assert first[0] == "added: {'created': 60}"
    assert first[3].startswith("  scene-00 ")
    again = lines("quick_start.py", "--url", url)
    assert again[0] == "added: {'unchanged': 60}"
    assert again[1:] == first[1:]


def test_a_folder_is_streamed_and_failures_are_told(url: str, tmp_path: Path) -> None:
    for number, data in enumerate(plain_jpegs(20, seed=81)):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    assert lines("add_a_folder.py", tmp_path, "--url", url)[-1] == "20 of 20: 20 created"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with_failure = run("add_a_folder.py", tmp_path, "--url", url)
    assert with_failure.returncode == 1
    assert "broken.png: " in with_failure.stdout
    assert with_failure.stdout.splitlines()[-1].startswith("21 of 21: ")
    assert "20 unchanged" in with_failure.stdout
