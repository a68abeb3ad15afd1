"""From an open_clip model config to the module, with random weights and nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import open_clip
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from structxlip.errors import UnsupportedModelError


def build_model(architecture: Mapping[str, Any], *, is_loaded_next: bool = False) -> nn.Module:
    """Make the module that a `model_cfg` of open_clip describes.

    `open_clip.create_model` would also choose and fetch weights, and log through the root logger.

    Args:
        architecture: The `model_cfg`.
        is_loaded_next: Leave the weights undefined, because all of them are read from a file at once: drawing them
            takes half the time of loading a ViT-B/32.

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
        with _NothingDrawn() if is_loaded_next else nullcontext():
            model: nn.Module = model_class(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, ImportError) as error:
        raise UnsupportedModelError(f"open_clip {open_clip.__version__} cannot build this model: {error}") from error
    return model


class _NothingDrawn(TorchFunctionMode):
    """Within it, tensors are not filled with random numbers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # What a function calls does not come by here, so the functions of torch.nn.init are met by themselves.
        named = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else named["tensor"]
        return func(*args, **named)
