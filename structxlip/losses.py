"""The losses that teach structure, as functions of features: for any model and any loop.

    total = λ_g · contrastive(image, text) + λ_1 · contrastive(edge map, structural text)
            + λ_2 · consistency(image, edge map) + λ_3 · local alignment(text chunks, edge regions)

Every function takes raw embeddings and brings them to unit length itself, in float32 also under autocast
(float64 stays float64). Shapes are fixed: what does not count is masked, never sliced away, and nothing waits
for the device. A masked sample may hold anything, NaN included. Without a single valid sample a loss is 0 and
so are its gradients. Given `ranks`, each process returns its share, whose mean over the processes is the loss
of the whole batch.

Shapes: `B` pairs of this process, `N` pairs of all processes, `D` embedding, `M` chunks, `K` regions an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structxlip.gather import ONE_PROCESS, Ranks

Distance = Literal["cosine", "l2"]
Positives = Literal["owner", "hard", "soft"]

# Shorter vectors have no direction to speak of; they stay short instead of having enormous gradients.
MIN_NORM = 1e-6
MAX_LOGIT_SCALE = 100.0


def masked_contrastive_loss(
    query_BD: Tensor,
    key_BD: Tensor,
    *,
    logit_scale: Tensor | float,
    valid_B: Tensor | None = None,
    meaning_B: Tensor | None = None,
    hard_negative_margin: float = 0.0,
    margin_features: Tensor | None = None,
    ranks: Ranks = ONE_PROCESS,
) -> Tensor:
    """Symmetric InfoNCE over the valid pairs: row ``i`` of each side is the other's only positive.

    ``L = 1/(2N) Σ_i [LSE_j z_ij − z_ii] + the same with the sides swapped``, Radford et al. 2021
    (arXiv:2103.00020), with ``z_ij = s (q_i·k_j + γ m_i·m_j [i≠j])``: the margin ``γ`` makes a negative
    harder the more its text resembles the right one (HN-CLIP, arXiv:2608.18521); ``γ = 0`` is plain CLIP.

    Args:
        query_BD: Embeddings of one side.
        key_BD: Embeddings of the other, paired with ``query_BD`` row by row.
        logit_scale: Scalar ``s = 1 / temperature``, already exponentiated. Detach it to keep a loss from
            moving it.
        valid_B: Which pairs count, bool; all where left out.
        meaning_B: Integers; pairs with an equal one, such as those of the same words, are no negatives of each other.
        hard_negative_margin: ``γ``, 0 or above.
        margin_features: ``m``, `(B, any)`: usually the text embeddings. Receives no gradient.
        ranks: The processes that share the batch.

    Returns:
        Scalar in nats, averaged over the valid pairs; ``log(N)`` when every pair looks alike.

    Raises:
        ValueError: If the sides differ in shape, or a margin comes without its features.
    """
    _require_same_shape(query_BD, key_BD)
    if hard_negative_margin and margin_features is None:
        raise ValueError(
            f"hard_negative_margin is {hard_negative_margin} but margin_features is missing: pass the texts'"
        )
    num_pairs = query_BD.shape[0]
    valid_B = _all_valid(num_pairs, query_BD) if valid_B is None else _checked_mask(valid_B, (num_pairs,))
    with _full_precision(query_BD):
        query_BD, key_BD = _unit_or_zero(query_BD, valid_B), _unit_or_zero(key_BD, valid_B)
        scale = _as_float(logit_scale, query_BD)
        valid_N = ranks.gather(valid_B)
        is_own_BN = _is_own_pair(num_pairs, ranks, query_BD.device)
        # An invalid row keeps its own column, so that its sum is over something; it then counts for nothing.
        is_column_BN = valid_N | is_own_BN
        if meaning_B is not None:
            is_column_BN = is_column_BN & ((meaning_B[:, None] != ranks.gather(meaning_B)) | is_own_BN)
        query_ND, key_ND = ranks.gather(torch.cat([query_BD, key_BD], dim=1)).chunk(2, dim=1)
        margin_BN: Tensor | float = 0.0
        if hard_negative_margin and margin_features is not None:
            margin_BN = _margin(hard_negative_margin, margin_features, valid_B, is_own_BN, ranks)
        loss_B = torch.zeros(num_pairs, dtype=query_BD.dtype, device=query_BD.device)
        for own_BD, other_ND in ((query_BD, key_ND), (key_BD, query_ND)):
            logits_BN = scale * (own_BD @ other_ND.T + margin_BN)
            log_sum_B = logits_BN.masked_fill(~is_column_BN, -math.inf).logsumexp(dim=1)
            loss_B = loss_B + log_sum_B - logits_BN.diagonal(offset=ranks.index * num_pairs)
        return _share_of_mean(loss_B / 2, valid_B, ranks)


def consistency_loss(
    colour_BD: Tensor,
    edge_BD: Tensor,
    valid_B: Tensor | None = None,
    *,
    distance: Distance = "cosine",
    stop_gradient: bool = True,
    ranks: Ranks = ONE_PROCESS,
) -> Tensor:
    """How far an edge map's embedding has drifted from that of its colour picture.

    ``L = 1/N Σ (1 − cos(v, e))``, or the Euclidean distance of the unit vectors for ``l2``.

    Args:
        colour_BD: Embeddings ``v`` of the pictures.
        edge_BD: Embeddings ``e`` of their edge maps, row by row.
        valid_B: Which pairs count, bool; all where left out.
        distance: ``cosine`` (0 to 2) or ``l2`` (0 to 2).
        stop_gradient: Whether ``v`` is a fixed target; otherwise both sides move.
        ranks: The processes that share the batch.

    Returns:
        Scalar, averaged over the valid pairs; 0.4 for ``v = (1, 0)`` and ``e = (0.6, 0.8)``.

    Raises:
        ValueError: If the sides differ in shape or the distance is unknown.
    """
    _require_same_shape(colour_BD, edge_BD)
    if distance not in ("cosine", "l2"):
        raise ValueError(f"distance must be cosine or l2, got {distance!r}")
    num_pairs = colour_BD.shape[0]
    valid_B = _all_valid(num_pairs, edge_BD) if valid_B is None else _checked_mask(valid_B, (num_pairs,))
    with _full_precision(edge_BD):
        target_BD = _unit_or_zero(colour_BD.detach() if stop_gradient else colour_BD, valid_B)
        edge_BD = _unit_or_zero(edge_BD, valid_B)
        if distance == "cosine":
            loss_B = 1 - (target_BD * edge_BD).sum(dim=1)
        else:
            loss_B = torch.linalg.vector_norm(target_BD - edge_BD, dim=1)
        return _share_of_mean(loss_B, valid_B, ranks)


def local_alignment_loss(
    chunks_MD: Tensor,
    chunk_owner_M: Tensor,
    regions_BKD: Tensor,
    region_valid_BK: Tensor,
    *,
    scale: Tensor | float,
    positives: Positives = "owner",
    ranks: Ranks = ONE_PROCESS,
) -> Tensor:
    """Multi-positive InfoNCE from text chunks to edge regions: a chunk finds regions of its own image.

    ``L = 1/|S| Σ_b 1/n_b Σ_m [LSE_{all valid regions} σ c_m·r − P_m]`` over the ``n_b`` chunks of image
    ``b``, where ``S`` holds the images with a chunk and a valid region. The positive part ``P_m`` looks at
    the image's own regions only:

    * ``owner``: ``LSE σ c_m·r``, any of them will do;
    * ``hard``: the largest ``σ c_m·r``;
    * ``soft``: ``Σ a σ c_m·r`` with the softmax ``a`` of the same numbers held fixed.

    Args:
        chunks_MD: Embeddings of text chunks.
        chunk_owner_M: Which of this process's images each chunk belongs to, 0 to ``B − 1``; −1 for padding.
        regions_BKD: Embeddings of edge regions.
        region_valid_BK: Which regions exist, bool.
        scale: Scalar ``σ``, the loss's own ``1 / temperature``, already exponentiated.
        positives: See above.
        ranks: The processes that share the batch.

    Returns:
        Scalar in nats, averaged over the images of ``S``; the mean of ``log(n_valid / n_own)`` when
        everything looks alike.

    Raises:
        ValueError: If shapes do not belong together or the kind of positives is unknown.
    """
    _require_local_shapes(chunks_MD, chunk_owner_M, regions_BKD, region_valid_BK)
    if positives not in ("owner", "hard", "soft"):
        raise ValueError(f"positives must be owner, hard or soft, got {positives!r}")
    num_images, num_regions = region_valid_BK.shape
    with _full_precision(regions_BKD):
        owner_M = chunk_owner_M.clamp(min=0)
        counts_M = (chunk_owner_M >= 0) & region_valid_BK.any(dim=1)[owner_M]
        chunks_MD = _unit_or_zero(chunks_MD, counts_M)
        regions_RD = ranks.gather(_unit_or_zero(regions_BKD, region_valid_BK)).flatten(0, 1)
        valid_R = ranks.gather(region_valid_BK).flatten()
        owner_R = torch.arange(ranks.count * num_images, device=owner_M.device).repeat_interleave(num_regions)
        is_own_MR = (owner_R == (owner_M + ranks.index * num_images)[:, None]) & valid_R

        logits_MR = _as_float(scale, chunks_MD) * (chunks_MD @ regions_RD.T)
        # A chunk that does not count sums over zeros, so that no infinity enters its gradient.
        in_all_MR, in_own_MR = valid_R | ~counts_M[:, None], is_own_MR | ~counts_M[:, None]
        loss_M = logits_MR.masked_fill(~in_all_MR, -math.inf).logsumexp(dim=1)
        loss_M = loss_M - _positive_part(logits_MR, in_own_MR, positives)

        num_chunks_B = torch.zeros(num_images, dtype=loss_M.dtype, device=loss_M.device)
        num_chunks_B = num_chunks_B.index_add(0, owner_M, counts_M.to(loss_M.dtype))
        loss_B = torch.zeros_like(num_chunks_B).index_add(0, owner_M, torch.where(counts_M, loss_M, 0.0))
        return _share_of_mean(loss_B / num_chunks_B.clamp(min=1), num_chunks_B > 0, ranks)


def bounded_scale(log_scale: Tensor, *, maximum: float = MAX_LOGIT_SCALE) -> Tensor:
    """Return ``min(exp(log_scale), maximum)`` that can come back from its bound.

    A plain clamp has no gradient beyond the bound, so a scale that oversteps once is stuck for good. Here the
    gradient that would push it further out is dropped, and the one that leads back is kept.

    Args:
        log_scale: The logarithm of the scale, as open_clip models store it.
        maximum: Largest scale, above 0.
    """
    bounded: Tensor = _BoundedAbove.apply(_at_least_float32(log_scale).exp(), maximum)
    return bounded


class LogitScale(nn.Module):
    """A learned ``1 / temperature``, stored as its logarithm and bounded above.

    Args:
        initial: Where it starts, above 0.
        maximum: Its upper bound.
    """

    def __init__(self, initial: float = 1 / 0.07, *, maximum: float = MAX_LOGIT_SCALE) -> None:
        super().__init__()
        if not 0 < initial <= maximum:
            raise ValueError(f"the initial scale must be above 0 and at most {maximum}, got {initial}")
        self.maximum = maximum
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """Return the scale, a scalar."""
        return bounded_scale(self.log_scale, maximum=self.maximum)


@dataclass(frozen=True)
class LossTerms:
    """The value of each loss; None for one that was not computed."""

    contrastive: Tensor
    structure: Tensor | None = None
    consistency: Tensor | None = None
    local: Tensor | None = None
    sketch: Tensor | None = None

    def computed(self) -> dict[str, Tensor]:
        """Return the losses that were computed, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts; the defaults are the published ones (arXiv:2602.20089).

    Args:
        contrastive: ``λ_g``, image and text.
        structure: ``λ_1``, edge map and structural text.
        consistency: ``λ_2``, image and edge map.
        local: ``λ_3``, text chunks and edge regions.
        sketch: Edge map and a hand-like drawing of the same picture; not among the published ones.
    """

    contrastive: float = 1.0
    structure: float = 0.5
    consistency: float = 0.05
    local: float = 0.1
    sketch: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise ValueError(f"the weight {field.name} must be 0 or above and finite, got {value}")


def combine(terms: LossTerms, weights: LossWeights) -> Tensor:
    """Return the weighted sum of the losses that were computed.

    A loss with weight 0 is left out altogether, so that it cannot bring in a NaN.
    """
    total = weights.contrastive * terms.contrastive
    for name in ("structure", "consistency", "local", "sketch"):
        term, weight = getattr(terms, name), getattr(weights, name)
        if term is not None and weight:
            total = total + weight * term
    return total


@dataclass(frozen=True)
class WeightSchedule:
    """Structural weights that are held at first, then fall along half a cosine and stay.

    The published course (arXiv:2602.20089) ends at epoch 8 of 10 with 0.7, 0.5 and 0.4 of the base.

    Args:
        base: The weights at the start; those of the contrastive loss and of sketches never change.
        hold_until: Share of the run, 0 to 1, after which they start to fall.
        settle_at: Share of the run from which on they stay.
        structure_floor: What is left of the structure weight then, as a share of its base.
        consistency_floor: The same for consistency.
        local_floor: The same for the local loss.
    """

    base: LossWeights = LossWeights()
    hold_until: float = 0.2
    settle_at: float = 0.8
    structure_floor: float = 0.7
    consistency_floor: float = 0.5
    local_floor: float = 0.4

    def __post_init__(self) -> None:
        if not 0 <= self.hold_until < self.settle_at <= 1:
            raise ValueError(
                f"a schedule needs 0 <= hold_until < settle_at <= 1, got {self.hold_until} and {self.settle_at}"
            )

    def at(self, progress: float) -> LossWeights:
        """Return the weights at a share of the run, 0 (start) to 1 (end): epoch / number of epochs."""
        fallen = (progress - self.hold_until) / (self.settle_at - self.hold_until)
        left = (1 + math.cos(math.pi * min(max(fallen, 0.0), 1.0))) / 2
        return replace(
            self.base,
            structure=self.base.structure * _between(self.structure_floor, left),
            consistency=self.base.consistency * _between(self.consistency_floor, left),
            local=self.base.local * _between(self.local_floor, left),
        )


class _BoundedAbove(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, maximum: float) -> Tensor:
        ctx.is_beyond = value > maximum
        return value.clamp(max=maximum)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # A positive gradient makes a descent step smaller the value: that is the way back.
        (grad,) = grad_outputs
        return torch.where(ctx.is_beyond, grad.clamp(min=0), grad), None


def _positive_part(logits_MR: Tensor, in_own_MR: Tensor, positives: Positives) -> Tensor:
    own_MR = logits_MR.masked_fill(~in_own_MR, -math.inf)
    if positives == "owner":
        return own_MR.logsumexp(dim=1)
    if positives == "hard":
        return own_MR.max(dim=1).values
    assignment_MR = own_MR.detach().softmax(dim=1)
    return (assignment_MR * logits_MR).sum(dim=1)


def _margin(weight: float, features_BE: Tensor, valid_B: Tensor, is_own_BN: Tensor, ranks: Ranks) -> Tensor:
    if features_BE.shape[:1] != valid_B.shape or features_BE.ndim != 2:
        raise ValueError(f"margin_features must have shape ({valid_B.shape[0]}, any), got {tuple(features_BE.shape)}")
    features_BE = _unit_or_zero(features_BE.detach(), valid_B)
    return weight * (features_BE @ ranks.gather(features_BE).T).masked_fill(is_own_BN, 0.0)


def _share_of_mean(loss_B: Tensor, valid_B: Tensor, ranks: Ranks) -> Tensor:
    """Return `count · (local sum) / (global number)`, whose mean over the processes is that of the batch."""
    number = ranks.sum(valid_B.sum()).clamp(min=1)
    return ranks.count * torch.where(valid_B, loss_B, 0.0).sum() / number


def _is_own_pair(num_pairs: int, ranks: Ranks, device: torch.device) -> Tensor:
    row_B = torch.arange(num_pairs, device=device) + ranks.index * num_pairs
    return row_B[:, None] == torch.arange(ranks.count * num_pairs, device=device)


def _unit_or_zero(features: Tensor, valid: Tensor) -> Tensor:
    """Return unit vectors in full precision, and zeros for what is not valid, whatever it holds."""
    return F.normalize(torch.where(valid[..., None], _at_least_float32(features), 0.0), dim=-1, eps=MIN_NORM)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _as_float(scale: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(scale, dtype=like.dtype, device=like.device)


def _full_precision(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)


def _all_valid(num_pairs: int, like: Tensor) -> Tensor:
    return torch.ones(num_pairs, dtype=torch.bool, device=like.device)


def _between(floor: float, share: float) -> float:
    return floor + (1 - floor) * share


def _checked_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(f"expected a bool mask of shape {shape}, got {mask.dtype} {tuple(mask.shape)}")
    return mask


def _require_same_shape(left_BD: Tensor, right_BD: Tensor) -> None:
    if left_BD.ndim != 2 or left_BD.shape != right_BD.shape:
        raise ValueError(
            f"expected two matrices of the same shape (pairs, dimension), got {tuple(left_BD.shape)} and "
            f"{tuple(right_BD.shape)}"
        )


def _require_local_shapes(chunks_MD: Tensor, owner_M: Tensor, regions_BKD: Tensor, valid_BK: Tensor) -> None:
    if regions_BKD.ndim != 3 or chunks_MD.ndim != 2 or chunks_MD.shape[1] != regions_BKD.shape[2]:
        raise ValueError(
            "expected chunks of shape (chunks, dimension) and regions of shape (images, regions, dimension), "
            f"got {tuple(chunks_MD.shape)} and {tuple(regions_BKD.shape)}"
        )
    _checked_mask(valid_BK, tuple(regions_BKD.shape[:2]))
    if owner_M.shape != chunks_MD.shape[:1] or owner_M.is_floating_point() or owner_M.dtype == torch.bool:
        raise ValueError(
            f"expected integer owners of shape ({chunks_MD.shape[0]},), got {owner_M.dtype} {tuple(owner_M.shape)}"
        )
