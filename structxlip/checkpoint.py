"""A checkpoint: a folder that holds all that serving needs, and says where it came from.

```
model.safetensors   every weight, in half or single precision; tables of mostly zero rows without those
config.json         architecture, preprocessing, edges, branch, captions, weight, calibration, provenance
metrics.json        what was measured
README.md           the model card, generated from the two above
background-….safetensors   pictures that scores are compared with, where the checkpoint is calibrated
```

Training and serving build their preprocessing from `config.json` alone, so the two cannot differ. The
fingerprint is a digest of the weights and of everything in the config that a vector depends on; a calibration
changes no vector and is no part of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from structxlip.architecture import build_model
from structxlip.atomic_folder import new_folder
from structxlip.calibration import FORMER_KIND as FORMER_CALIBRATION_KIND
from structxlip.calibration import KIND as CALIBRATION_KIND
from structxlip.calibration import Background, MatchCalibration
from structxlip.captions import build_caption_filter
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import build_edge_detector
from structxlip.encoder import EncoderCard, TwoViewEncoder
from structxlip.errors import (
    CheckpointDamagedError,
    CheckpointFormatError,
    CheckpointMismatchError,
    CheckpointMissingError,
    CheckpointTooNewError,
    CheckpointWriteError,
    UnsupportedModelError,
)
from structxlip.mapped_file import map_tensors
from structxlip.preprocessing import Preprocessing
from structxlip.sparse_rows import with_zero_rows, without_zero_rows
from structxlip.tokenizer import TextTokenizer

# 2: tables of mostly zero rows are stored without them (`sparse_rows`). 1 is read as well.
FORMAT_VERSION = 2
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"
CARD_FILE = "README.md"
BACKGROUND_FILES = "background-*.safetensors"

_logger = logging.getLogger(__name__)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(_Record):
    """Everything besides the weights that a vector depends on.

    Attributes:
        architecture: open_clip's `model_cfg`.
        preprocessing: From any picture to the model's input.
        edges: For `build_edge_detector`.
        edge_branch: Which branch encodes edge maps.
        captions: For `build_caption_filter`.
    """

    architecture: dict[str, JsonValue]
    preprocessing: Preprocessing
    edges: dict[str, JsonValue]
    edge_branch: EdgeBranchConfig
    captions: dict[str, JsonValue]


class Calibration(_Record):
    """How a match is told from chance: see `structxlip.calibration`.

    Attributes:
        kind: Which procedure made the numbers.
        false_accept_rate: Share of queries without a match that still clear the level, 0 to 1.
        statistics: The numbers themselves, as the procedure defines them, and the digest of the background.
    """

    kind: str
    false_accept_rate: Annotated[float, Field(ge=0, le=1)]
    statistics: dict[str, JsonValue]


class Provenance(_Record):
    """Where a checkpoint came from.

    Attributes:
        base_model: The model that training started from.
        data: The data set's name.
        data_digest: Digest of the data it was trained on.
        seed: Of the run.
        code_version: Of the code that trained it.
        licence: Under which the weights may be used.
        notes: Anything else.
    """

    base_model: str = ""
    data: str = ""
    data_digest: str = ""
    seed: int | None = None
    code_version: str = ""
    licence: str = ""
    notes: str = ""


class WeightsRecord(_Record):
    """The weights file as it was saved."""

    sha256: str
    num_bytes: int


class CheckpointConfig(_Record):
    """What `config.json` holds.

    Attributes:
        format_version: Of the file; a later one than ours is refused.
        fingerprint: Digest of the weights and of `encoder`.
        weights: The weights file as it was saved.
        encoder: Everything besides the weights that a vector depends on.
        default_structure_weight: Chosen on the validation split.
        structure_is_trained: Whether training included the structural view.
        calibration: For "no match", where it was made.
        provenance: Where it came from.
    """

    format_version: int
    fingerprint: str
    weights: WeightsRecord
    encoder: EncoderConfig
    default_structure_weight: Annotated[float, Field(ge=0, le=1)]
    structure_is_trained: bool
    calibration: Calibration | None = None
    provenance: Provenance = Provenance()


def build_encoder(
    config: EncoderConfig, *, card: EncoderCard | None = None, device: str = "cpu", is_loaded_next: bool = False
) -> TwoViewEncoder:
    """Make the encoder that a configuration describes, with random weights from torch's global generator.

    Args:
        config: What it is made of.
        card: What is told of it.
        device: As torch names it.
        is_loaded_next: Leave the towers' weights undefined: all of them are loaded at once.

    Raises:
        ModelError: If a part cannot be built.
    """
    return TwoViewEncoder(
        build_model(config.architecture, is_loaded_next=is_loaded_next),
        architecture=config.architecture,
        preprocessing=config.preprocessing,
        edge_detector=build_edge_detector(config.edges),
        caption_filter=build_caption_filter(config.captions),
        tokenizer=TextTokenizer(config.architecture),
        edge_branch=config.edge_branch,
        card=card,
        device=device,
    )


def config_of(encoder: TwoViewEncoder) -> EncoderConfig:
    """Return the configuration that `build_encoder` would make this encoder from."""
    return EncoderConfig(
        architecture=encoder.architecture,
        preprocessing=encoder.preprocessing,
        edges=encoder.edge_detector.config(),
        edge_branch=encoder.edge_branch_config,
        captions=encoder.caption_filter.config(),
    )


def fingerprint_of(config: EncoderConfig, *, weights_sha256: str) -> str:
    """Return the digest, 64 hexadecimal digits, that tells whether two vectors may be compared."""
    parts = config.model_dump(mode="json")
    if "sha256" in parts["edges"]:
        parts["edges"].pop("path", None)  # the same edge model in another folder
    told = json.dumps(_canonical([parts, weights_sha256]), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def save_checkpoint(
    folder: Path,
    encoder: TwoViewEncoder,
    *,
    default_structure_weight: float,
    structure_is_trained: bool = True,
    metrics: Mapping[str, JsonValue] | None = None,
    calibration: MatchCalibration | None = None,
    provenance: Provenance | None = None,
    half_precision: bool = False,
) -> CheckpointConfig:
    """Write a checkpoint folder whole or not at all; an earlier one in its place survives any failure.

    Args:
        folder: Where; its parent is made if need be.
        encoder: The model, whatever mode it is in.
        default_structure_weight: Share of the structure score, 0 to 1, chosen on the validation split.
        structure_is_trained: Whether training included the structural view.
        metrics: What was measured, for `metrics.json` and the card.
        calibration: For "no match".
        provenance: Where the model came from.
        half_precision: Store matrices as float16: half the size, loaded back into float32.

    Returns:
        What `config.json` now holds.

    Raises:
        CheckpointWriteError: If the disk is full, or the folder cannot be written for another reason.
    """
    weights = save(without_zero_rows(_storable(encoder.state_dict(), half_precision=half_precision)))
    digest = hashlib.sha256(weights).hexdigest()
    parts = config_of(encoder)
    config = CheckpointConfig(
        format_version=FORMAT_VERSION,
        fingerprint=fingerprint_of(parts, weights_sha256=digest),
        weights=WeightsRecord(sha256=digest, num_bytes=len(weights)),
        encoder=parts,
        default_structure_weight=default_structure_weight,
        structure_is_trained=structure_is_trained,
        calibration=_recorded(calibration),
        provenance=provenance or Provenance(),
    )
    try:
        with new_folder(folder) as draft:
            (draft / WEIGHTS_FILE).write_bytes(weights)
            (draft / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n")
            if calibration is not None:
                (draft / background_file(calibration)).write_bytes(_background_bytes(calibration.background))
            (draft / METRICS_FILE).write_text(json.dumps(metrics or {}, indent=2) + "\n")
            (draft / CARD_FILE).write_text(model_card(folder.name, config, metrics or {}))
    except OSError as error:
        raise CheckpointWriteError(f"the checkpoint {folder} could not be written: {error.strerror}") from error
    return config


def load_checkpoint(
    folder: Path, *, name: str | None = None, device: str = "cpu", in_place: bool = False
) -> TwoViewEncoder:
    """Load a checkpoint folder after checking that its files are the ones that were saved.

    Args:
        folder: As written by `save_checkpoint`.
        name: What the encoder calls itself; the folder's name unless given.
        device: Where the model runs.
        in_place: Use the weights from their file, as far as they lie in it in single precision, for a model whose
            weights will not change (`structxlip.mapped_file`).

    Raises:
        CheckpointError: If a file is missing, cut short, changed, too new or does not fit.
        ModelError: If a part cannot be built here.
    """
    config = read_checkpoint_config(folder)
    _check_weights(folder / WEIGHTS_FILE, config)
    card = EncoderCard(
        name=name or folder.name,
        fingerprint=config.fingerprint,
        default_structure_weight=config.default_structure_weight,
        structure_is_trained=config.structure_is_trained,
        calibration=_read_calibration(folder, config.calibration),
        details=_details(config),
    )
    try:
        encoder = build_encoder(config.encoder, card=card, device=device, is_loaded_next=True)
    except (ValueError, UnsupportedModelError) as error:
        raise CheckpointFormatError(f"the checkpoint {folder} cannot be built: {error}") from error
    try:
        _load_weights(encoder, folder / WEIGHTS_FILE, in_place=in_place)
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointMismatchError(
            f"the weights of {folder} do not fit the architecture in its {CONFIG_FILE}: {error}"
        ) from error
    return encoder


def _load_weights(encoder: TwoViewEncoder, path: Path, *, in_place: bool) -> None:
    if not in_place:
        encoder.load_state_dict(with_zero_rows(load_file(path), encoder.state_dict()))
        return
    packed, file = map_tensors(path)
    encoder.use_weights_of(file, with_zero_rows(packed, encoder.state_dict()))


def read_checkpoint_config(folder: Path) -> CheckpointConfig:
    """Read `config.json` of a checkpoint folder.

    Raises:
        CheckpointMissingError: If there is no such folder or file.
        CheckpointTooNewError: If a later release wrote it.
        CheckpointFormatError: If it is not what a checkpoint says about itself.
        CheckpointDamagedError: If it was changed after it was saved.
    """
    written = _read_json(folder / CONFIG_FILE)
    version = written.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CheckpointTooNewError(
            f"{folder} has format version {version}, this release reads up to {FORMAT_VERSION}: update the package"
        )
    try:
        config = CheckpointConfig.model_validate(written)
    except ValidationError as error:
        raise CheckpointFormatError(f"{folder / CONFIG_FILE} is not a checkpoint's: {_first(error)}") from error
    if fingerprint_of(config.encoder, weights_sha256=config.weights.sha256) != config.fingerprint:
        raise CheckpointDamagedError(
            f"{folder / CONFIG_FILE} was changed after it was saved: its fingerprint does not match its contents"
        )
    return config


def add_calibration(folder: Path, calibration: MatchCalibration) -> CheckpointConfig:
    """Calibrate a checkpoint that exists; its weights and its fingerprint stay.

    The background has its digest in its name and comes first, so that a crash in between leaves the former calibration.

    Returns:
        What `config.json` now holds.

    Raises:
        CheckpointError: If the folder holds no checkpoint, or cannot be written.
    """
    former = read_checkpoint_config(folder)
    config = former.model_copy(update={"calibration": _recorded(calibration)})
    try:
        metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        _replace(folder / background_file(calibration), _background_bytes(calibration.background))
        _replace(folder / CONFIG_FILE, (config.model_dump_json(indent=2) + "\n").encode())
        _replace(folder / CARD_FILE, model_card(folder.name, config, metrics).encode())
        for path in folder.glob(BACKGROUND_FILES):
            if path.name != background_file(calibration):
                path.unlink()
    except (OSError, ValueError) as error:
        raise CheckpointWriteError(f"the calibration of {folder} could not be written: {error}") from error
    return config


def background_file(calibration: MatchCalibration) -> str:
    """Return the name of the file that holds a calibration's background."""
    return BACKGROUND_FILES.replace("*", calibration.background.digest()[:16])


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_card(name: str, config: CheckpointConfig, metrics: Mapping[str, JsonValue]) -> str:
    """Return the README of a checkpoint, in Markdown."""
    parts, origin = config.encoder, config.provenance
    rows: dict[str, object] = {
        "fingerprint": config.fingerprint,
        "embedding": f"{parts.architecture['embed_dim']} numbers a view, two views",
        "input": f"{parts.preprocessing.image_size} × {parts.preprocessing.image_size} pixels",
        "edge maps": _inline(parts.edges),
        "edge branch": parts.edge_branch.kind,
        "structural text": _inline(parts.captions),
        "default structure weight": config.default_structure_weight,
        "structural view": "trained" if config.structure_is_trained else "untrained",
        "calibration": config.calibration.kind if config.calibration else "none",
        "base model": origin.base_model or "none",
        "data": " ".join(filter(None, (origin.data, origin.data_digest))) or "not recorded",
        "seed": "not recorded" if origin.seed is None else origin.seed,
        "code version": origin.code_version or "not recorded",
        "licence": origin.licence or "not recorded",
    }
    told = [f"# {name}", "A two-view image and text encoder: appearance and structure."]
    told.append(_table(("property", "value"), rows))
    if metrics:
        told += [
            "## Measured",
            _table(("metric", "value"), {key: _inline(value) for key, value in metrics.items()}),
        ]
    if origin.notes:
        told += ["## Notes", origin.notes]
    return "\n\n".join(told) + "\n"


def _canonical(value: Any) -> Any:
    """Write equal numbers alike: 70 and 70.0 make the same edge map."""
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _storable(state: Mapping[str, Tensor], *, half_precision: bool) -> dict[str, Tensor]:
    # Vectors (norms, biases) and scalars (the logit scale) stay whole: they weigh nothing and lose most.
    return {
        key: (tensor.half() if half_precision and tensor.is_floating_point() and tensor.ndim > 1 else tensor)
        .detach()
        .to("cpu", copy=True, memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }


def _recorded(calibration: MatchCalibration | None) -> Calibration | None:
    if calibration is None:
        return None
    return Calibration(
        kind=CALIBRATION_KIND,
        false_accept_rate=calibration.false_accept_rate,
        statistics=calibration.statistics(),
    )


def _background_bytes(background: Background) -> bytes:
    views = {"appearance": background.appearance, "structure": background.structure}
    return save({name: torch.from_numpy(rows.astype(np.float16)) for name, rows in views.items()})


def _read_calibration(folder: Path, recorded: Calibration | None) -> MatchCalibration | None:
    if recorded is None:
        return None
    if recorded.kind not in (CALIBRATION_KIND, FORMER_CALIBRATION_KIND):
        _logger.warning("the calibration of %s is of the kind %r, which is not known here", folder, recorded.kind)
        return None
    path = folder / BACKGROUND_FILES.replace("*", str(recorded.statistics.get("background"))[:16])
    if not path.is_file():
        raise CheckpointMissingError(f"{folder} is calibrated, but its background {path.name} is not there")
    try:
        rows = {name: tensor.float().numpy() for name, tensor in load_file(path).items()}
        background = Background(rows["appearance"], rows["structure"])
        return MatchCalibration.from_statistics(
            recorded.statistics, background=background, false_accept_rate=recorded.false_accept_rate
        )
    except (ValueError, KeyError, SafetensorError) as error:
        raise CheckpointDamagedError(f"the calibration of {folder} cannot be read: {error}") from error


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f"{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def _check_weights(path: Path, config: CheckpointConfig) -> None:
    if not path.is_file():
        raise CheckpointMissingError(f"{path.parent} has no {path.name}")
    num_bytes = path.stat().st_size
    if num_bytes != config.weights.num_bytes:
        raise CheckpointDamagedError(
            f"{path} has {num_bytes} bytes, {config.weights.num_bytes} were saved: the file was cut short or replaced"
        )
    if file_sha256(path) != config.weights.sha256:
        raise CheckpointDamagedError(f"{path} was changed after it was saved: its SHA-256 does not match the config")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointMissingError(f"there is no checkpoint at {path.parent}: {path.name} is not there")
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(written, dict):
        raise CheckpointFormatError(f"{path} must hold one JSON object, got {type(written).__name__}")
    return written


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(step) for step in problem["loc"])
    return f"{where}: {problem['msg']}" + (f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else "")


def _details(config: CheckpointConfig) -> dict[str, JsonValue]:
    return {"provenance": config.provenance.model_dump(mode="json")}


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows.items()])
