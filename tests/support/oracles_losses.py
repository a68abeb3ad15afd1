"""Slow twins of the losses and poolings: loops over samples, written straight from the formulas in method.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def log_sum_exp(values: list[Tensor]) -> Tensor:
    return torch.stack([value.exp() for value in values]).sum().log()


def masked_contrastive_loss(
    query: Tensor,
    key: Tensor,
    scale: float,
    valid: list[bool],
    margin: float = 0.0,
    margin_features: Tensor | None = None,
    meaning: list[int] | None = None,
) -> Tensor:
    rows = [index for index, is_valid in enumerate(valid) if is_valid]
    total = (query * 0).sum() + (key * 0).sum()
    for left, right in ((query, key), (key, query)):
        for i in rows:
            logits = []
            for j in rows:
                if meaning is not None and i != j and meaning[i] == meaning[j]:
                    continue
                similarity = torch.dot(unit(left[i]), unit(right[j]))
                if margin and i != j:
                    assert margin_features is not None
                    similarity = similarity + margin * torch.dot(
                        unit(margin_features[i].detach()), unit(margin_features[j].detach())
                    )
                logits.append(scale * similarity)
            own = scale * torch.dot(unit(left[i]), unit(right[i]))
            total = total + log_sum_exp(logits) - own
    return total / (2 * max(len(rows), 1))


def consistency_loss(colour: Tensor, edge: Tensor, valid: list[bool], distance: str, stop_gradient: bool) -> Tensor:
    total = (edge * 0).sum()
    for index, is_valid in enumerate(valid):
        if not is_valid:
            continue
        target = unit(colour[index].detach() if stop_gradient else colour[index])
        moved = unit(edge[index])
        if distance == "cosine":
            total = total + 1 - torch.dot(target, moved)
        else:
            total = total + (target - moved).square().sum().sqrt()
    return total / max(sum(valid), 1)


def local_alignment_loss(
    chunks: Tensor, owners: list[int], regions: Tensor, valid: list[list[bool]], scale: float, positives: str
) -> Tensor:
    num_images, num_regions, _ = regions.shape
    total = (chunks * 0).sum() + (regions * 0).sum()
    num_images_that_count = 0
    for b in range(num_images):
        mine = [m for m, owner in enumerate(owners) if owner == b]
        own = [k for k in range(num_regions) if valid[b][k]]
        if not mine or not own:
            continue
        num_images_that_count += 1
        for m in mine:
            logits = {
                (image, k): scale * torch.dot(unit(chunks[m]), unit(regions[image, k]))
                for image in range(num_images)
                for k in range(num_regions)
                if valid[image][k]
            }
            own_logits = [logits[b, k] for k in own]
            if positives == "owner":
                positive = log_sum_exp(own_logits)
            elif positives == "hard":
                positive = max(own_logits, key=lambda value: value.item())
            else:
                normaliser = sum(math.exp(value.item()) for value in own_logits)
                positive = torch.stack([math.exp(value.item()) / normaliser * value for value in own_logits]).sum()
            total = total - (positive - log_sum_exp(list(logits.values()))) / len(mine)
    return total / max(num_images_that_count, 1)


def pool_chunk(hidden: Tensor, start: int, end: int) -> Tensor:
    weights = [hidden[position].square().sum().sqrt().exp() for position in range(start, end)]
    pooled = torch.zeros_like(hidden[0])
    for position, weight in zip(range(start, end), weights, strict=True):
        pooled = pooled + weight / sum(weights) * hidden[position]
    return pooled


def roi_mean(features: Tensor, box: tuple[float, float, float, float], *, steps: int) -> Tensor:
    """Mean over a fine lattice of points in the box: exact where the box's edges fall on the lattice."""
    _, height, width = features.shape
    x1, y1, x2, y2 = box
    values = []
    for row in range(steps):
        for column in range(steps):
            x = (x1 + (x2 - x1) * (column + 0.5) / steps) * width
            y = (y1 + (y2 - y1) * (row + 0.5) / steps) * height
            values.append(features[:, min(int(y), height - 1), min(int(x), width - 1)])
    return torch.stack(values).mean(dim=0)
