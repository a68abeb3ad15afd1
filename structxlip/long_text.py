"""Longer texts for a text tower that was trained on short ones: its positions, stretched.

The first positions, which short texts have trained well, stay as they are; the others are stretched by linear
interpolation (Long-CLIP, arXiv:2403.15378). CLIP's 77 positions become 248. Stretch a model before its
optimiser is made: the table is a new parameter.

Shapes: `L` positions, `C` width of the tower.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from structxlip.errors import UnsupportedModelError

KEPT_POSITIONS = 20
RATIO = 4


class TextTooLongError(ValueError):
    """More positions were asked for than the ratio stretches the table to."""


def stretched_length(num_positions: int, *, keep: int = KEPT_POSITIONS, ratio: int = RATIO) -> int:
    """Return how many positions a table has after stretching: 248 for 77."""
    if ratio < 1:
        raise ValueError(f"the ratio must be at least 1, got {ratio}")
    if not 0 <= keep < num_positions - 1:
        raise ValueError(f"keep must leave at least 2 of the {num_positions} positions to stretch, got {keep}")
    return keep + (num_positions - keep) * ratio


def stretch_positions(table_LC: Tensor, *, keep: int = KEPT_POSITIONS, ratio: int = RATIO) -> Tensor:
    """Return a longer table: row ``keep + m`` is the old table read at ``keep + m / ratio``.

    Between rows it is read linearly. The last ``ratio − 1`` rows lie beyond the table and continue its last
    step.

    Args:
        table_LC: Position embeddings.
        keep: How many rows stay as they are.
        ratio: How many rows each of the others becomes.

    Returns:
        `(keep + (L − keep) · ratio, C)`; of ``p_k = k``, row ``20 + m`` is ``20 + m / 4``.
    """
    num_positions = table_LC.shape[0]
    length = stretched_length(num_positions, keep=keep, ratio=ratio)
    step_M = torch.arange(length - keep, device=table_LC.device)
    lower_M = (keep + step_M // ratio).clamp(max=num_positions - 2)
    wide_LC = table_LC.to(torch.promote_types(table_LC.dtype, torch.float32))
    share_M1 = ((keep - lower_M) * ratio + step_M).to(wide_LC.dtype)[:, None] / ratio
    stretched_MC = wide_LC[lower_M] + share_M1 * (wide_LC[lower_M + 1] - wide_LC[lower_M])
    return torch.cat([table_LC[:keep], stretched_MC.to(table_LC.dtype)])


def stretch_text_tower(
    model: nn.Module,
    *,
    context_length: int | None = None,
    keep: int = KEPT_POSITIONS,
    ratio: int = RATIO,
    tokenizer: Any = None,
) -> int:
    """Let an open_clip model read longer texts, in place.

    Args:
        model: A `CLIP`, `CustomTextCLIP` or `CoCa` with open_clip's own text tower.
        context_length: Tokens that it shall read; as many as the ratio gives where left out.
        keep: How many positions stay as they are.
        ratio: How many positions each of the others becomes.
        tokenizer: The model's open_clip tokenizer, whose own limit is raised with it.

    Returns:
        The new context length.

    Raises:
        TextTooLongError: If the ratio is too small for `context_length`.
        UnsupportedModelError: If the text tower has no table of positions to stretch.
    """
    tower = _tower_with_table(model)
    table_LC: nn.Parameter = tower.positional_embedding
    # CoCa appends a class token, whose position is the last row and stays the last.
    num_extra = 0 if getattr(tower, "cls_emb", None) is None else 1
    num_positions = table_LC.shape[0] - num_extra
    longest = stretched_length(num_positions, keep=keep, ratio=ratio)
    length = longest if context_length is None else context_length
    _require_reachable(length, num_positions, longest, keep=keep, ratio=ratio)
    with torch.no_grad():
        text_LC, extra_LC = table_LC[:num_positions], table_LC[num_positions:]
        rows_LC = torch.cat([stretch_positions(text_LC, keep=keep, ratio=ratio)[:length], extra_LC])
    tower.positional_embedding = nn.Parameter(rows_LC, requires_grad=table_LC.requires_grad)
    _rebuild_mask(tower, length + num_extra)
    if hasattr(tower, "num_pos"):
        tower.num_pos = length + num_extra
    decoder = getattr(model, "text_decoder", None)
    if decoder is not None:
        _rebuild_mask(decoder, length)
    for part in (model, tower, decoder, tokenizer):
        if part is not None and hasattr(part, "context_length"):
            part.context_length = length
    return length


def _tower_with_table(model: nn.Module) -> Any:
    # `CLIP` keeps the parts of its text tower on itself; the others have a tower of their own.
    tower: Any = getattr(model, "text", model)
    table = getattr(tower, "positional_embedding", None)
    if not isinstance(table, nn.Parameter) or table.ndim != 2 or not hasattr(tower, "token_embedding"):
        raise UnsupportedModelError(
            f"the text tower {type(tower).__name__} has no table of positions to stretch (they are "
            "relative, rotary, or kept elsewhere): train it at its own context length or choose a model "
            "with open_clip's own text tower"
        )
    return tower


def _require_reachable(length: int, num_positions: int, longest: int, *, keep: int, ratio: int) -> None:
    if length < num_positions:
        raise ValueError(f"the model already reads {num_positions} tokens; {length} would be fewer")
    if length > longest:
        needed = -(-(length - keep) // (num_positions - keep))
        raise TextTooLongError(
            f"a context length of {length} is more than the {longest} that ratio {ratio} makes of "
            f"{num_positions} positions: set the ratio to {needed} or ask for at most {longest}"
        )


def _rebuild_mask(tower: Any, length: int) -> None:
    """Make the causal mask as long as the table; a tower that sees both ways has none."""
    old_LL = getattr(tower, "attn_mask", None)
    if old_LL is None:
        return
    mask_LL = torch.full((length, length), -torch.inf, dtype=old_LL.dtype, device=old_LL.device).triu(1)
    tower.register_buffer("attn_mask", mask_LL, persistent=False)
