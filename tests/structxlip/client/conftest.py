"""The bundled checkpoint behind a real socket: empty for tests that change it, and filled for those that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from structxlip.client import Client, RetryPolicy
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from tests.support.flaky_service import FlakyService
from tests.support.samples import sample_pictures
from tests.support.server import running_service, serve_in_thread


@pytest.fixture(scope="session")
def bundled_encoder() -> TwoViewEncoder:
    return load_encoder("scenes-tiny", device="cpu")


@pytest.fixture
def service_url(tmp_path: Path, bundled_encoder: TwoViewEncoder) -> Iterator[str]:
    """A fresh, empty service."""
    with running_service(Settings(data=tmp_path / "collection"), bundled_encoder) as url:
        yield url


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as client:
        yield client


@pytest.fixture(scope="session")
def sample_url(tmp_path_factory: pytest.TempPathFactory, bundled_encoder: TwoViewEncoder) -> Iterator[str]:
    """A service with some of the sample pictures, which no test changes."""
    settings = Settings(data=tmp_path_factory.mktemp("samples") / "collection")
    with running_service(settings, bundled_encoder) as url:
        with Client(url) as client:
            assert {result.status for result in client.add_many(sample_pictures(24))} == {"created"}
        yield url


@pytest.fixture
def samples(sample_url: str) -> Iterator[Client]:
    with Client(sample_url) as client:
        yield client


@pytest.fixture
def flaky() -> FlakyService:
    return FlakyService()


@pytest.fixture
def flaky_url(flaky: FlakyService) -> Iterator[str]:
    with serve_in_thread(flaky.app) as url:
        yield url


@pytest.fixture
def flaky_client(flaky_url: str) -> Iterator[Client]:
    """A client that hardly waits."""
    with Client(flaky_url, retries=QUICK) as client:
        yield client


QUICK = RetryPolicy(max_tries=4, first_delay_seconds=0.001)
