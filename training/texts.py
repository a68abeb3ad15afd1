"""The texts of a batch through the text tower without the padding of the longest one, and without its frozen layers.

Texts of like length stand together in groups, each padded to its own longest. All groups lie end to end in one table of
tokens, so that every matrix product runs once; only attention goes group by group. A structural text that equals the
full one is encoded once, and the frozen layers once for each text of the data. Embeddings and gradients are those of
one padded pass.

Shapes: `B` pairs, `R` different texts, `L` tokens, `P` places of the table, `M` chunks, `W` width, `D` embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from structxlip.pooling import TextChunks, pool_chunks
from structxlip.text_tower import TextTower
from structxlip.tokenizer import PADDING

Ids = tuple[int, ...]


@dataclass(frozen=True)
class PackedTexts:
    """What the tower made of several sets of texts.

    Attributes:
        embeddings: For each set `(B, D)`.
        chunks: `(M, W)`, pooled and not projected; none where no chunks were asked for.
    """

    embeddings: tuple[Tensor, ...]
    chunks: Tensor | None


@dataclass(frozen=True)
class _Group:
    """Texts of like length: `count` rows of `width` places, from place `first` of the table on."""

    first: int
    count: int
    width: int


class PackedTower:
    """Runs the text tower of an open_clip model on what there is to read.

    Args:
        model: With a text tower that `is_packable`.
        num_groups: Groups of like length in a batch.
        num_frozen: Layers that do not learn, the token and position vectors before them neither: their features are
            kept by text. 0 keeps nothing.
        kept: Where; given, it is shared with other towers that have the same frozen layers.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_groups: int = 8,
        num_frozen: int = 0,
        kept: dict[Ids, Tensor] | None = None,
    ) -> None:
        self._model = model
        self._num_groups = num_groups
        self._num_frozen = num_frozen
        self._kept = {} if kept is None else kept

    def __call__(
        self, sets: Sequence[Tensor], *, chunks: TextChunks | None = None, chunked_set: int = 0
    ) -> PackedTexts:
        """Encode sets of texts that belong together row by row.

        Args:
            sets: Encoded ids `(B, L)`, each set of its own width; the first is encoded whole, of the others what
                differs from it.
            chunks: Which spans to pool.
            chunked_set: Of which set.
        """
        rows_RL, row_of = _different(sets)
        length_R = _lengths(rows_RL)
        order_R = length_R.argsort(stable=True)
        groups, first_R = _groups(length_R, order_R, self._num_groups)
        x_PW = self._start(rows_RL, length_R, order_R, groups)
        blocks: Any = _tower(self._model).transformer.resblocks
        for block in blocks[self._num_frozen :]:
            x_PW = _through(block, x_PW, groups)
        hidden_PW = _tower(self._model).ln_final(x_PW)
        embedding_RD = TextTower(self._model).project(hidden_PW[first_R + length_R - 1])
        return PackedTexts(
            tuple(embedding_RD[row_B] for row_B in row_of),
            None if chunks is None else _chunks(hidden_PW, chunks, first_R[row_of[chunked_set]]),
        )

    def of(self, model: nn.Module) -> PackedTower:
        """Return the same for another model, whose frozen layers are equal."""
        return PackedTower(model, num_groups=self._num_groups, num_frozen=self._num_frozen, kept=self._kept)

    def _start(self, rows_RL: Tensor, length_R: Tensor, order_R: Tensor, groups: Sequence[_Group]) -> Tensor:
        if self._num_frozen:
            return self._kept_features(rows_RL, length_R, order_R, groups)
        tower, place = _tower(self._model), 0
        parts = []
        for group in groups:
            tokens_GL = rows_RL[order_R[place : place + group.count], : group.width]
            parts.append((tower.token_embedding(tokens_GL) + tower.positional_embedding[: group.width]).flatten(0, 1))
            place += group.count
        return torch.cat(parts)

    @torch.no_grad()
    def _kept_features(self, rows_RL: Tensor, length_R: Tensor, order_R: Tensor, groups: Sequence[_Group]) -> Tensor:
        texts = [tuple(ids[:length]) for ids, length in zip(rows_RL.tolist(), length_R.tolist(), strict=True)]
        unknown = [text for text in dict.fromkeys(texts) if text not in self._kept]
        for text in unknown:
            self._kept[text] = self._frozen_features(text)
        width = next(iter(self._kept.values())).shape[1]
        table_PW = torch.zeros(sum(g.count * g.width for g in groups), width, device=rows_RL.device)
        members = iter(order_R.tolist())
        for group in groups:
            for row in range(group.count):
                kept_LW = self._kept[texts[next(members)]]
                begin = group.first + row * group.width
                table_PW[begin : begin + len(kept_LW)] = kept_LW
        return table_PW

    def _frozen_features(self, text: Ids) -> Tensor:
        """Return float16 `(L, W)`, computed in float32."""
        tower, device = _tower(self._model), _tower(self._model).positional_embedding.device
        with torch.autocast(device.type, enabled=False):
            x_LW = tower.token_embedding(torch.tensor(text, device=device)) + tower.positional_embedding[: len(text)]
            for block in tower.transformer.resblocks[: self._num_frozen]:
                x_LW = _through(block, x_LW, [_Group(0, 1, len(text))])
        return torch.as_tensor(x_LW).half()


def is_packable(model: nn.Module) -> bool:
    """Whether the text tower is one whose layers `PackedTower` knows."""
    tower = _tower(model)
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", ())
    return (
        TextTower(model).is_cuttable
        and len(blocks) > 0
        and all(
            type(block) is ResidualAttentionBlock and isinstance(block.attn, nn.MultiheadAttention) for block in blocks
        )
    )


def _tower(model: nn.Module) -> Any:
    return getattr(model, "text", model)


def _through(block: Any, x_PW: Tensor, groups: Sequence[_Group]) -> Tensor:
    """Return what a layer makes of every place."""
    attention = block.attn
    qkv_P3W = F.linear(block.ln_1(x_PW), attention.in_proj_weight, attention.in_proj_bias)
    # Split at once: the gradient of a slice is a table of the whole size, of which each group would make its own.
    parts = torch.split(qkv_P3W, [group.count * group.width for group in groups])
    attended_PW = torch.cat(
        [_attended(qkv_Q3W, group, attention.num_heads) for qkv_Q3W, group in zip(parts, groups, strict=True)]
    )
    x_PW = x_PW + block.ls_1(attention.out_proj(attended_PW))
    return x_PW + torch.as_tensor(block.ls_2(block.mlp(block.ln_2(x_PW))))


def _attended(qkv_Q3W: Tensor, group: _Group, num_heads: int) -> Tensor:
    """Return causal attention within each text of a group; padding comes last, where no token looks."""
    width = group.width
    q, k, v = (
        part.reshape(group.count, width, num_heads, -1).transpose(1, 2).flatten(0, 1)
        for part in qkv_Q3W.chunk(3, dim=1)
    )
    future_LL = torch.full((width, width), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores_NLL = torch.baddbmm(future_LL.expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5)
    out_NLD = torch.bmm(scores_NLL.softmax(dim=-1).to(v.dtype), v)
    return out_NLD.view(group.count, num_heads, width, -1).transpose(1, 2).reshape(group.count * width, -1)


def _groups(length_R: Tensor, order_R: Tensor, num_groups: int) -> tuple[list[_Group], Tensor]:
    """Return the groups of the texts in order of length, and the first place of each text."""
    groups, first_R, first = [], torch.empty_like(length_R), 0
    for members in order_R.tensor_split(num_groups):
        if len(members):
            group = _Group(first, len(members), int(length_R[members].max()))
            groups.append(group)
            first_R[members] = first + group.width * torch.arange(len(members), device=length_R.device)
            first += group.count * group.width
    return groups, first_R


def _different(sets: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the different texts, and for each set the row of each of its texts."""
    width = max(tokens_BL.shape[1] for tokens_BL in sets)
    first, *others = (F.pad(tokens_BL, (0, width - tokens_BL.shape[1]), value=PADDING) for tokens_BL in sets)
    rows, row_of, num_rows = [first], [torch.arange(len(first), device=first.device)], len(first)
    for tokens_BL in others:
        is_new_B = (tokens_BL != first).any(dim=1)
        own_B = row_of[0].clone()
        own_B[is_new_B] = num_rows + torch.arange(int(is_new_B.sum()), device=own_B.device)
        rows.append(tokens_BL[is_new_B])
        row_of.append(own_B)
        num_rows += int(is_new_B.sum())
    return torch.cat(rows), row_of


def _lengths(tokens_RL: Tensor) -> Tensor:
    """Return the number of columns up to the last that is no padding: that of the end token."""
    column_L = torch.arange(1, tokens_RL.shape[1] + 1, device=tokens_RL.device)
    return ((tokens_RL != PADDING) * column_L).amax(dim=1)


def _chunks(hidden_PW: Tensor, chunks: TextChunks, first_B: Tensor) -> Tensor:
    """Pool chunks whose columns are counted in their own texts."""
    first_M = first_B[chunks.owner.clamp(min=0)]
    in_table = TextChunks(
        torch.zeros_like(chunks.owner), chunks.start + first_M, chunks.end + first_M, chunks.max_tokens
    )
    return pool_chunks(hidden_PW[None], in_table)
