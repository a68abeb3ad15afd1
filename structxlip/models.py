"""From a name to an encoder.

| name | what |
|---|---|
| `scenes-tiny` | a checkpoint that comes with the package |
| `path/to/folder` | a checkpoint of ours |
| `local-dir:path/to/folder` | the same, or a plain open_clip model |
| `ViT-B-16:openai` | a public model and its weights, by open_clip's names |
| `hf-hub:organisation/name` | a public model in open_clip form on the Hugging Face hub |

A plain open_clip model has had no structural training: it serves with the `shared` edge branch, and its
structure counts for nothing unless a query asks for it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import open_clip
import torch
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from safetensors import SafetensorError
from torch import nn

from structxlip.architecture import build_model
from structxlip.backends.selection import Execution, check_execution, towers_in_turn
from structxlip.captions import CaptionFilter, LexiconFilter
from structxlip.checkpoint import CONFIG_FILE, EncoderConfig, file_sha256, fingerprint_of, load_checkpoint
from structxlip.edge_branch import EdgeBranchConfig
from structxlip.edges import EdgeDetector, PercentileCanny
from structxlip.encoder import EncoderCard, TwoViewEncoder
from structxlip.errors import ModelUnavailableError, UnknownModelError, UnsupportedModelError
from structxlip.long_text import stretch_text_tower
from structxlip.mapped_file import MappedFile, map_tensors, use_tensors
from structxlip.preprocessing import Preprocessing
from structxlip.tokenizer import TextTokenizer

BUNDLED = Path(__file__).parent / "checkpoints"
LOCAL_PREFIX, HUB_PREFIX = "local-dir:", "hf-hub:"
OPEN_CLIP_CONFIG = "open_clip_config.json"
# In the order in which they are taken; pickled files are read with torch's restricted unpickler only.
WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Source:
    """A plain open_clip model, found on this machine."""

    architecture: dict[str, Any]
    preprocess: dict[str, Any]
    weights: Path
    tokenizer_source: str | None = None


def bundled_names() -> list[str]:
    """Return the names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def load_encoder(
    name: str, *, device: str = "auto", execution: Execution | None = None, in_place: bool = False
) -> TwoViewEncoder:
    """Load the encoder that a name stands for; the module's docstring lists the forms.

    Args:
        name: A bundled checkpoint, a folder, or a public model.
        device: As torch names it; `auto` is `cuda` where there is one, else `cpu`.
        execution: How it shall run, for a model that will only serve; as torch modules in float32 unless given.
        in_place: Use the weights from their file where that is possible, for a model that `run_as` will change to
            OpenVINO; so does an `execution` on it.

    Raises:
        UnknownModelError: If the name means nothing.
        ModelUnavailableError: If a public model's files cannot be fetched.
        CheckpointError: If a checkpoint of ours is damaged, too new or does not fit.
        UnsupportedModelError: If two views cannot be made from the model.
        ConfigError: If the backend asked for does not run on the device.
    """
    device = resolve_device(device)
    in_place = in_place or (execution is not None and check_execution(execution, device=device) == "openvino")
    folder = checkpoint_folder(name)
    if folder is not None:
        encoder = load_checkpoint(folder, name=name, device=device, in_place=in_place)
    else:
        encoder = load_plain_model(name, device=device, in_place=in_place)
    if execution is not None:
        run_as(encoder, name, execution)
    return encoder


def run_as(encoder: TwoViewEncoder, name: str, execution: Execution) -> None:
    """Let an encoder that `load_encoder` made from this name run as asked, from now on.

    Raises:
        ConfigError: If the backend asked for does not run on the device.
        ModelUnavailableError: If it is not installed.
    """
    for towers in towers_in_turn(encoder, execution, folder=model_folder(name)):
        encoder.run_on(towers)
        # The modules that they replace may have answered meanwhile.
        encoder.let_go_of_weights()


def model_folder(name: str) -> Path | None:
    """Return the folder on this machine that a name stands for; `None` for a public model."""
    if name.startswith(LOCAL_PREFIX):
        return Path(name.removeprefix(LOCAL_PREFIX)).expanduser()
    return None if name.startswith(HUB_PREFIX) or _is_public(name) else checkpoint_folder(name)


def load_plain_model(
    name: str,
    *,
    edge_detector: EdgeDetector | None = None,
    edge_branch: EdgeBranchConfig | None = None,
    caption_filter: CaptionFilter | None = None,
    context_length: int | None = None,
    device: str = "auto",
    in_place: bool = False,
) -> TwoViewEncoder:
    """Load an open_clip model and give it the other parts of a two-view encoder: where training starts.

    Args:
        name: `local-dir:…`, `hf-hub:…` or `model:weights`.
        edge_detector: Percentile Canny unless given.
        edge_branch: `shared` unless given; `cnn` starts with random weights.
        caption_filter: The lexicon filter unless given.
        context_length: Tokens that the text tower shall read, by stretching its positions; its own unless given.
        device: As in `load_encoder`.
        in_place: As in `load_encoder`.

    Raises:
        ModelError: As `load_encoder`.
        ValueError: If the text tower's positions cannot be stretched to `context_length`.
    """
    source = _find(name)
    model = build_model(source.architecture, is_loaded_next=True)
    file = _load_weights(model, source.weights, name, in_place=in_place)
    if context_length is not None:
        source.architecture["text_cfg"]["context_length"] = stretch_text_tower(model, context_length=context_length)
    preprocessing = Preprocessing.from_open_clip(source.preprocess | {"size": _input_size(model, source)})
    edge_detector = edge_detector or PercentileCanny()
    edge_branch = edge_branch or EdgeBranchConfig()
    caption_filter = caption_filter or LexiconFilter()
    config = EncoderConfig(
        architecture=source.architecture,
        preprocessing=preprocessing,
        edges=edge_detector.config(),
        edge_branch=edge_branch,
        captions=caption_filter.config(),
    )
    fingerprint = fingerprint_of(config, weights_sha256=file_sha256(source.weights))
    encoder = TwoViewEncoder(
        model,
        architecture=source.architecture,
        preprocessing=preprocessing,
        edge_detector=edge_detector,
        caption_filter=caption_filter,
        tokenizer=TextTokenizer(source.architecture, source=source.tokenizer_source),
        edge_branch=edge_branch,
        card=EncoderCard(name=name, fingerprint=fingerprint),
        device=resolve_device(device),
    )
    if file is not None:
        encoder.use_weights_of(file)
    return encoder


def resolve_device(device: str) -> str:
    """Return the device to use: `auto` is `cuda` where there is one, else `cpu`.

    Raises:
        ModelUnavailableError: If torch cannot use the device on this machine.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelUnavailableError(
            f"torch cannot use the device {device!r} here ({_first_line(error)}); use cpu, cuda or auto"
        ) from error
    return device


def checkpoint_folder(name: str) -> Path | None:
    """Return the folder of a checkpoint of ours; `None` for the name of a plain open_clip model.

    Raises:
        UnknownModelError: If the name means nothing.
    """
    if name in bundled_names():
        return BUNDLED / name
    path = Path(name.removeprefix(LOCAL_PREFIX)).expanduser()
    if (path / CONFIG_FILE).is_file() and not (path / OPEN_CLIP_CONFIG).is_file():
        return path
    if name.startswith((LOCAL_PREFIX, HUB_PREFIX)) or _is_public(name):
        return None
    raise UnknownModelError(_unknown(name, path))


def _is_public(name: str) -> bool:
    model, _, tag = name.partition(":")
    return bool(tag) and model.replace("/", "-") in open_clip.list_models()


def _unknown(name: str, path: Path) -> str:
    if (path / OPEN_CLIP_CONFIG).is_file():
        return f"{name} is a plain open_clip model; name it {LOCAL_PREFIX}{name}"
    if path.is_dir():
        return f"{name} is a folder without {CONFIG_FILE}: it holds no checkpoint"
    bundled = ", ".join(bundled_names()) or "none in this installation"
    return (
        f"unknown model {name!r}; expected a bundled checkpoint ({bundled}), the folder of a checkpoint, "
        f"{LOCAL_PREFIX}FOLDER, {HUB_PREFIX}ORGANISATION/NAME, or MODEL:WEIGHTS as open_clip names them, "
        "such as ViT-B-16:openai"
    )


def _find(name: str) -> _Source:
    if name.startswith(LOCAL_PREFIX):
        return _find_local(Path(name.removeprefix(LOCAL_PREFIX)).expanduser())
    if name.startswith(HUB_PREFIX):
        return _find_on_hub(name.removeprefix(HUB_PREFIX))
    model, _, tag = name.partition(":")
    return _find_public(model.replace("/", "-"), tag)


def _find_local(folder: Path) -> _Source:
    if not folder.is_dir():
        raise UnknownModelError(f"{LOCAL_PREFIX}{folder}: there is no such folder")
    weights = [folder / file for file in WEIGHT_FILES if (folder / file).is_file()]
    weights += sorted(folder.glob("*.safetensors"))
    if not (folder / OPEN_CLIP_CONFIG).is_file() or not weights:
        raise UnknownModelError(f"{folder} must hold {OPEN_CLIP_CONFIG} and {WEIGHT_FILES[0]}")
    return _read_source(folder / OPEN_CLIP_CONFIG, weights[0], tokenizer_source=str(folder))


def _find_on_hub(model_id: str) -> _Source:
    name = f"{HUB_PREFIX}{model_id}"
    config = _fetch(name, lambda: download_pretrained_from_hf(model_id, filename=OPEN_CLIP_CONFIG))
    weights = _fetch(name, lambda: download_pretrained_from_hf(model_id))
    return _read_source(Path(config), Path(weights))


def _find_public(model: str, tag: str) -> _Source:
    architecture, pretrained = open_clip.get_model_config(model), get_pretrained_cfg(model, tag)
    if architecture is None or not pretrained:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise UnknownModelError(f"open_clip knows no weights {tag!r} for the model {model!r}; known: {known}")
    if pretrained.get("quick_gelu"):
        # The weights decide: with another activation than they were trained with they are quietly worse.
        architecture["quick_gelu"] = True
    weights = _fetch(f"{model}:{tag}", lambda: download_pretrained(pretrained))
    return _Source(architecture, merge_preprocess_dict(PreprocessCfg(), pretrained), Path(weights))


def _read_source(config: Path, weights: Path, *, tokenizer_source: str | None = None) -> _Source:
    try:
        written = json.loads(config.read_text(encoding="utf-8"))
        architecture = written["model_cfg"]
        preprocess = merge_preprocess_dict(PreprocessCfg(), written.get("preprocess_cfg", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(f"{config} is not an open_clip model's config: {error!r}") from error
    return _Source(architecture, preprocess, weights, tokenizer_source)


def _fetch(name: str, download: Callable[[], Answer]) -> Answer:
    try:
        return download()
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelUnavailableError(
            f"{name} could not be fetched: {_first_line(error)}. Without a network, fetch "
            f"{OPEN_CLIP_CONFIG} and {WEIGHT_FILES[0]} elsewhere, put them in a folder here and name it "
            f"{LOCAL_PREFIX}FOLDER"
        ) from error


def _load_weights(model: nn.Module, weights: Path, name: str, *, in_place: bool) -> MappedFile | None:
    """Load a model's weights; return their file if they are used in place."""
    try:
        file = _use_in_place(model, weights) if in_place and weights.suffix == ".safetensors" else None
        if file is None:
            open_clip.load_checkpoint(model, str(weights), strict=True, weights_only=True)
        return file
    except pickle.UnpicklingError as error:
        # torch's own message advises to load it without the restriction.
        raise UnsupportedModelError(
            f"the weights of {name} ({weights.name}) cannot be loaded: the file holds more than weights, "
            "and what it holds is never run; convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, SafetensorError, OSError, EOFError, ValueError) as error:
        raise UnsupportedModelError(f"the weights of {name} ({weights.name}) cannot be loaded: {error}") from error


def _use_in_place(model: nn.Module, weights: Path) -> MappedFile | None:
    """Make a file's tensors the model's weights; return `None` and do nothing where open_clip would rework them."""
    tensors, file = map_tensors(weights)
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    if shapes != {key: tensor.shape for key, tensor in model.state_dict().items()}:
        return None
    use_tensors(model, tensors)
    return file


def _input_size(model: Any, source: _Source) -> Any:
    return getattr(model.visual, "image_size", source.preprocess["size"])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
