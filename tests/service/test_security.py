"""Keys, scopes, addresses, rates, and what a foreign web page may not do."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service import security
from service.metrics import Metrics
from service.problems import install_problem_handlers
from service.security import (
    KeyFileError,
    KeyStore,
    UnsafeAddressError,
    check_bind_address,
    create_key,
    host_name,
    install_security,
    is_loopback,
    network_of,
    require,
    revoke_key,
)
from service.settings import Settings


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "keys.json"


def serve(keys: KeyStore | None, base_url: str = "http://localhost:8000", **options: Any) -> TestClient:
    app = FastAPI()

    @app.get("/read", dependencies=[require("read")])
    async def read() -> str:
        return "read"

    @app.post("/write", dependencies=[require("write")])
    async def write() -> str:
        return "written"

    install_security(app, Settings(**options), keys, Metrics())
    install_problem_handlers(app)
    return TestClient(app, base_url=base_url)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_the_file_holds_no_key_and_only_its_owner_reads_it(key_file: Path) -> None:
    token = create_key(key_file, "shop", ["read", "write"])
    assert len(token) >= 43
    assert token not in key_file.read_text()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    stored = KeyStore.load(key_file).keys
    assert [(key.name, key.scopes) for key in stored] == [("shop", {"read", "write"})]
    assert list(key_file.parent.iterdir()) == [key_file]


def test_a_key_is_found_and_nothing_else_is(key_file: Path) -> None:
    token = create_key(key_file, "shop", ["read"])
    create_key(key_file, "job", ["write"])
    store = KeyStore.load(key_file)
    found = store.find(token)
    assert found is not None
    assert found.name == "shop"
    for wrong in ("", token[:-1], token + "x", token.upper(), found.sha256, "\udcff"):
        assert store.find(wrong) is None


@pytest.mark.parametrize("scopes", [[], ["root"], ["read", "root"]])
def test_unknown_scopes_are_refused(key_file: Path, scopes: list[str]) -> None:
    with pytest.raises(KeyFileError, match="scopes"):
        create_key(key_file, "shop", scopes)
    assert not key_file.exists()


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101])
def test_bad_names_are_refused(key_file: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="name"):
        create_key(key_file, name, ["read"])


def test_a_name_is_given_once(key_file: Path) -> None:
    create_key(key_file, "shop", ["read"])
    with pytest.raises(KeyFileError, match="already"):
        create_key(key_file, "shop", ["write"])


def test_revoking_takes_a_running_service_no_restart(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "KEY_FILE_CHECK_SECONDS", 0.0)
    kept, revoked = create_key(key_file, "kept", ["read"]), create_key(key_file, "revoked", ["read"])
    store = KeyStore.load(key_file)
    assert store.find(revoked) is not None
    revoke_key(key_file, "revoked")
    assert store.find(revoked) is None
    assert store.find(kept) is not None
    with pytest.raises(KeyFileError, match="no key named"):
        revoke_key(key_file, "revoked")


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_file_that_breaks_lets_nobody_in(key_file: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setattr(security, "KEY_FILE_CHECK_SECONDS", 0.0)
    token = create_key(key_file, "shop", ["read"])
    store, content = KeyStore.load(key_file), key_file.read_text()
    if damage == "missing":
        key_file.unlink()
    else:
        key_file.write_text("{")
    assert store.find(token) is None
    key_file.write_text(content + "\n")
    assert store.find(token) is not None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 2, "keys": []}',
        '{"version": 1, "keys": [{"name": "a"}]}',
        json.dumps({"version": 1, "keys": [{"name": "a", "sha256": "00", "scopes": ["root"]}]}),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_without_its_content(key_file: Path, content: str) -> None:
    key_file.parent.mkdir()
    key_file.write_text(content)
    with pytest.raises(KeyFileError, match=r"keys\.json"):
        KeyStore.load(key_file)


def test_a_missing_file_says_how_to_make_one(key_file: Path) -> None:
    with pytest.raises(KeyFileError, match="structxlip keys create"):
        KeyStore.load(key_file)


def test_scopes_are_asked_and_admin_has_all(key_file: Path) -> None:
    tokens = {scope: create_key(key_file, scope, [scope]) for scope in ("read", "write", "admin")}
    client = serve(KeyStore.load(key_file))
    expected = {"read": (200, 403), "write": (403, 200), "admin": (200, 200)}
    for scope, token in tokens.items():
        received = (
            client.get("/read", headers=bearer(token)).status_code,
            client.post("/write", headers={"X-API-Key": token}).status_code,
        )
        assert received == expected[scope], scope


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}, {"Authorization": "Basic d3Jvbmc="}]
)
def test_without_a_right_key_it_is_a_401(key_file: Path, headers: dict[str, str]) -> None:
    create_key(key_file, "shop", ["read"])
    answer = serve(KeyStore.load(key_file)).get("/read", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["type"] == "/problems/unauthorized"


def test_an_empty_store_lets_nobody_in(key_file: Path) -> None:
    create_key(key_file, "shop", ["read"])
    revoke_key(key_file, "shop")
    assert serve(KeyStore.load(key_file)).get("/read").status_code == 401


def test_the_openapi_document_names_both_ways_to_send_a_key() -> None:
    schemes = serve(None).get("/openapi.json").json()["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "::ffff:127.0.0.1", "unix:/run/x.sock", "/run/x.sock"],
)
def test_a_loopback_address_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_bind_address(host, has_keys=False)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.1.2.3", "192.168.1.5", "8.8.8.8", "no-such-host.invalid"])
def test_any_other_address_needs_a_key_or_the_operators_word(host: str) -> None:
    with pytest.raises(UnsafeAddressError, match=r"structxlip keys create.*--allow-unauthenticated"):
        check_bind_address(host, has_keys=False)
    check_bind_address(host, has_keys=True)
    check_bind_address(host, has_keys=False, allow_unauthenticated=True)


def test_the_rate_limit_is_per_key_and_says_when_to_come_back(key_file: Path) -> None:
    first, second = create_key(key_file, "first", ["read"]), create_key(key_file, "second", ["read"])
    client = serve(KeyStore.load(key_file), rate_limit="3/minute")
    statuses = [client.get("/read", headers=bearer(first)).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = client.get("/read", headers=bearer(first))
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert client.get("/read", headers=bearer(second)).status_code == 200


def test_without_a_rate_limit_nothing_is_counted() -> None:
    client = serve(None)
    assert {client.get("/read").status_code for _ in range(50)} == {200}


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2a00:1450:4001:80f::200e", "2a00:1450:4001:80f::/64"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        (None, "unknown"),
    ],
)
def test_one_caller_is_an_ipv4_address_or_an_ipv6_network(address: str | None, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:1234", "[::1]:8000", "localhost."]
)
def test_without_keys_loopback_names_are_answered(host: str) -> None:
    assert serve(None).get("/read", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "192.168.1.5",
        "",
        "local host",
        "x@localhost",
    ],
)
def test_without_keys_a_foreign_name_is_refused(host: str) -> None:
    answer = serve(None).get("/read", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.json()["type"] == "/problems/misdirected-request"


def test_the_operator_may_add_names() -> None:
    client = serve(None, allowed_hosts=("photos.example", "*.lan"))
    for host, status in (("photos.example", 200), ("nas.lan:8000", 200), ("lan", 421), ("evilphotos.example", 421)):
        assert client.get("/read", headers={"Host": host}).status_code == status, host


def test_on_a_public_address_that_the_operator_opened_any_name_is_answered() -> None:
    client = serve(None, host="0.0.0.0", allow_unauthenticated=True)
    assert client.get("/read", headers={"Host": "photos.example"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://localhost:8000.attacker.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_without_keys_a_foreign_page_changes_nothing(headers: dict[str, str]) -> None:
    answer = serve(None).post("/write", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/forbidden"


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://localhost:8000"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
def test_our_own_page_and_programs_change_things(headers: dict[str, str]) -> None:
    assert serve(None).post("/write", headers=headers).status_code == 200


def test_an_origin_that_the_operator_named_changes_things() -> None:
    client = serve(None, cors_origins=("https://shop.example",))
    assert client.post("/write", headers={"Origin": "https://shop.example"}).status_code == 200
    assert client.post("/write", headers={"Origin": "https://other.example"}).status_code == 403


def test_with_keys_the_host_is_not_asked(key_file: Path) -> None:
    token = create_key(key_file, "shop", ["read"])
    client = serve(KeyStore.load(key_file), base_url="http://photos.example")
    assert client.get("/read", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize(
    ("host", "name"),
    [("LocalHost:80", "localhost"), ("[::1]:80", "::1"), ("a.b.", "a.b"), ("a b", ""), ("a:b:c", ""), ("a:999999", "")],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert host_name(host) == name
