from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from structxlip.backends import openvino_cpu, stored
from structxlip.backends.selection import Execution
from structxlip.backends.stored import FORM_FILE, FORM_FOLDER, FormRecord, write_form
from structxlip.checkpoint import save_checkpoint
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.encoder import TwoViewEncoder
from structxlip.errors import CheckpointWriteError, UnsupportedModelError
from structxlip.models import load_encoder, load_plain_model
from tests.support.chosen_towers import select_towers
from tests.support.resident import resident_bytes
from tests.support.tiny_open_clip import write_tiny_open_clip

pytest.importorskip("openvino")

ON_OPENVINO = Execution("openvino")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    plain = load_plain_model(
        f"local-dir:{write_tiny_open_clip(root / 'plain')}", edge_branch=EdgeBranchConfig("cnn", width=8), device="cpu"
    )
    save_checkpoint(root / "checkpoint", plain, default_structure_weight=0.3)
    write_form(load_encoder(str(root / "checkpoint"), device="cpu"), root / "checkpoint")
    return root / "checkpoint"


@pytest.fixture
def checkpoint(exported: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(exported, tmp_path / "checkpoint"))


@pytest.fixture
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(encoder: TwoViewEncoder) -> None:
        raise AssertionError("converted, although the stored form fits")

    monkeypatch.setattr(openvino_cpu, "convert", fail)


def load(folder: Path) -> TwoViewEncoder:
    return load_encoder(str(folder), device="cpu", execution=ON_OPENVINO)


def test_an_export_says_what_it_is_of_and_how_near_it_comes(exported: Path) -> None:
    record = FormRecord.model_validate_json((exported / FORM_FOLDER / FORM_FILE).read_text())
    assert record.fingerprint == json.loads((exported / "config.json").read_text())["fingerprint"]
    assert record.openvino == openvino_cpu.version()
    assert set(record.cosines) == {"images", "edges", "tokens"}
    assert min(record.cosines.values()) > 0.99999


@pytest.mark.usefixtures("no_conversion")
def test_it_is_used_instead_of_converting_again(exported: Path) -> None:
    encoder = load(exported)
    assert set(encoder.towers.describe().values()) == {"openvino f32"}


def test_its_weights_leave_memory_once_they_are_packed(exported: Path) -> None:
    encoder = load(exported)
    for name in ("images", "edges", "tokens"):
        weights = exported / FORM_FOLDER / f"{name}.bin"
        assert resident_bytes(weights) == 0
    encoder.encode_texts([encoder.prepare_text("a chair")])
    assert 0 < resident_bytes(exported / FORM_FOLDER / "tokens.bin") < weights.stat().st_size


def test_it_is_ignored_beside_other_weights(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    form = json.loads((checkpoint / FORM_FOLDER / FORM_FILE).read_text())
    (checkpoint / FORM_FOLDER / FORM_FILE).write_text(json.dumps(form | {"fingerprint": "0" * 64}))
    assert set(load(checkpoint).towers.describe().values()) == {"openvino f32"}
    assert "is ignored: it was made from other weights; export it again" in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (FORM_FILE, b"{}", "its form.json cannot be read"),
        (FORM_FILE, b"\xff\x00", "its form.json cannot be read"),
        ("tokens.xml", b"<net", "a tower cannot be read"),
    ],
)
def test_a_damaged_form_is_ignored(
    checkpoint: Path, caplog: pytest.LogCaptureFixture, file: str, content: bytes, told: str
) -> None:
    (checkpoint / FORM_FOLDER / file).write_bytes(content)
    assert set(load(checkpoint).towers.describe().values()) == {"openvino f32"}
    assert told in caplog.text


def test_a_form_of_a_later_release_is_ignored(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    form = json.loads((checkpoint / FORM_FOLDER / FORM_FILE).read_text())
    (checkpoint / FORM_FOLDER / FORM_FILE).write_text(json.dumps(form | {"format_version": 2}))
    load(checkpoint)
    assert "format version 2, this release reads 1" in caplog.text


def test_weights_that_were_changed_in_it_never_serve(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = checkpoint / FORM_FOLDER / "images.bin"
    numbers = np.frombuffer(weights.read_bytes()[: weights.stat().st_size // 4 * 4], dtype=np.float32).copy()
    numbers[np.abs(numbers) > 1e-6] *= 1.5  # weights; shapes and indices look like tiny numbers
    weights.write_bytes(numbers.tobytes())
    towers = load(checkpoint).towers
    assert towers.describe() == {"images": "torch f32", "edges": "openvino f32", "tokens": "openvino f32"}
    assert "openvino f32 is not used for the images" in caplog.text


def test_an_export_that_fails_its_check_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_open_clip(tmp_path / "model")
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    monkeypatch.setattr(stored, "smallest_cosine", lambda *arguments: 0.98)
    with pytest.raises(UnsupportedModelError, match=r"cosine 0\.980000, at least 0\.99999 is needed"):
        write_form(encoder, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]


def test_a_plain_model_has_its_form_beside_its_weights(tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model")
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    assert set(write_form(encoder, folder).cosines) == {"images", "tokens"}
    assert set(select_towers(encoder, ON_OPENVINO, folder=folder).describe().values()) == {"openvino f32"}


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    encoder = load_encoder(f"local-dir:{write_tiny_open_clip(tmp_path / 'model')}", device="cpu")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointWriteError, match="could not be written"):
        write_form(encoder, tmp_path / "file")
