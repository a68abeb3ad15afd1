"""A ViT-B image tower with a 4-layer text tower and random weights: speed without downloading anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from structxlip.architecture import build_model

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "width": 768, "layers": 12, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 4},
}
PREPROCESSING = {
    "mean": [0.4815, 0.4578, 0.4082],
    "std": [0.2686, 0.2613, 0.2758],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def write_reference_model(folder: Path, *, patch_size: int = 32) -> str:
    """Write the model as an open_clip folder and return the name to serve it by."""
    architecture = {**ARCHITECTURE, "vision_cfg": {**ARCHITECTURE["vision_cfg"], "patch_size": patch_size}}
    torch.manual_seed(0)
    weights = {name: tensor.contiguous() for name, tensor in build_model(architecture).state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": architecture, "preprocess_cfg": PREPROCESSING})
    )
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
