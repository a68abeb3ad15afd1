"""One tiny model and, for most tests, one running service a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from tests.support.server import running_service
from tests.support.tiny_open_clip import write_tiny_open_clip


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small random model, as `--model` takes it."""
    return f"local-dir:{write_tiny_open_clip(tmp_path_factory.mktemp('model') / 'tiny')}"


@pytest.fixture(scope="session")
def tiny_encoder(tiny_model: str) -> TwoViewEncoder:
    """That model, loaded."""
    return load_encoder(tiny_model, device="cpu")


@pytest.fixture
def settings(tmp_path: Path, tiny_model: str) -> Settings:
    """Settings for a service of its own."""
    return Settings(model=tiny_model, data=tmp_path / "collection")


@pytest.fixture
def service_url(settings: Settings, tiny_encoder: TwoViewEncoder) -> Iterator[str]:
    """A fresh, empty service on a real socket."""
    with running_service(settings, tiny_encoder) as url:
        yield url


@pytest.fixture
def client(service_url: str) -> Iterator[httpx.Client]:
    """A client of that service."""
    with httpx.Client(base_url=service_url, timeout=60) as client:
        yield client
