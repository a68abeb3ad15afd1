from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from structxlip.checkpoint import (
    EncoderConfig,
    Provenance,
    add_calibration,
    background_file,
    build_encoder,
    config_of,
    fingerprint_of,
    load_checkpoint,
    read_checkpoint_config,
    save_checkpoint,
)
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import ScharrEdges
from structxlip.encoder import TwoViewEncoder
from structxlip.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointMismatchError,
    CheckpointMissingError,
    CheckpointTooNewError,
    CheckpointWriteError,
)
from structxlip.models import load_encoder
from structxlip.preprocessing import Preprocessing
from tests.support.calibrations import plain_calibration
from tests.support.tiny_open_clip import DIMENSION, IMAGE_SIZE, tiny_architecture

CALIBRATION = plain_calibration(dimension=DIMENSION)
PROVENANCE = Provenance(
    base_model="local-dir:tiny", data="scenes", data_digest="ab12", seed=3, code_version="0.1.0", licence="CC0-1.0"
)


def small_config(**changes: Any) -> EncoderConfig:
    parts: dict[str, Any] = {
        "architecture": tiny_architecture(),
        "preprocessing": Preprocessing(IMAGE_SIZE, "shortest", "bicubic", 0, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        "edges": ScharrEdges(white=98.0).config(),
        "edge_branch": EdgeBranchConfig("cnn", width=8),
        "captions": {"kind": "lexicon"},
    }
    return EncoderConfig(**(parts | changes))


@pytest.fixture(scope="module")
def encoder() -> TwoViewEncoder:
    torch.manual_seed(0)
    return build_encoder(small_config())


@pytest.fixture
def folder(tmp_path: Path, encoder: TwoViewEncoder) -> Path:
    folder = tmp_path / "scenes-test"
    save_checkpoint(
        folder,
        encoder,
        default_structure_weight=0.35,
        metrics={"recall@1": 0.91, "recoloured": {"recall@1": 0.9}},
        calibration=CALIBRATION,
        provenance=PROVENANCE,
    )
    return folder


def embed(encoder: TwoViewEncoder) -> list[np.ndarray[Any, Any]]:
    rgb = np.random.default_rng(0).integers(0, 256, size=(90, 70, 3), dtype=np.uint8)
    images = encoder.encode_images([encoder.prepare_image(rgb)])
    texts = encoder.encode_texts([encoder.prepare_text("a red table left of two stools")])
    return [images.appearance, images.structure, texts.appearance, texts.structure]


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    written = json.loads((folder / "config.json").read_text())
    change(written)
    (folder / "config.json").write_text(json.dumps(written))


def test_what_was_saved_embeds_alike_when_it_is_loaded(folder: Path, encoder: TwoViewEncoder) -> None:
    loaded = load_checkpoint(folder)
    for found, expected in zip(embed(loaded), embed(encoder), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert config_of(loaded) == config_of(encoder) == small_config()
    assert (loaded.default_structure_weight, loaded.structure_is_trained) == (0.35, True)
    assert loaded.name == "scenes-test"


def test_the_folder_holds_weights_config_metrics_and_a_card(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        background_file(CALIBRATION),
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    assert json.loads((folder / "metrics.json").read_text())["recall@1"] == 0.91
    card = (folder / "README.md").read_text()
    config = read_checkpoint_config(folder)
    for told in ("# scenes-test", config.fingerprint, "recall@1 | 0.91", "seed | 3", "CC0-1.0", "kind scharr", "0.35"):
        assert told in card
    assert config.provenance == PROVENANCE
    assert config.calibration is not None
    assert config.calibration.statistics == CALIBRATION.statistics()


def test_an_encoder_tells_its_provenance(folder: Path) -> None:
    told = load_checkpoint(folder).describe()
    assert told["provenance"] == PROVENANCE.model_dump()
    assert json.loads(json.dumps(told)) == told


def test_a_calibration_comes_back_and_changes_no_fingerprint(folder: Path, encoder: TwoViewEncoder) -> None:
    loaded = load_checkpoint(folder).calibration
    assert loaded is not None
    np.testing.assert_array_equal(loaded.background.appearance, CALIBRATION.background.appearance)
    assert loaded.levels == CALIBRATION.levels
    plain = save_checkpoint(folder.with_name("plain"), encoder, default_structure_weight=0.35)
    assert plain.fingerprint == read_checkpoint_config(folder).fingerprint
    assert load_checkpoint(folder.with_name("plain")).calibration is None


def test_a_checkpoint_is_calibrated_again_without_touching_its_weights(folder: Path) -> None:
    before = read_checkpoint_config(folder)
    other = plain_calibration(dimension=DIMENSION, num=16, rate=0.01)
    config = add_calibration(folder, other)
    assert (config.fingerprint, config.weights) == (before.fingerprint, before.weights)
    assert [path.name for path in folder.glob("background-*")] == [background_file(other)]
    loaded = load_checkpoint(folder).calibration
    assert loaded is not None
    assert loaded.false_accept_rate == 0.01
    assert "calibration | background-2" in (folder / "README.md").read_text()


def test_a_background_that_is_missing_or_another_is_told(folder: Path) -> None:
    path = folder / background_file(CALIBRATION)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"\x01\x02")
    with pytest.raises(CheckpointDamagedError, match="calibration"):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointMissingError, match="background"):
        load_checkpoint(folder)


def test_a_calibration_of_a_later_kind_is_left_alone(folder: Path) -> None:
    edit_config(folder, lambda written: written["calibration"].update(kind="background-9"))
    assert load_checkpoint(folder).calibration is None


def test_it_loads_under_a_name_in_the_folder_or_as_a_local_dir(folder: Path) -> None:
    names = [str(folder), f"local-dir:{folder}"]
    assert [load_encoder(name, device="cpu").name for name in names] == names


def test_half_precision_halves_the_file_and_loads_into_single_precision(
    tmp_path: Path, folder: Path, encoder: TwoViewEncoder
) -> None:
    save_checkpoint(tmp_path / "half", encoder, default_structure_weight=0.0, half_precision=True)
    half, full = tmp_path / "half" / "model.safetensors", folder / "model.safetensors"
    assert half.stat().st_size < 0.52 * full.stat().st_size
    assert load_file(half)["model.logit_scale"].dtype == torch.float32
    loaded = load_checkpoint(tmp_path / "half")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    for found, expected in zip(embed(loaded), embed(encoder), strict=True):
        np.testing.assert_allclose(found, expected, atol=3e-3)


def test_a_checkpoint_with_248_positions_loads(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    architecture["text_cfg"]["context_length"] = 248
    encoder = build_encoder(small_config(architecture=architecture))
    save_checkpoint(tmp_path / "long", encoder, default_structure_weight=0.1)
    loaded = load_checkpoint(tmp_path / "long")
    assert loaded.context_length == 248
    assert not loaded.prepare_text("stool " * 200).is_truncated
    assert np.isfinite(loaded.encode_texts([loaded.prepare_text("stool " * 300)]).appearance).all()


def test_a_fingerprint_changes_with_whatever_a_vector_depends_on_and_with_nothing_else(
    tmp_path: Path, folder: Path, encoder: TwoViewEncoder
) -> None:
    base = fingerprint_of(small_config(), weights_sha256="0" * 64)
    other_size = Preprocessing(IMAGE_SIZE, "squash", "bicubic", 0, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    for changed in (
        fingerprint_of(small_config(), weights_sha256="1" * 64),
        fingerprint_of(small_config(preprocessing=other_size), weights_sha256="0" * 64),
        fingerprint_of(small_config(edges=ScharrEdges().config()), weights_sha256="0" * 64),
        fingerprint_of(small_config(edge_branch=EdgeBranchConfig("cnn", width=16)), weights_sha256="0" * 64),
        fingerprint_of(small_config(captions={"kind": "none"}), weights_sha256="0" * 64),
    ):
        assert changed != base
    whole_numbers = small_config(edges={"kind": "scharr", "white": 98, "floor": 64})
    assert fingerprint_of(whole_numbers, weights_sha256="0" * 64) == base
    again = save_checkpoint(tmp_path / "again", encoder, default_structure_weight=0.9)
    assert again.fingerprint == read_checkpoint_config(folder).fingerprint


def test_what_no_vector_depends_on_may_be_edited_by_hand(folder: Path) -> None:
    edit_config(folder, lambda written: written.update(default_structure_weight=0.5))
    assert load_checkpoint(folder).default_structure_weight == 0.5


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)


def flip_a_bit(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-500] ^= 1
    weights.write_bytes(content)


def with_edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, change)


def refit(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Change the config and give it the fingerprint that goes with the change."""

    def edit(written: dict[str, Any]) -> None:
        change(written)
        parts = EncoderConfig.model_validate(written["encoder"])
        written["fingerprint"] = fingerprint_of(parts, weights_sha256=written["weights"]["sha256"])

    return with_edit(edit)


FAULTS: dict[str, tuple[Callable[[Path], None], type[CheckpointError], str]] = {
    "weights cut short": (cut_short, CheckpointDamagedError, "were saved: the file was cut short"),
    "weights with one bit flipped": (flip_a_bit, CheckpointDamagedError, "changed after it was saved"),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), CheckpointMissingError, "has no model.saf"),
    "config missing": (lambda f: (f / "config.json").unlink(), CheckpointMissingError, "config.json is not there"),
    "config cut short": (lambda f: os.truncate(f / "config.json", 100), CheckpointFormatError, "is not JSON"),
    "config not an object": (lambda f: (f / "config.json").write_text("[]") and None, CheckpointFormatError, "object"),
    "config in another encoding": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}") and None,
        CheckpointFormatError,
        "is not JSON",
    ),
    "later format": (
        with_edit(lambda w: w.update(format_version=3, something_new=1)),
        CheckpointTooNewError,
        "has format version 3, this release reads up to 2: update",
    ),
    "field missing": (with_edit(lambda w: w.pop("encoder")), CheckpointFormatError, "encoder: Field required"),
    "field unknown": (with_edit(lambda w: w.update(extra=1)), CheckpointFormatError, "extra: Extra inputs"),
    "weight out of range": (
        with_edit(lambda w: w.update(default_structure_weight=1.5)),
        CheckpointFormatError,
        "default_structure_weight: Input should be less",
    ),
    "preprocessing changed": (
        with_edit(lambda w: w["encoder"]["preprocessing"].update(mean=[0, 0, 0])),
        CheckpointDamagedError,
        "fingerprint does not match",
    ),
    "another architecture": (
        refit(lambda w: w["encoder"]["architecture"]["text_cfg"].update(layers=3)),
        CheckpointMismatchError,
        "do not fit the architecture",
    ),
    "another width": (
        refit(lambda w: w["encoder"]["architecture"].update(embed_dim=48)),
        CheckpointMismatchError,
        "size mismatch",
    ),
    "an architecture that cannot be": (
        refit(lambda w: w["encoder"]["architecture"]["vision_cfg"].update(no_such_option=1)),
        CheckpointFormatError,
        "no_such_option",
    ),
    "an unknown edge detector": (
        refit(lambda w: w["encoder"].update(edges={"kind": "magic"})),
        CheckpointFormatError,
        "unknown edge detector 'magic'",
    ),
    "an unknown caption filter": (
        refit(lambda w: w["encoder"].update(captions={"kind": "magic"})),
        CheckpointFormatError,
        "magic",
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_checkpoint_that_is_not_whole_says_what_is_wrong(
    folder: Path, fault: tuple[Callable[[Path], None], type[CheckpointError], str]
) -> None:
    damage, error_type, words = fault
    damage(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(folder)
    assert type(caught.value) is error_type
    assert str(folder) in str(caught.value)


def test_a_full_disk_leaves_the_earlier_checkpoint_as_it_was(folder: Path, encoder: TwoViewEncoder) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of a file makes the system refuse a write half way, as a full disk does.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(CheckpointWriteError, match="could not be written: File too large"):
            save_checkpoint(folder, encoder, default_structure_weight=0.9)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path, encoder: TwoViewEncoder) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointWriteError, match="could not be written"):
        save_checkpoint(tmp_path / "file" / "checkpoint", encoder, default_structure_weight=0.5)
