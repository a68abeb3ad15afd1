"""The OpenAPI document is true: schemathesis tries it over a real socket, with keys switched on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.security import KeyStore, create_key
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service


@pytest.mark.slow
def test_no_answer_breaks_the_contract(tmp_path: Path, tiny_model: str, tiny_encoder: TwoViewEncoder) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "tester", ["admin"])
    settings = Settings(model=tiny_model, data=tmp_path / "data", api_keys=file)
    with running_service(settings, tiny_encoder, keys=KeyStore.load(file)) as url:
        pictures = [("files", (f"{n}.jpg", data)) for n, data in enumerate(plain_jpegs(5, seed=4))]
        httpx.post(f"{url}/index", files=pictures, headers={"X-API-Key": key}).raise_for_status()
        run = subprocess.run(
            [
                str(Path(sys.executable).parent / "schemathesis"),
                "run",
                f"{url}/openapi.json",
                "--header",
                f"Authorization: Bearer {key}",
                "--max-examples",
                "25",
                "--seed",
                "20",
                # A cursor, an id or a filter may fit the schema and still name nothing.
                "--exclude-checks",
                "positive_data_acceptance",
                "--no-color",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert run.returncode == 0, run.stdout[-6000:]
        assert httpx.get(f"{url}/readyz").status_code == 200
