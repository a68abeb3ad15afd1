"""Small open_clip models with random weights, one of each kind of tower."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

VOCABULARY = 64
IMAGE_SIZE = 32
VISION: dict[str, Any] = {
    "layers": 2,
    "width": 16,
    "head_width": 8,
    "patch_size": 8,
    "image_size": IMAGE_SIZE,
}
TEXT: dict[str, Any] = {
    "context_length": 12,
    "vocab_size": VOCABULARY,
    "width": 24,
    "heads": 3,
    "layers": 2,
}


def clip(*, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    return _awake(CLIP(16, VISION | (vision or {}), TEXT | (text or {})))


def custom_text_clip(*, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    return _awake(CustomTextCLIP(16, VISION | (vision or {}), TEXT | (text or {})))


def siglip_like() -> Any:
    return custom_text_clip(text={"no_causal_mask": True, "pool_type": "last", "proj_bias": True})


def coca() -> Any:
    torch.manual_seed(0)
    decoder = {"context_length": 12, "vocab_size": VOCABULARY, "width": 24, "heads": 3, "layers": 1}
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    vision = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    return _awake(CoCa(16, decoder, text, vision))


def timm_clip(name: str, **vision: Any) -> Any:
    return custom_text_clip(vision={"timm_model_name": name, "timm_pool": "avg", "timm_proj": "linear"} | vision)


class TowerWithoutTable(nn.Module):
    """Stands for a text tower with relative or rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.context_length = 12
        self.token_embedding = nn.Embedding(VOCABULARY, 16)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(tokens).mean(dim=1)


def without_table() -> Any:
    model = custom_text_clip()
    model.text = TowerWithoutTable()
    return model


def tokens(lengths: list[int], *, context_length: int = 12, seed: int = 0) -> torch.Tensor:
    """Ids that end in the highest one (CLIP's end token), then zeros."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), context_length, dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[: length - 1] = torch.randint(1, VOCABULARY - 1, (length - 1,), generator=generator)
        row[length - 1] = VOCABULARY - 1
    return ids


def images(number: int, *, size: int = IMAGE_SIZE, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def _awake(model: nn.Module) -> nn.Module:
    """Give the parts that start as zeros or ones some character, so that leaving one out shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "logit" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()
