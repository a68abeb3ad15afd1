"""The loss of a whole batch, from the features of its micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structxlip.encoder import TwoViewEncoder
from structxlip.gather import Ranks
from structxlip.losses import (
    LogitScale,
    LossTerms,
    LossWeights,
    WeightSchedule,
    bounded_scale,
    combine,
    consistency_loss,
    local_alignment_loss,
    masked_contrastive_loss,
)
from structxlip.pooling import join_chunks
from training.config import LossConfig
from training.data import Batch


@dataclass(frozen=True)
class Objective:
    """Compares features.

    Attributes:
        encoder: Owns the logit scale.
        local_scale: The local loss's own scale.
        loss: Which losses, and how.
        ranks: The processes that share the batch.
    """

    encoder: TwoViewEncoder
    local_scale: LogitScale
    loss: LossConfig
    ranks: Ranks

    def terms(self, features: Mapping[str, Tensor], batches: Sequence[Batch]) -> LossTerms:
        """Return each loss that counts, over the micro-batches laid end to end."""
        loss, ranks = self.loss, self.ranks
        scale = bounded_scale(torch.as_tensor(self.encoder.model.logit_scale))
        contrastive = masked_contrastive_loss(
            features["image"],
            features["text"],
            logit_scale=scale,
            meaning_B=torch.cat([batch.meanings for batch in batches]),
            hard_negative_margin=loss.hard_negative_margin,
            margin_features=features["text"],
            ranks=ranks,
        )
        if not loss.is_structural:
            return LossTerms(contrastive)
        has_edges_B = torch.cat([batch.has_edges for batch in batches])
        structure = consistency = local = sketch = None
        if loss.structure:
            structure = masked_contrastive_loss(
                features["edge"],
                features["structural"],
                logit_scale=scale.detach(),
                valid_B=has_edges_B,
                meaning_B=torch.cat([batch.structural_meanings for batch in batches]),
                ranks=ranks,
            )
        if loss.consistency:
            consistency = consistency_loss(
                features["image"],
                features["edge"],
                has_edges_B,
                distance=loss.consistency_distance,
                stop_gradient=loss.consistency_stop_gradient,
                ranks=ranks,
            )
        if loss.local:
            chunks = join_chunks([batch.chunks for batch in batches], batch_sizes=[len(batch) for batch in batches])
            valid_BK = torch.cat([batch.box_valid for batch in batches]) & has_edges_B[:, None]
            local = local_alignment_loss(
                features["chunks"],
                chunks.owner,
                features["regions"],
                valid_BK,
                scale=self.local_scale(),
                positives=loss.local_positives,
                ranks=ranks,
            )
        if loss.sketch:
            sketch = masked_contrastive_loss(
                features["edge"],
                features["sketch"],
                logit_scale=scale.detach(),
                valid_B=has_edges_B & torch.cat([batch.has_strokes for batch in batches]),
                ranks=ranks,
            )
        return LossTerms(contrastive, structure, consistency, local, sketch)

    def total(self, terms: LossTerms, weights: LossWeights) -> Tensor:
        """Return their weighted sum."""
        return combine(terms, weights)


def weight_schedule(loss: LossConfig) -> WeightSchedule:
    """Return the course of the weights over a run."""
    return WeightSchedule(
        base=LossWeights(loss.contrastive, loss.structure, loss.consistency, loss.local, loss.sketch),
        hold_until=loss.hold_until,
        settle_at=loss.settle_at,
        structure_floor=loss.structure_floor,
        consistency_floor=loss.consistency_floor,
        local_floor=loss.local_floor,
    )


def values_of(terms: LossTerms) -> dict[str, float]:
    """Return the losses that were computed, as numbers."""
    return {name: float(value.detach()) for name, value in terms.computed().items()}
