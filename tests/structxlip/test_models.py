from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from structxlip import models
from structxlip.architecture import build_model
from structxlip.backends.selection import Execution
from structxlip.checkpoint import save_checkpoint
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import OtsuCanny
from structxlip.encoder import TwoViewEncoder
from structxlip.errors import ModelUnavailableError, UnknownModelError, UnsupportedModelError
from structxlip.models import bundled_names, load_encoder, load_plain_model, resolve_device, run_as
from tests.support.shared_data import REPOSITORY, shared_path
from tests.support.tiny_open_clip import tiny_architecture, write_tiny_open_clip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_open_clip(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_plain_model_serves_with_the_shared_branch_and_a_structure_that_counts_for_nothing(tiny: Path) -> None:
    encoder = load_encoder(f"local-dir:{tiny}", device="cpu")
    assert encoder.edge_branch is None
    assert (encoder.default_structure_weight, encoder.structure_is_trained) == (0.0, False)


def test_a_plain_models_fingerprint_is_the_same_in_another_process_and_another_folder(
    tiny: Path, tmp_path: Path
) -> None:
    fingerprint = load_encoder(f"local-dir:{tiny}", device="cpu").fingerprint
    elsewhere = write_tiny_open_clip(tmp_path / "elsewhere")
    code = (
        "import logging\nfrom structxlip.models import load_encoder\n"
        f"print(load_encoder('local-dir:{elsewhere}', device='cpu').fingerprint, logging.getLogger().handlers)"
    )
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    # Loading gives no warning, prints nothing and leaves logging as it was.
    assert (told.stdout.strip(), told.stderr) == (f"{fingerprint} []", "")


@pytest.mark.parametrize("half_precision", [False, True])
def test_weights_used_in_place_are_the_same_model(half_precision: bool, tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model", half_precision=half_precision)
    copied, in_place = (load_encoder(f"local-dir:{folder}", device="cpu", in_place=flag) for flag in (False, True))
    assert copied.weights_file is None
    assert in_place.weights_file is not None
    assert_same_weights(in_place, copied)
    first = in_place.weights_file.content.ctypes.data
    is_inside = [
        first <= weight.data_ptr() < first + in_place.weights_file.content.nbytes
        for weight in in_place.model.parameters()
        # The others are laid out anew, with channels last.
        if weight.ndim == 2
    ]
    assert set(is_inside) == {not half_precision}


def test_a_checkpoints_weights_can_be_used_in_place(tmp_path: Path) -> None:
    plain = load_plain_model(
        f"local-dir:{write_tiny_open_clip(tmp_path / 'plain')}",
        edge_branch=EdgeBranchConfig("cnn", width=8),
        device="cpu",
    )
    plain.model.token_embedding.weight.data[100:] = 0  # type: ignore[operator, union-attr, index]
    save_checkpoint(tmp_path / "checkpoint", plain, default_structure_weight=0.3)
    copied, in_place = (
        load_encoder(str(tmp_path / "checkpoint"), device="cpu", in_place=flag) for flag in (False, True)
    )
    assert in_place.weights_file is not None
    assert_same_weights(in_place, copied)


def test_weights_that_open_clip_reworks_are_loaded_by_it(tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model", half_precision=False)
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    save_file(weights | {"logit_scale": weights["logit_scale"].reshape(1)}, file)
    encoder = load_encoder(f"local-dir:{folder}", device="cpu", in_place=True)
    assert encoder.weights_file is None
    assert encoder.model.logit_scale.shape == ()  # type: ignore[operator]


def test_weights_that_were_changed_after_loading_are_not_taken_from_the_file_again(tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model", half_precision=False)
    encoder = load_encoder(f"local-dir:{folder}", device="cpu", in_place=True)
    other = load_encoder(f"local-dir:{write_tiny_open_clip(tmp_path / 'other', seed=1)}", device="cpu")
    encoder.load_state_dict(other.state_dict())
    run_as(encoder, f"local-dir:{folder}", Execution("auto"))
    assert_same_weights(encoder, other)


def assert_same_weights(encoder: TwoViewEncoder, other: TwoViewEncoder) -> None:
    ours, theirs = encoder.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.stride()) == (theirs[name].dtype, theirs[name].stride())
        assert torch.equal(tensor, theirs[name])


def test_other_weights_or_other_parts_have_another_fingerprint(tiny: Path, tmp_path: Path) -> None:
    name = f"local-dir:{tiny}"
    encoders = [
        load_encoder(name, device="cpu"),
        load_encoder(f"local-dir:{write_tiny_open_clip(tmp_path / 'other', seed=1)}", device="cpu"),
        load_plain_model(name, edge_detector=OtsuCanny(), device="cpu"),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == 3


def test_training_starts_from_a_plain_model_with_parts_of_its_choice(tiny: Path, tmp_path: Path) -> None:
    branch = EdgeBranchConfig("cnn", width=8)
    encoder = load_plain_model(f"local-dir:{tiny}", edge_detector=OtsuCanny(), edge_branch=branch, device="cpu")
    assert encoder.edge_branch is not None
    save_checkpoint(tmp_path / "trained", encoder, default_structure_weight=0.4)
    loaded = load_encoder(str(tmp_path / "trained"), device="cpu")
    assert (loaded.edge_detector, loaded.edge_branch_config) == (OtsuCanny(), branch)
    text = [encoder.prepare_text("two stools")]
    np.testing.assert_array_equal(loaded.encode_texts(text).structure, encoder.encode_texts(text).structure)


def test_training_may_start_from_a_plain_model_that_reads_longer_texts(tiny: Path, tmp_path: Path) -> None:
    short = load_plain_model(f"local-dir:{tiny}", device="cpu")
    encoder = load_plain_model(f"local-dir:{tiny}", context_length=248, device="cpu")
    assert encoder.context_length == 248
    assert encoder.fingerprint != short.fingerprint
    assert not encoder.prepare_text("stool " * 120).is_truncated
    save_checkpoint(tmp_path / "long", encoder, default_structure_weight=0.4)
    loaded = load_encoder(str(tmp_path / "long"), device="cpu")
    text = [encoder.prepare_text("stool " * 120)]
    np.testing.assert_array_equal(loaded.encode_texts(text).appearance, encoder.encode_texts(text).appearance)
    # The first 20 positions stay as they were.
    text = [encoder.prepare_text("two stools")]
    np.testing.assert_allclose(encoder.encode_texts(text).appearance, short.encode_texts(text).appearance, atol=2e-6)


def test_a_bundled_checkpoint_is_found_by_its_name(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BUNDLED", tmp_path)
    save_checkpoint(tmp_path / "scenes-x", load_plain_model(f"local-dir:{tiny}"), default_structure_weight=0.2)
    assert bundled_names() == ["scenes-x"]
    assert load_encoder("scenes-x", device="cpu").name == "scenes-x"
    with pytest.raises(UnknownModelError, match=r"expected a bundled checkpoint \(scenes-x\)"):
        load_encoder("scenes-y")


@pytest.mark.parametrize("name", bundled_names())
def test_every_bundled_checkpoint_loads(name: str) -> None:
    encoder = load_encoder(name, device="cpu")
    assert np.isfinite(encoder.encode_texts([encoder.prepare_text("a table left of a chair")]).structure).all()


def test_an_unknown_name_lists_what_is_accepted() -> None:
    with pytest.raises(UnknownModelError) as caught:
        load_encoder("no-such-model")
    for told in ("'no-such-model'", "bundled", "local-dir:FOLDER", "hf-hub:", "ViT-B-16:openai"):
        assert told in str(caught.value)


def test_names_that_are_nearly_right_say_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (
        (str(tiny), f"is a plain open_clip model; name it local-dir:{tiny}"),
        (str(tmp_path / "empty"), "is a folder without config.json"),
        (f"local-dir:{tmp_path / 'none'}", "there is no such folder"),
        (f"local-dir:{tmp_path / 'empty'}", "must hold open_clip_config.json and open_clip_model.safetensors"),
        ("ViT-B-16:no_such_tag", "knows no weights 'no_such_tag' for the model 'ViT-B-16'; known: openai, "),
        ("ViT-Z-99:openai", "unknown model 'ViT-Z-99:openai'"),
        ("ViT-B-16", "MODEL:WEIGHTS"),
    ):
        with pytest.raises(UnknownModelError, match=words):
            load_encoder(name)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["hf-hub:someone/some-model", "ViT-B-16:openai"])
def test_a_public_model_without_a_network_says_what_to_do(name: str) -> None:
    with pytest.raises(ModelUnavailableError, match=r"could not be fetched: .*name it local-dir:FOLDER"):
        load_encoder(name)


def test_weights_decide_the_activation_they_were_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights.safetensors"
    monkeypatch.setattr(models, "download_pretrained", lambda pretrained: str(weights))
    source = models._find("ViT-B-16:openai")
    assert source.architecture["quick_gelu"] is True
    assert (source.weights, source.preprocess["interpolation"]) == (weights, "bicubic")
    assert "quick_gelu" not in models._find("ViT-B-16:laion2b_s34b_b88k").architecture


def test_weights_that_do_not_fit_or_are_cut_short_say_so(tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model")
    written = json.loads((folder / "open_clip_config.json").read_text())
    written["model_cfg"]["embed_dim"] = 48
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    with pytest.raises(UnsupportedModelError, match="size mismatch"):
        load_encoder(f"local-dir:{folder}")
    write_tiny_open_clip(folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_encoder(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="is not an open_clip model's config"):
        load_encoder(f"local-dir:{folder}")


class Trap:
    def __reduce__(self) -> Any:
        return print, ("code from a weights file was run",)


def test_no_code_in_a_weights_file_is_ever_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_open_clip(tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": {"logit_scale": Trap()}}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_encoder(f"local-dir:{folder}")
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(UnsupportedModelError, match="cannot be loaded"):
        load_encoder(f"local-dir:{folder}")
    assert "was run" not in capsys.readouterr().out


def test_weights_in_torchs_own_format_load_too(tiny: Path, tmp_path: Path) -> None:
    folder = write_tiny_open_clip(tmp_path / "model")
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    torch.save(encoder.model.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_model.safetensors").unlink()
    again = load_encoder(f"local-dir:{folder}", device="cpu")
    text = [encoder.prepare_text("two stools")]
    np.testing.assert_array_equal(again.encode_texts(text).appearance, encoder.encode_texts(text).appearance)


def test_a_device_that_is_not_here_says_so(tiny: Path) -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ModelUnavailableError, match="torch cannot use the device 'cuda:99' here"):
        load_encoder(f"local-dir:{tiny}", device="cuda:99")
    with pytest.raises(ModelUnavailableError, match="torch cannot use the device 'abacus' here"):
        load_encoder(f"local-dir:{tiny}", device="abacus")


def test_building_by_config_gives_the_module_that_open_clip_would_make(tiny: Path) -> None:
    theirs = open_clip.create_model(f"local-dir:{tiny}")
    ours = build_model(tiny_architecture())
    assert type(ours) is type(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_a_real_model_loads_without_a_warning_and_says_what_it_is() -> None:
    encoder = load_encoder(f"local-dir:{shared_path('weights/photo-mini')}", device="cpu")
    assert (encoder.dimension, encoder.image_size, encoder.context_length) == (384, 224, 77)
    assert encoder.preprocessing.resize_mode == "squash"
    assert encoder.describe()["image_tower"] == "mobilenetv2_100"


def test_weights_that_are_loaded_next_are_not_drawn() -> None:
    before = torch.get_rng_state()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        undefined = build_model(tiny_architecture(), is_loaded_next=True)
    assert "aten::uniform_" not in {event.key for event in seen.key_averages()}
    drawn = build_model(tiny_architecture())
    assert [name for name, _ in undefined.named_parameters()] == [name for name, _ in drawn.named_parameters()]
    torch.set_rng_state(before)
    again = build_model(tiny_architecture())
    undefined.load_state_dict(again.state_dict(), strict=True)
    for (name, loaded), expected in zip(undefined.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(loaded, expected), name
