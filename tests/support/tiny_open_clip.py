"""Very small open_clip models with random weights in a folder, for tests that need a real model but not a good one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from structxlip.architecture import build_model

IMAGE_SIZE = 64
DIMENSION = 32
CONTEXT_LENGTH = 77


def tiny_architecture() -> dict[str, Any]:
    """Return the open_clip config of a CLIP with two layers of width 64 on each side."""
    return {
        "embed_dim": DIMENSION,
        "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 16, "width": 64, "layers": 2, "head_width": 32},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
    }


def tiny_preprocess() -> dict[str, Any]:
    """Return the preprocessing part of an open_clip config."""
    return {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def write_tiny_open_clip(
    folder: Path, seed: int = 0, *, architecture: dict[str, Any] | None = None, half_precision: bool = True
) -> Path:
    """Write an open_clip model with random weights, to be named `local-dir:FOLDER`, and return its folder."""
    architecture = architecture or tiny_architecture()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = build_model(architecture)
    if hasattr(model.visual, "transformer"):
        # As initialised, random towers give every picture nearly the same vector.
        model.visual.transformer.resblocks[0].attn.in_proj_weight.data.mul_(3)
    folder.mkdir(parents=True, exist_ok=True)
    written = {"model_cfg": architecture, "preprocess_cfg": tiny_preprocess()}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    weights = {
        key: value.half() if half_precision and value.ndim > 1 else value for key, value in model.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    return folder
