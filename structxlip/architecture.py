"""From an open_clip model config to the module, with random weights and nothing downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import open_clip
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from structxlip.errors import UnsupportedModelError


def build_model(architecture: Mapping[str, Any]) -> nn.Module:
    """Make the module that a `model_cfg` of open_clip describes.

    `open_clip.create_model` would also choose and fetch weights, and log through the root logger.

    Raises:
        UnsupportedModelError: If the installed open_clip cannot build it.
    """
    config = deepcopy(dict(architecture))
    is_custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    model_class = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if is_custom else CLIP
    try:
        model: nn.Module = model_class(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, ImportError) as error:
        raise UnsupportedModelError(f"open_clip {open_clip.__version__} cannot build this model: {error}") from error
    return model
