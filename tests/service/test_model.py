"""What the settings say of the backend reaches the model, and `structxlip export` makes its fast form."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from service.commands.errors import CommandError
from service.commands.export import export
from service.commands.serve import load_settings
from service.model import load_model, load_model_for_quick_start
from service.settings import Settings
from structxlip.backends.stored import FORM_FILE, FORM_FOLDER
from structxlip.errors import ConfigError
from tests.support.plain_pictures import plain_jpegs
from tests.support.resident import resident_bytes
from tests.support.server import running_service, start_service
from tests.support.tiny_open_clip import write_tiny_open_clip


@pytest.fixture(autouse=True)
def choose_as_a_user_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the suite says for all other tests (tests/conftest.py)."""
    monkeypatch.delenv("STRUCTXLIP_BACKEND", raising=False)


def invoke_export(*arguments: str) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(export)
    outcome = CliRunner().invoke(app, list(arguments))
    return outcome.exit_code, outcome.output, outcome.exception


def test_the_environment_chooses_backend_precision_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().backend, Settings().precision, Settings().threads) == ("auto", "f32", None)
    for name, value in (("BACKEND", "torch"), ("PRECISION", "bf16"), ("THREADS", "3")):
        monkeypatch.setenv(f"STRUCTXLIP_{name}", value)
    assert (Settings().backend, Settings().precision, Settings().threads) == ("torch", "bf16", 3)
    with pytest.raises(CommandError, match=r"backend \(STRUCTXLIP_BACKEND\): Input should be .*; received 'onnx'"):
        load_settings(backend="onnx")


def test_on_a_cpu_openvino_serves_and_info_says_so(settings: Settings) -> None:
    pytest.importorskip("openvino")
    encoder = load_model(settings.model_copy(update={"device": "cpu"}))
    with running_service(settings, encoder) as url:
        told = httpx.get(f"{url}/info").json()["model"]["execution"]
        added = httpx.post(f"{url}/index", files=[("files", ("a.jpg", data)) for data in plain_jpegs(9, seed=1)])
        found = httpx.post(f"{url}/search", json={"text": "a red table left of a chair"}).json()
    assert told == dict.fromkeys(("images", "edges", "tokens"), "openvino f32")
    assert {item["status"] for item in added.json()["items"]} == {"created"}
    assert len(found["hits"]) == 9


def test_torch_serves_until_openvino_is_ready(settings: Settings) -> None:
    pytest.importorskip("openvino")
    on_cpu = settings.model_copy(update={"device": "cpu"})
    encoder, change = load_model_for_quick_start(on_cpu)
    with running_service(on_cpu, encoder, backend_change=change) as url, httpx.Client(base_url=url, timeout=60) as api:
        # While the model is converted: whichever runs it, the same vectors must come.
        texts = [f"a red table left of {number} chairs" for number in range(40)]
        early = [api.post("/embed", json={"texts": [text]}).json()["texts"][0] for text in texts]
        change.wait()
        info = api.get("/info").json()
        late = [api.post("/embed", json={"texts": [text]}).json()["texts"][0] for text in texts]
    assert info["model"]["execution"] == dict.fromkeys(("images", "edges", "tokens"), "openvino f32")
    assert info["is_changing_backend"] is False
    for before, after in zip(early, late, strict=True):
        for view in ("appearance", "structure"):
            np.testing.assert_allclose(before[view], after[view], atol=1e-4)


def test_a_served_process_holds_no_torch_copy_of_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = write_tiny_open_clip(tmp_path / "model", half_precision=False)
    weights = folder / "open_clip_model.safetensors"
    service = start_service(
        f"local-dir:{folder}", tmp_path / "data", log=tmp_path / "log", device="cpu", backend="auto"
    )
    try:
        with httpx.Client(base_url=service.url, timeout=60) as api:
            while api.get("/info").json()["is_changing_backend"]:
                time.sleep(0.05)
            api.post("/index", files=[("files", ("a.jpg", data)) for data in plain_jpegs(3, seed=1)]).raise_for_status()
            api.post("/search", json={"text": "a red table left of a chair"}).raise_for_status()
        assert resident_bytes(weights, process=service.process.pid) < 0.2 * weights.stat().st_size
    finally:
        service.stop()


def test_a_served_process_walks_over_what_stays_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Full collections over everything imported held up every request for a fifth of a second, once a second.
    told = tmp_path / "told.json"
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, gc, json, sys\n"
        "def tell():\n"
        "    if 'serve' in sys.argv:\n"
        f"        open({str(told)!r}, 'w').write(json.dumps([gc.get_freeze_count(), len(gc.get_objects())]))\n"
        "atexit.register(tell)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    folder = write_tiny_open_clip(tmp_path / "model", half_precision=False)
    service = start_service(f"local-dir:{folder}", tmp_path / "data", log=tmp_path / "log", device="cpu")
    try:
        with httpx.Client(base_url=service.url, timeout=60) as api:
            while api.get("/info").json()["is_changing_backend"]:
                time.sleep(0.05)
            api.post("/search", json={"text": "a red table left of a chair"}).raise_for_status()
    finally:
        service.stop()
    set_apart, walked = json.loads(told.read_text())
    assert set_apart > 100_000
    assert walked < 0.2 * set_apart


def test_a_change_of_backend_that_fails_leaves_torch_serving(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("structxlip.models.towers_in_turn", fail)
    encoder, change = load_model_for_quick_start(settings.model_copy(update={"device": "cpu"}))
    change.start()
    change.wait()
    assert set(encoder.towers.describe().values()) == {"torch f32"}
    assert encoder.encode_texts([encoder.prepare_text("a chair")]).appearance.shape == (1, encoder.dimension)


def test_a_backend_that_does_not_fit_the_device_is_the_operators_mistake(settings: Settings) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ConfigError, match="the device is 'meta': set the device to cpu"):
        load_model(settings.model_copy(update={"device": "meta", "backend": "openvino"}))
    with pytest.raises(ConfigError, match="the device is 'meta': set the device to cpu"):
        load_model_for_quick_start(settings.model_copy(update={"device": "meta", "backend": "openvino"}))


def test_export_writes_beside_the_weights_and_says_how_near_it_is(tiny_model: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    folder = Path(shutil.copytree(tiny_model.removeprefix("local-dir:"), tmp_path / "model"))
    (tmp_path / "pictures").mkdir()
    for number, data in enumerate(plain_jpegs(3, seed=4)):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(data)
    code, output, error = invoke_export(f"local-dir:{folder}", "--pictures", str(tmp_path / "pictures"))
    assert (code, error) == (0, None)
    assert "images: smallest cosine to the model 1.0000000" in output or "0.99999" in output
    assert (folder / FORM_FOLDER / FORM_FILE).is_file()


def test_export_needs_a_folder_and_a_backend_that_it_knows(tiny_model: str) -> None:
    code, output, _ = invoke_export(tiny_model, "--backend", "abacus")
    assert code == 2
    assert "abacus" in output
    _, _, error = invoke_export("ViT-B-16:openai")
    assert isinstance(error, CommandError)
    assert "name it local-dir:FOLDER" in str(error)
