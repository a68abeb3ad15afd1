"""Which layers of a model are frozen, and how deep each parameter lies.

Depth is counted from the output: 0 for final norms and projections, 1 for the last layer, and so on.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from structxlip.encoder import TwoViewEncoder
from training.config import FreezingConfig

# Where the towers that open_clip and timm build keep their layers, and what comes before the first of them.
_LAYERS = (
    re.compile(r"^(?P<tower>visual|text)\.transformer\.resblocks\.(?P<layer>\d+)\."),
    re.compile(r"^(?P<tower>transformer)\.resblocks\.(?P<layer>\d+)\."),
    re.compile(r"^(?P<tower>visual)\.trunk\.(?:blocks|stages|layers)\.(?P<layer>\d+)\."),
    re.compile(r"^(?P<tower>visual)\.(?:trunk\.)?layer(?P<layer>\d+)\."),
)
_FIRST = re.compile(
    r"^(visual\.(conv1|bn1|conv2|bn2|conv3|bn3|class_embedding|positional_embedding|ln_pre)\b"
    r"|visual\.trunk\.(conv_stem|bn1|conv1|stem|patch_embed|cls_token|pos_embed|norm_pre)\b"
    r"|(text\.)?(token_embedding|positional_embedding)\b)"
)


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Return how many layers lie between each parameter and its tower's output."""
    layers = {name: _layer_of(name) for name, _ in model.named_parameters()}
    last: dict[str, int] = {}
    for found in layers.values():
        if found is not None:
            last[found[0]] = max(last.get(found[0], 0), found[1])
    depths = {}
    for name, found in layers.items():
        if found is not None:
            depths[name] = 1 + last[found[0]] - found[1]
        elif _FIRST.match(name):
            depths[name] = 2 + last.get("visual" if name.startswith("visual.") else _text_tower(last), 0)
        else:
            depths[name] = 0
    return depths


def freeze(encoder: TwoViewEncoder, config: FreezingConfig) -> None:
    """Keep part of an encoder as it is; a frozen normalisation keeps its statistics too, in `set_training`."""
    if config.mode == "none":
        return
    is_towers = config.mode == "towers"
    num_image = config.last_layers if is_towers else 0
    num_text = num_image if config.text_layers is None or not is_towers else config.text_layers
    depths = layer_depths(encoder.model)
    for name, parameter in encoder.model.named_parameters():
        is_text = not name.startswith("visual.")
        trains_tower = is_towers and config.train_text and is_text
        parameter.requires_grad_(trains_tower or depths[name] <= (num_text if is_text else num_image))


def num_frozen_layers(model: nn.Module, config: FreezingConfig) -> int:
    """Return how many layers of the image tower are frozen, from its input on."""
    layers = [
        found[1] for name, _ in model.named_parameters() if (found := _layer_of(name)) and name.startswith("visual.")
    ]
    num_trained = config.last_layers if config.mode == "towers" else 0
    return max(0, 1 + max(layers, default=-1) - num_trained) if config.mode != "none" else 0


def num_frozen_text_layers(model: nn.Module) -> int:
    """Return how many layers of the text tower learn nothing, nor anything before them."""
    learns: dict[int, bool] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("visual."):
            continue
        found = _layer_of(name)
        if found is not None:
            learns[found[1]] = learns.get(found[1], False) or parameter.requires_grad
        elif _FIRST.match(name) and parameter.requires_grad:
            return 0
    return next((layer for layer in sorted(learns) if learns[layer]), len(learns))


def set_training(encoder: TwoViewEncoder, is_training: bool, *, keeps_statistics: bool = False) -> None:
    """Switch dropout and running statistics on, but for modules all of whose weights are frozen.

    Args:
        encoder: Whose modules.
        is_training: Off for evaluation.
        keeps_statistics: Whether batch normalisations stay as in evaluation.
    """
    parts: list[nn.Module] = [encoder.model]
    if encoder.edge_branch is not None:
        parts.append(encoder.edge_branch)
    for part in parts:
        part.train(is_training)
        if is_training:
            for module in part.modules():
                own: list[Any] = list(module.parameters())
                is_frozen = own and not any(parameter.requires_grad for parameter in own)
                if is_frozen or (keeps_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm)):
                    module.eval()


def _layer_of(name: str) -> tuple[str, int] | None:
    for pattern in _LAYERS:
        if found := pattern.match(name):
            return found["tower"], int(found["layer"])
    return None


def _text_tower(last: dict[str, int]) -> str:
    return "text" if "text" in last else "transformer"
