"""Embeddings of parts, from the pass over the whole that exists already: text chunks and picture regions.

A chunk is a span of tokens of a caption, a region a box of a picture. Both are pooled from the tower's last
features and then go through the tower's *own* final projection, as the whole does; the final layer norm is
applied exactly once.

    text = text_tower_hidden_states(model, tokens_BL)
    chunks_MD = project_text(model, pool_chunks(text.hidden, chunks))
    edges = image_tower_patch_features(model, edge_maps_B3HW)
    regions_BKD = project_regions(model, roi_pool(edges.patches, boxes_BK4))

Shapes: `B` captions or pictures, `L` tokens, `C` width of a tower, `D` embedding, `M` chunks, `T` tokens of the
longest chunk, `K` regions, `H W` pixels or patches. Boxes are `x1 y1 x2 y2` as shares of the width and height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import PatchDropout, VisionTransformer
from torch import Tensor, nn
from torchvision.ops import roi_align

from structxlip.errors import UnsupportedModelError
from structxlip.text_tower import TextTower

MIN_BOX_AREA = 1e-6
PADDING_OWNER = -1


@dataclass(frozen=True)
class TextChunks:
    """Which tokens of which caption make up each chunk.

    Made beside the ids that are encoded, never from those of another text.

    Attributes:
        owner: `(M,)`, the caption of each chunk, 0 to `B − 1`; −1 for padding.
        start: `(M,)`, its first token, as a column of the encoded ids.
        end: `(M,)`, the column after its last token.
        max_tokens: Tokens of the longest chunk.
    """

    owner: Tensor
    start: Tensor
    end: Tensor
    max_tokens: int

    def to(self, device: torch.device | str) -> TextChunks:
        """Return the same chunks on another device."""
        return replace(
            self,
            owner=self.owner.to(device),
            start=self.start.to(device),
            end=self.end.to(device),
        )


def collect_chunks(
    spans: Sequence[Sequence[tuple[int, int]]],
    *,
    max_chunks: int,
    max_tokens: int,
    num_rows: int | None = None,
) -> TextChunks:
    """Lay out the chunks of a batch, with at most ``max_chunks`` of a caption, spread evenly over all of it.

    Args:
        spans: For each caption, ``(start, end)`` of its chunks in columns of its encoded ids.
        max_chunks: Most chunks of one caption, 1 or more.
        max_tokens: Most tokens of one chunk: a longer one gives its first ``max_tokens``.
        num_rows: Rows to pad to, so that every batch has the same shape; as many as there are chunks where
            left out.

    Returns:
        Chunks in the order of the captions, then padding; at least one row.

    Raises:
        ValueError: If a span is empty or negative, or there are more chunks than rows.
    """
    rows = [
        (owner, start, min(end, start + max_tokens))
        for owner, spans_of_caption in enumerate(spans)
        for start, end in spread_evenly(spans_of_caption, max_chunks)
    ]
    for owner, start, end in rows:
        if not 0 <= start < end:
            raise ValueError(f"caption {owner} has the chunk ({start}, {end}), expected 0 <= start < end")
    num_rows = max(len(rows), 1) if num_rows is None else num_rows
    if len(rows) > num_rows:
        raise ValueError(f"the captions have {len(rows)} chunks, which do not fit in {num_rows} rows")
    longest = max((end - start for _, start, end in rows), default=1)
    rows += [(PADDING_OWNER, 0, 1)] * (num_rows - len(rows))
    owner_M, start_M, end_M = torch.tensor(rows, dtype=torch.long).unbind(dim=1)
    return TextChunks(owner_M, start_M, end_M, longest)


def join_chunks(parts: Sequence[TextChunks], *, batch_sizes: Sequence[int]) -> TextChunks:
    """Lay the chunks of micro-batches end to end, owners counted from the start of the whole batch."""
    first_owner = [sum(batch_sizes[:index]) for index in range(len(batch_sizes))]
    owners = [
        torch.where(part.owner >= 0, part.owner + first, PADDING_OWNER)
        for part, first in zip(parts, first_owner, strict=True)
    ]
    return TextChunks(
        torch.cat(owners),
        torch.cat([part.start for part in parts]),
        torch.cat([part.end for part in parts]),
        max(part.max_tokens for part in parts),
    )


def spread_evenly(items: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Return at most ``limit`` items at even distances, first and last among them (for 1, the middle)."""
    if limit < 1:
        raise ValueError(f"the limit must be at least 1, got {limit}")
    if len(items) <= limit:
        return list(items)
    if limit == 1:
        return [items[len(items) // 2]]
    step = (len(items) - 1) / (limit - 1)
    return [items[round(index * step)] for index in range(limit)]


@dataclass(frozen=True)
class TextFeatures:
    """What one pass over a batch of captions yields.

    Attributes:
        embedding: `(B, D)`, as `model.encode_text` gives it, not normalised.
        hidden: `(B, L, C)`, of every token, after the final layer norm and before the projection.
    """

    embedding: Tensor
    hidden: Tensor


def text_tower_hidden_states(model: nn.Module, tokens_BL: Tensor) -> TextFeatures:
    """Encode captions and keep the features of their tokens, always after the final layer norm.

    Args:
        model: An open_clip model with open_clip's own text tower.
        tokens_BL: Encoded ids; cut to the longest caption only where `TextTower(model).is_cuttable`.

    Raises:
        UnsupportedModelError: If the text tower is not one of open_clip's own.
    """
    tower = TextTower(model)
    if tower.is_cuttable:
        hidden_BLC = tower.token_features(tokens_BL)
        return TextFeatures(tower.pool(hidden_BLC, tokens_BL), hidden_BLC)
    return _observe_text_tower(model, tokens_BL)


def pool_chunks(hidden_BLC: Tensor, chunks: TextChunks) -> Tensor:
    """Average the tokens of each chunk, those with large features more.

    ``Σ_t w_t h_t`` with ``w = softmax(‖h_t‖)`` over the tokens of the chunk (arXiv:2602.20089).

    Args:
        hidden_BLC: Features of the tokens.
        chunks: Which of them to average.

    Returns:
        `(M, C)`, ready for `project_text`. Norms ``ln 3`` and 0 weigh ¾ and ¼. Padding gives some token of
        the batch.
    """
    offset_T = torch.arange(chunks.max_tokens, device=hidden_BLC.device)
    column_MT = chunks.start[:, None] + offset_T
    is_inside_MT = column_MT < chunks.end[:, None]
    # Columns past the end repeat the last one, with weight 0.
    column_MT = torch.minimum(column_MT, chunks.end[:, None] - 1)
    hidden_MTC = hidden_BLC[chunks.owner.clamp(min=0)[:, None], column_MT]
    norm_MT: Tensor = torch.linalg.vector_norm(
        hidden_MTC, dim=-1, dtype=torch.promote_types(hidden_MTC.dtype, torch.float32)
    )
    weight_MT = norm_MT.masked_fill(~is_inside_MT, -math.inf).softmax(dim=1)
    return torch.einsum("mt,mtc->mc", weight_MT.to(hidden_MTC.dtype), hidden_MTC)


def project_text(model: nn.Module, pooled_MC: Tensor) -> Tensor:
    """Apply the text tower's own final projection, `(…, C)` to `(…, D)`, and no second layer norm."""
    return TextTower(model).project(pooled_MC)


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over a batch of pictures yields.

    Attributes:
        embedding: `(B, D)`, as `model.encode_image` gives it, not normalised.
        patches: `(B, C, H, W)`, the last features at each place, as `project_regions` wants them.
    """

    embedding: Tensor
    patches: Tensor


def image_tower_patch_features(model: nn.Module, images_B3HW: Tensor) -> ImageFeatures:
    """Encode pictures and keep the features of their patches.

    Args:
        model: An open_clip model whose image tower is open_clip's VisionTransformer or any of timm's.
        images_B3HW: Pictures as the tower takes them.

    Raises:
        UnsupportedModelError: If the tower has no features by place that its projection could take.
    """
    tower: Any = model.visual
    if isinstance(tower, TimmModel):
        return _timm_features(tower, images_B3HW)
    _require_patches(tower)
    # The tower's own `_pool` puts the layer norm on the patches too, unless the norm comes after pooling.
    pooled_BC, patches_BNC = tower._pool(tower.transformer(tower._embeds(images_B3HW)))
    patches_BCHW = patches_BNC.transpose(1, 2).unflatten(2, tower.grid_size)
    return ImageFeatures(_times(pooled_BC, tower.proj), patches_BCHW)


def roi_pool(features_BCHW: Tensor, boxes_BK4: Tensor) -> Tensor:
    """Average the features under each box exactly: a cell counts by the area that the box covers of it.

    Args:
        features_BCHW: A feature map.
        boxes_BK4: Boxes as shares of the width and height.

    Returns:
        `(B, K, C)`; the mean of the whole map for the box ``(0, 0, 1, 1)``, zeros for a box without area.
    """
    height, width = features_BCHW.shape[-2:]
    x1_BK, y1_BK, x2_BK, y2_BK = boxes_BK4.to(torch.promote_types(features_BCHW.dtype, torch.float32)).unbind(dim=-1)
    covered_x_BKW = covered_cells(x1_BK, x2_BK, width)
    covered_y_BKH = covered_cells(y1_BK, y2_BK, height)
    weight_BKHW = covered_y_BKH[..., :, None] * covered_x_BKW[..., None, :]
    area_BK11 = weight_BKHW.sum(dim=(2, 3), keepdim=True)
    weight_BKHW = weight_BKHW / area_BK11.clamp(min=MIN_BOX_AREA)
    return torch.einsum("bkhw,bchw->bkc", weight_BKHW.to(features_BCHW.dtype), features_BCHW)


def project_regions(model: nn.Module, pooled_BKC: Tensor) -> Tensor:
    """Send pooled regions, `(B, K, C)`, through what the image tower does after its last features.

    The result is `(B, K, D)`.

    Raises:
        UnsupportedModelError: As `image_tower_patch_features`.
    """
    tower: Any = model.visual
    if isinstance(tower, TimmModel):
        return _timm_head(tower, pooled_BKC.flatten(0, 1)).reshape(*pooled_BKC.shape[:2], -1)
    _require_patches(tower)
    normed_BKC = tower.ln_post(pooled_BKC) if tower.final_ln_after_pool else pooled_BKC
    return _times(normed_BKC, tower.proj)


def crop_regions(images_BCHW: Tensor, boxes_BK4: Tensor, size: int) -> Tensor:
    """Cut each region out of its picture and resize it to a square: the costlier way to embed it.

    Args:
        images_BCHW: Pictures.
        boxes_BK4: Boxes as shares of the width and height.
        size: Side of the crops, in pixels.

    Returns:
        `(B · K, C, size, size)`, the regions of the first picture first; bilinear, averaged where it shrinks.
    """
    num_images, num_regions = boxes_BK4.shape[:2]
    height, width = images_BCHW.shape[-2:]
    pixels_BK4 = boxes_BK4 * boxes_BK4.new_tensor([width, height, width, height])
    image_R1 = torch.arange(num_images, device=boxes_BK4.device).repeat_interleave(num_regions)[:, None]
    boxes_R5 = torch.cat([image_R1, pixels_BK4.flatten(0, 1)], dim=1).to(images_BCHW.dtype)
    return torch.as_tensor(roi_align(images_BCHW, boxes_R5, output_size=size, aligned=True))


def _observe_text_tower(model: nn.Module, tokens_BL: Tensor) -> TextFeatures:
    """Encode with the model itself and take the features of the tokens on the way."""
    tower: Any = getattr(model, "text", model)
    if not (hasattr(tower, "ln_final") and hasattr(tower, "transformer")):
        raise UnsupportedModelError(
            f"the text tower {type(tower).__name__} does not show the features of its tokens; text chunks "
            "need one of open_clip's own towers: leave the local loss out (weight 0) or choose another model"
        )
    seen: list[Tensor] = []
    handle = tower.transformer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        embedding_BD = model.encode_text(tokens_BL, normalize=False)  # type: ignore[operator]
    finally:
        handle.remove()
    # CoCa appends a class token, and applies its layer norm to that one alone.
    return TextFeatures(embedding_BD, tower.ln_final(seen[0][:, : tokens_BL.shape[1]]))


def _require_patches(tower: Any) -> None:
    if not isinstance(tower, VisionTransformer) or tower.attn_pool is not None or tower.pool_type == "none":
        raise UnsupportedModelError(
            f"the image tower {type(tower).__name__} projects no single patches; embed regions by their "
            "crops, or choose a model with a timm tower or open_clip's VisionTransformer (but without "
            "attentional pooling)"
        )
    if isinstance(tower.patch_dropout, PatchDropout) and tower.training:
        raise UnsupportedModelError("patch dropout leaves no regular grid of patches: set patch_dropout to 0")


def _timm_features(tower: TimmModel, images_B3HW: Tensor) -> ImageFeatures:
    features = tower.trunk.forward_features(images_B3HW)
    embedding_BD = tower.head(tower.trunk.forward_head(features))
    if features.ndim == 4:
        is_channels_last = getattr(tower.trunk, "output_fmt", "NCHW") == "NHWC"
        return ImageFeatures(embedding_BD, features.permute(0, 3, 1, 2) if is_channels_last else features)
    patches_BNC = features[:, getattr(tower.trunk, "num_prefix_tokens", 0) :]
    return ImageFeatures(embedding_BD, patches_BNC.transpose(1, 2).unflatten(2, _timm_grid(tower, patches_BNC)))


def _timm_grid(tower: TimmModel, patches_BNC: Tensor) -> tuple[int, int]:
    grid: tuple[int, int] = tower.trunk.patch_embed.grid_size
    if grid[0] * grid[1] != patches_BNC.shape[1]:
        raise UnsupportedModelError(
            f"the image tower has {patches_BNC.shape[1]} patches where its grid has {grid[0]} × {grid[1]}: "
            "pictures must have the model's own size, and patch dropout must be 0"
        )
    return grid


def _timm_head(tower: TimmModel, pooled_RC: Tensor) -> Tensor:
    """Let the tower pool a picture that consists of the region alone: the mean of one place is that place."""
    trunk = tower.trunk
    num_prefix = getattr(trunk, "num_prefix_tokens", None)
    if num_prefix is not None:
        alone = pooled_RC[:, None].expand(-1, num_prefix + 1, -1)
    elif getattr(trunk, "output_fmt", "NCHW") == "NHWC":
        alone = pooled_RC[:, None, None, :]
    else:
        alone = pooled_RC[:, :, None, None]
    return torch.as_tensor(tower.head(trunk.forward_head(alone)))


def covered_cells(first_BK: Tensor, last_BK: Tensor, num_cells: int) -> Tensor:
    """Return how much of each of `num_cells` equal cells an interval covers, 0 to 1.

    Args:
        first_BK: Where each interval begins, 0 to 1.
        last_BK: Where it ends.
        num_cells: Of the whole.

    Returns:
        `(B, K, num_cells)`.
    """
    cell_X = torch.arange(num_cells, device=first_BK.device)
    end_BKX = torch.minimum(last_BK[..., None] * num_cells, cell_X + 1)
    start_BKX = torch.maximum(first_BK[..., None] * num_cells, cell_X)
    return (end_BKX - start_BKX).clamp(min=0)


def _times(features: Tensor, projection: Tensor | None) -> Tensor:
    return features if projection is None else features @ projection
