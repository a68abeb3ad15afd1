"""A table of token vectors of which only those that the training texts use learn.

The others get no gradient, and token vectors do not decay (see `training.optimisation`): they stay as they are either
way, while gradient, moments and clipping of the whole table cost time at every step. CLIP's table has 49,408 rows; a
thousand captions use 1,500 of them.

Shapes: `V` rows of the table, `U` rows in use, `W` width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UsedTokens(nn.Module):
    """Stands in for an `nn.Embedding`; its state is that of the whole table.

    Args:
        table: The embedding that it replaces.
        used: Ids that training looks up.
    """

    def __init__(self, table: nn.Embedding, used: Iterable[int]) -> None:
        super().__init__()
        ids_U = torch.tensor(sorted(set(used)), device=table.weight.device)
        row_V = torch.full((table.num_embeddings,), -1, dtype=torch.long, device=table.weight.device)
        row_V[ids_U] = torch.arange(len(ids_U), device=ids_U.device)
        self.register_buffer("ids", ids_U, persistent=False)
        self.register_buffer("row", row_V, persistent=False)
        self.weight = nn.Parameter(table.weight.detach().clone(), requires_grad=False)
        self.learned = nn.Parameter(self.weight[ids_U].clone())

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Look tokens up, `(B, L, W)`; those that are not in use have the vectors they started with, and keep them."""
        if not torch.is_grad_enabled():
            return F.embedding(tokens_BL, self._whole())
        row_BL = self.row[tokens_BL]  # type: ignore[index]
        learned_BLW = F.embedding(row_BL.clamp(min=0), self.learned)
        return torch.where(row_BL[..., None] >= 0, learned_BLW, F.embedding(tokens_BL, self.weight))

    def _whole(self) -> Tensor:
        with torch.no_grad():
            self.weight[self.ids] = self.learned  # type: ignore[index]
        return self.weight

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        whole = self._whole()
        destination[f"{prefix}weight"] = whole if keep_vars else whole.detach()

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        name = f"{prefix}weight"
        if name not in state:
            missing.append(name)
            return
        if state[name].shape != self.weight.shape:
            errors.append(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(self.weight.shape)}")
            return
        with torch.no_grad():
            self.weight.copy_(state[name])
            self.learned.copy_(self.weight[self.ids])  # type: ignore[index]


def learn_used_tokens(model: nn.Module, texts: Iterable[Iterable[int]]) -> bool:
    """Let a model learn the vectors of these texts' tokens only.

    Args:
        model: An open_clip model.
        texts: Ids of every text that training may encode, padding included.

    Returns:
        Whether the model has such a table, and it was to learn.
    """
    tower: Any = getattr(model, "text", model)
    table = getattr(tower, "token_embedding", None)
    if not isinstance(table, nn.Embedding) or not table.weight.requires_grad:
        return False
    tower.token_embedding = UsedTokens(table, {token for text in texts for token in text})
    return True
