"""The command line, on a local collection and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.plain_pictures import plain_jpegs


def _run(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=400,
        env={**os.environ, "COLUMNS": "160", **environment},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures in two folders, one that is none, and a file that nobody would take for one."""
    pictures = plain_jpegs(5, seed=11)
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for number, data in enumerate(pictures):
        (root / ("sub" if number % 2 else ".") / f"{number}.jpg").write_bytes(data)
    (root / "broken.jpg").write_bytes(b"not a picture")
    (root / "notes.txt").write_text("not even named like one")
    return root


def test_a_folder_is_added_counted_resumed_and_searched(folder: Path, tmp_path: Path, tiny_model: str) -> None:
    where = {"STRUCTXLIP_MODEL": tiny_model, "STRUCTXLIP_DATA": str(tmp_path / "data")}
    first = _run("add", folder, "--report", tmp_path / "report.jsonl", **where)
    assert first.returncode == 1, first.stderr
    assert "5 created, 1 failed" in first.stderr
    failure = json.loads((tmp_path / "report.jsonl").read_text())
    assert failure["path"].endswith("broken.jpg")
    (folder / "broken.jpg").unlink()
    again = _run("add", folder, **where)
    assert again.returncode == 0
    assert "5 unchanged" in again.stderr

    found = _run("search", "a red chair", "--json", "--limit", "3", "--sheet", tmp_path / "sheet.png", **where)
    hits = json.loads(found.stdout)
    assert len(hits) == 3
    assert {"sub:1.jpg", "sub:3.jpg", "0.jpg", "2.jpg", "4.jpg"} >= {hit["id"] for hit in hits}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 300
    table = _run("search", "a red chair", **where)
    assert hits[0]["id"] in table.stdout
    described = json.loads(_run("info", "--json", **where).stdout)
    assert described["collection"]["num_images"] == 5


def test_a_running_service_is_added_to_and_searched(folder: Path, service_url: str) -> None:
    added = _run("add", folder, "--url", service_url, "--batch-size", "2")
    assert "5 created, 1 failed" in added.stderr
    hits = json.loads(_run("search", "a chair", "--json", "--url", service_url).stdout)
    assert len(hits) == 5
    assert "unchanged" in _run("add", folder / "0.jpg", folder / "2.jpg", "--url", service_url).stderr


def test_manifests_bring_ids_captions_and_metadata(folder: Path, tmp_path: Path, tiny_model: str) -> None:
    where = {"STRUCTXLIP_MODEL": tiny_model, "STRUCTXLIP_DATA": str(tmp_path / "data")}
    lines = [
        {"image": "0.jpg", "id": "zero", "caption": "first", "metadata": {"shop": "x"}},
        {"file": "2.jpg", "captions": ["second", "other"], "price": 3},
        {"nothing": "here"},
        {"image": "missing.jpg"},
    ]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "not json\n")
    (folder / "m.csv").write_text("filename,id,caption,colour\n4.jpg,four,fourth,red\n")
    run = _run("add", folder / "m.jsonl", folder / "m.csv", **where)
    assert "3 created, 3 failed" in run.stderr
    assert "record 3" in run.stderr
    hits = {hit["id"]: hit for hit in json.loads(_run("search", "x", "--json", **where).stdout)}
    assert hits["zero"]["metadata"]["shop"] == "x"
    assert (hits["2.jpg"]["caption"], hits["2.jpg"]["metadata"]["price"]) == ("second", 3)
    assert (hits["four"]["caption"], hits["four"]["metadata"]["colour"]) == ("fourth", "red")
    only = _run("search", "x", "--json", "--filter", '{"field": "colour", "eq": "red"}', **where)
    assert [hit["id"] for hit in json.loads(only.stdout)] == ["four"]


def test_a_backup_is_restored_elsewhere(folder: Path, tmp_path: Path, tiny_model: str) -> None:
    data, copy, other = tmp_path / "data", tmp_path / "copy", tmp_path / "other"
    _run("add", folder, "--data", data, "--model", tiny_model)
    assert _run("backup", copy, "--data", data).returncode == 0
    assert _run("restore", copy, "--data", other).returncode == 0
    search = ("search", "a chair", "--json", "--model", tiny_model, "--data")
    assert _run(*search, other).stdout == _run(*search, data).stdout
    refused = _run("restore", copy, "--data", other)
    assert refused.returncode == 1
    assert "error:" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_another_model_is_refused_until_reindexed(folder: Path, tmp_path: Path, tiny_model: str) -> None:
    from tests.support.tiny_open_clip import write_tiny_open_clip

    data = tmp_path / "data"
    other = f"local-dir:{write_tiny_open_clip(tmp_path / 'other', seed=1)}"
    _run("add", folder, "--data", data, "--model", tiny_model)
    refused = _run("search", "a chair", "--data", data, "--model", other)
    assert refused.returncode == 1
    assert "structxlip reindex" in refused.stderr
    assert _run("reindex", "--data", data, "--model", other).returncode == 0
    for model in (other, tiny_model):
        assert len(json.loads(_run("search", "a chair", "--json", "--data", data, "--model", model).stdout)) == 5
    assert _run("reindex", "--data", data, "--model", other, "--prune").returncode == 0
    assert _run("search", "a chair", "--data", data, "--model", tiny_model).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("add", "/nowhere/at/all"), "does not exist"),
        (("search", "x", "--filter", "{"), "not valid JSON"),
        (("search", "x", "--model", "no-such-model"), "no-such-model"),
        (("search", "x", "--url", "http://127.0.0.1:1", "--data", "x"), "either --url"),
        (("search", "x", "--url", "127.0.0.1:8000"), "--url: expected the service's address"),
        (("serve", "--host", "0.0.0.0"), "key"),
        (("serve", "--model", "/nowhere"), "/nowhere"),
    ],
)
def test_a_users_mistake_ends_in_one_sentence(arguments: tuple[str, ...], fragment: str, tmp_path: Path) -> None:
    run = _run(*arguments, cwd=tmp_path)
    assert run.returncode == 1
    assert "error:" in run.stderr
    assert fragment in run.stderr
    assert "Traceback" not in run.stderr


def test_a_setting_out_of_range_names_its_variable(tmp_path: Path) -> None:
    run = _run("serve", cwd=tmp_path, STRUCTXLIP_MAX_FILES="none")
    assert run.returncode == 1
    assert "STRUCTXLIP_MAX_FILES" in run.stderr


def test_keys_are_made_used_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = _run("keys", "create", "shop", "--file", file, "--scopes", "read")
    key = made.stdout.strip()
    assert len(key) > 20
    assert key not in file.read_text()
    assert "shop" in _run("keys", "list", "--file", file).stdout
    assert _run("keys", "revoke", "shop", "--file", file).returncode == 0
    assert "shop" not in _run("keys", "list", "--file", file).stdout


def test_the_command_line_names_every_command() -> None:
    shown = _run("--help").stdout
    for name in ("serve", "add", "search", "info", "backup", "restore", "reindex", "keys", "demo"):
        assert name in shown


@pytest.mark.slow
def test_the_demo_serves_adds_searches_and_stops(tmp_path: Path, tiny_model: str) -> None:
    run = _run("demo", "--model", tiny_model, "--once", "--port", "0", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "60 created" in run.stdout
    assert run.stdout.count("/search: ") == 3
    assert "/docs" in run.stdout
    assert "stopping" in run.stdout
    again = _run("demo", "--model", tiny_model, "--once", "--port", "0", cwd=tmp_path)
    assert "60 unchanged" in again.stdout
