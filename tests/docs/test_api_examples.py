"""The examples of docs/api.md are calls that work, on the sample pictures that `make demo` adds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from structxlip.models import load_encoder
from tests.service.web.conftest import add_samples
from tests.support.server import running_service

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLE = re.compile(r"^```json (?P<method>[A-Z]+) (?P<path>/\S*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [(found["method"], found["path"], found["body"]) for found in EXAMPLE.finditer(DOCUMENT.read_text())]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with the sample pictures and the bundled model."""
    settings = Settings(data=tmp_path_factory.mktemp("docs") / "collection")
    with running_service(settings, load_encoder("scenes-tiny", device="cpu")) as url:
        add_samples(url)
        with httpx.Client(base_url=url, timeout=60) as api:
            yield api


def test_every_block_of_json_is_an_example() -> None:
    assert len(EXAMPLES) == DOCUMENT.read_text().count("```json") >= 10


@pytest.mark.parametrize(("method", "path", "body"), EXAMPLES)
def test_the_example_works(api: httpx.Client, method: str, path: str, body: str) -> None:
    answer = api.request(method, path, json=json.loads(body))
    assert answer.status_code == 200, answer.text
    if path == "/search" and "only_confident" not in body:
        assert answer.json()["hits"]
