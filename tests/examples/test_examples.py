"""The examples as a reader runs them: as scripts, against the bundled checkpoint behind a real socket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from structxlip.client import Client
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


def test_the_weight_slides_and_a_sketch_finds_what_was_drawn(url: str) -> None:
    told = lines("search_by_structure.py", "--url", url)
    assert told[1].startswith(" structure weight 0.0: scene-00, ")
    assert len({line.partition(": ")[2] for line in told[1:6]}) > 1, "the weight changes nothing"
    assert "yellow" not in told[7]
    assert "scene-00" in [line.split()[0] for line in told[10:]], "not among the first three"


def test_copies_are_found_by_their_lines(url: str) -> None:
    told = lines("find_look_alikes.py", "--url", url)
    assert [line.split()[0] for line in told] == ["recoloured", "grey", "inverted", "blurred"]
    by_appearance, by_structure = zip(*(map(int, re.findall(r"\d+", line)) for line in told), strict=True)
    assert max(by_structure) <= 3
    assert max(by_appearance) > 3, "appearance finds them as well: the example shows nothing"


def test_a_query_without_a_match_is_told_apart_where_the_model_can(url: str) -> None:
    told = lines("no_match.py", "--url", url)
    with Client(url) as client:
        is_calibrated = client.info().calibration.is_calibrated
    assert ("carries no calibration" in told[0]) != is_calibrated
    matched, unmatched = [index for index, line in enumerate(told) if line.startswith("'")]
    assert told[matched + 1].startswith("  scene-00")
    assert ("nothing here matches" in told[unmatched + 1]) == is_calibrated
    assert ("confidence None" in told[-1]) != is_calibrated


def test_a_watched_picture_is_recognised_in_its_copies(url: str) -> None:
    *copies, another = lines("watch_for_copies.py", "--url", url)
    assert [line.split()[0] for line in copies if "resembles a picture of 'example'" in line] == [
        "recoloured",
        "grey",
        "inverted",
        "blurred",
    ]
    assert another.split(maxsplit=1) == ["another", "resembles nothing that is watched for"]
