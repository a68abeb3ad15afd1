"""Keys and scopes at the door of a real service."""

from __future__ import annotations

from pathlib import Path

import httpx

from service.security import KeyStore, create_key
from service.settings import Settings
from structxlip.encoder import TwoViewEncoder
from tests.support.plain_pictures import plain_jpegs
from tests.support.server import running_service


def test_each_call_asks_for_its_scope(tmp_path: Path, tiny_model: str, tiny_encoder: TwoViewEncoder) -> None:
    file = tmp_path / "keys.json"
    reader = {"Authorization": f"Bearer {create_key(file, 'reader', ['read'])}"}
    writer = {"X-API-Key": create_key(file, "writer", ["read", "write"])}
    settings = Settings(model=tiny_model, data=tmp_path / "data", api_keys=file)
    picture = [("files", ("a", plain_jpegs(1, seed=2)[0]))]
    with running_service(settings, tiny_encoder, keys=KeyStore.load(file)) as url, httpx.Client(base_url=url) as client:
        assert client.get("/healthz").status_code == 200
        nobody = client.post("/search", json={"text": "x"})
        assert nobody.status_code == 401
        assert "Bearer" in nobody.headers["www-authenticate"]
        assert client.post("/search", json={"text": "x"}, headers={"X-API-Key": "wrong"}).status_code == 401
        assert client.post("/search", json={"text": "x"}, headers=reader).status_code == 200
        assert client.post("/index", files=picture, headers=reader).status_code == 403
        assert client.post("/index", files=picture, headers=writer).status_code == 200
        assert client.get("/info").status_code == 401


def test_a_body_without_a_key_is_not_read(tmp_path: Path, tiny_model: str, tiny_encoder: TwoViewEncoder) -> None:
    file = tmp_path / "keys.json"
    create_key(file, "reader", ["read"])
    settings = Settings(model=tiny_model, data=tmp_path / "data", api_keys=file)
    with running_service(settings, tiny_encoder, keys=KeyStore.load(file)) as url:
        answer = httpx.post(f"{url}/search", content=b"{not json", headers={"content-type": "application/json"})
        assert answer.status_code == 401


def test_a_foreign_page_cannot_use_a_service_without_keys(service_url: str) -> None:
    query = {"text": "x"}
    assert httpx.post(f"{service_url}/search", json=query).status_code == 200
    foreign = httpx.post(f"{service_url}/search", json=query, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    rebound = httpx.post(f"{service_url}/search", json=query, headers={"Host": "evil.example"})
    assert rebound.status_code == 421
