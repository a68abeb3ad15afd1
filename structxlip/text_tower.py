"""The text tower of an open_clip model, run on no more positions than the batch needs.

CLIP's text tower is causal and pools at the end token: nothing after that token can change the embedding. So
a batch cut to its longest text gives the embedding of the full 77 or 248 positions, at a fraction of their
cost.

Shapes: `B` texts, `L` tokens, `W` width of the tower, `D` embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


class TextTower:
    """Reads the text side of an open_clip model (`CLIP`, `CustomTextCLIP` or `CoCa`) without owning a weight.

    Attributes:
        context_length: The most tokens that a text may have.
        is_cuttable: Whether a batch may be shorter than `context_length` without changing its embeddings.
    """

    context_length: int
    is_cuttable: bool

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        # `CLIP` keeps the parts of its text tower on itself; the others have a tower of their own.
        self._tower: Any = getattr(model, "text", model)
        self.context_length = int(self._tower.context_length)
        self.is_cuttable = self._is_causal() and self._pools_at_end_token()

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """Return embeddings `(B, D)`, not normalised, of tokens that are cut only where `is_cuttable`."""
        if not self.is_cuttable:
            return torch.as_tensor(self._model.encode_text(tokens_BL))
        return self.pool(self.token_features(tokens_BL), tokens_BL)

    def token_features(self, tokens_BL: Tensor) -> Tensor:
        """Return the features `(B, L, W)` of every token, layer-normed and not projected.

        Only where `is_cuttable`.
        """
        tower = self._tower
        assert self.is_cuttable, "this tower gives no features by token"
        length = tokens_BL.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x_BLW = tower.token_embedding(tokens_BL).to(dtype) + tower.positional_embedding[:length].to(dtype)
        return torch.as_tensor(tower.ln_final(tower.transformer(x_BLW, attn_mask=tower.attn_mask[:length, :length])))

    def pool(self, features_BLW: Tensor, tokens_BL: Tensor) -> Tensor:
        """Return embeddings `(B, D)`: the features at the end token, projected."""
        return self.project(text_global_pool(features_BLW, tokens_BL, self._pool_type, eos_token_id=self._end_id))

    def project(self, features_BW: Tensor) -> Tensor:
        """Apply the tower's own final projection, `(…, W)` to `(…, D)`."""
        projection = self._tower.text_projection
        if projection is None:
            return features_BW
        return torch.as_tensor(
            projection(features_BW) if isinstance(projection, nn.Module) else features_BW @ projection
        )

    def _is_causal(self) -> bool:
        is_open_clip = self._tower is self._model or isinstance(self._tower, TextTransformer)
        return is_open_clip and getattr(self._tower, "attn_mask", None) is not None

    def _pools_at_end_token(self) -> bool:
        has_class_token = getattr(self._tower, "cls_emb", None) is not None
        return self._pool_type in ("argmax", "eos") and not has_class_token

    @property
    def _pool_type(self) -> str:
        return str(getattr(self._tower, "text_pool_type", getattr(self._tower, "pool_type", "")))

    @property
    def _end_id(self) -> int | None:
        return getattr(self._tower, "text_eos_id", getattr(self._tower, "eos_id", None))
