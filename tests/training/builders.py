"""Small runs for tests: rendered scenes at 64 pixels, a CLIP of two layers, seconds on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.tiny_open_clip import tiny_architecture
from training.config import TrainConfig, parse_config

TINY_PREPROCESSING = {
    "image_size": 64,
    "resize_mode": "squash",
    "interpolation": "bicubic",
    "fill": 0,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}


def tiny_tree(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the plain values of a run; `changes` are dotted keys with `__` between levels."""
    tree: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "train": {"kind": "scenes", "split": "train", "num_scenes": 24},
            "val": {"kind": "scenes", "split": "val", "num_scenes": 8},
        },
        "model": {
            "architecture": tiny_architecture(),
            "preprocessing": TINY_PREPROCESSING,
            "context_length": 120,
        },
        "loss": {"structure": 0.5, "consistency": 0.05, "local": 0.1, "max_chunks": 4, "regions": {"kind": "grid"}},
        "optimiser": {"lr": 1e-3, "epochs": 2, "ema_decay": 0.9},
        "regime": {"batch_size": 8, "device": "cpu", "num_threads": 1},
        "evaluation": {"num_weights": 3},
        "saving": {"run_folder": str(folder)},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    return tree


def tiny_config(folder: Path, **changes: Any) -> TrainConfig:
    """Return a run that takes seconds."""
    return parse_config(tiny_tree(folder, **changes))
