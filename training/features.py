"""From a batch to the features that the losses compare: each tower runs once on what it has to see.

Shapes: `B` pairs, `D` embedding, `M` chunks, `K` regions, `S` side of the input, `g` side of the edge branch's grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from structxlip.edge_branch import EdgeCNN
from structxlip.encoder import TwoViewEncoder
from structxlip.pooling import (
    covered_cells,
    crop_regions,
    image_tower_patch_features,
    pool_chunks,
    project_regions,
    project_text,
    roi_pool,
    text_tower_hidden_states,
)
from training.config import LossConfig
from training.data import Batch
from training.frozen import FrozenFeatures, SplitTower, View
from training.texts import PackedTower


@dataclass(frozen=True)
class FeatureExtractor:
    """Runs the towers of an encoder for the losses that count.

    Attributes:
        encoder: Whose towers.
        loss: Which losses count, and how regions are embedded.
        split: The image tower cut after its frozen layers, where their features are kept.
        kept: Those features.
        packed: Reads texts without padding; without it each set of texts is padded to its longest.
    """

    encoder: TwoViewEncoder
    loss: LossConfig
    split: SplitTower | None = None
    kept: FrozenFeatures | None = None
    packed: PackedTower | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return features by name, each with its rows first: `image` and `text`, and what the other losses need."""
        return self._texts(batch) | self._pictures(batch)

    def _texts(self, batch: Batch) -> dict[str, Tensor]:
        loss, model = self.loss, self.encoder.model
        if self.packed is not None:
            return self._packed_texts(self.packed, batch)
        features: dict[str, Tensor] = {}
        for name, tokens_BL, kind in (
            ("text", batch.tokens, "full"),
            ("structural", batch.structural_tokens, "structural"),
        ):
            if loss.local and loss.local_text == kind:
                text = text_tower_hidden_states(model, tokens_BL)
                features[name] = text.embedding
                features["chunks"] = project_text(model, pool_chunks(text.hidden, batch.chunks))
            elif kind == "full" or loss.structure:
                features[name] = self.encoder.embed_tokens(tokens_BL)
        return features

    def _packed_texts(self, packed: PackedTower, batch: Batch) -> dict[str, Tensor]:
        loss, model = self.loss, self.encoder.model
        is_chunked = loss.local > 0
        sets = {"text": batch.tokens}
        if loss.reads_structural_text:
            sets["structural"] = batch.structural_tokens
        found = packed(
            list(sets.values()),
            chunks=batch.chunks if is_chunked else None,
            chunked_set=1 if loss.local_text == "structural" else 0,
        )
        features = dict(zip(sets, found.embeddings, strict=True))
        if found.chunks is not None:
            features["chunks"] = project_text(model, found.chunks)
        return features

    def _pictures(self, batch: Batch) -> dict[str, Tensor]:
        if not self.loss.is_structural:
            return {"image": self._embedded(self._seen(batch, "rgb"))}
        if self.encoder.edge_branch is None:
            features = self._both_views(batch)
        else:
            features = {"image": self._embedded(self._seen(batch, "rgb"))} | self._own_branch(batch)
        if self.loss.local and self.loss.region_embedding == "crop":
            features["regions"] = self._cropped_regions(batch)
        return features

    def _both_views(self, batch: Batch) -> dict[str, Tensor]:
        """Send colour pictures, edge maps and drawings through the shared tower in one pass.

        A batch normalisation then sees the mixture that its running statistics will hold; in several passes it would
        learn with the statistics of one view and serve with those of all.
        """
        views: list[View] = ["rgb", "edges", "sketches"] if self.loss.sketch else ["rgb", "edges"]
        names = ["image", "edge", "sketch"][: len(views)]
        seen_VBCHW = torch.cat([self._seen(batch, view) for view in views])
        if not (self.loss.local and self.loss.region_embedding == "roi"):
            return dict(zip(names, self._embedded(seen_VBCHW).chunk(len(views)), strict=True))
        features = image_tower_patch_features(self._tower, seen_VBCHW)
        embeddings = dict(zip(names, features.embedding.chunk(len(views)), strict=True))
        pooled_BKC = roi_pool(features.patches.chunk(len(views))[1], batch.boxes)
        return {**embeddings, "regions": project_regions(self._tower, pooled_BKC)}

    def _own_branch(self, batch: Batch) -> dict[str, Tensor]:
        branch = self.encoder.edge_branch
        if self.loss.local and self.loss.region_embedding == "roi" and isinstance(branch, EdgeCNN):
            return _cnn_features(branch, batch)
        maps = _maps_and_drawings(batch)
        embedded = self.encoder.embed_edges(maps).chunk(len(maps) // len(batch))
        return dict(zip(("edge", "sketch"), embedded, strict=False))

    def _cropped_regions(self, batch: Batch) -> Tensor:
        encoder = self.encoder
        crops_RCSS = crop_regions(batch.edges[:, None].float(), batch.boxes, encoder.image_size)
        regions_RD = encoder.embed_edges(crops_RCSS[:, 0].round().to(torch.uint8))
        return regions_RD.view(*batch.box_valid.shape, -1)

    def _seen(self, batch: Batch, view: View) -> Tensor:
        """Return what the image tower starts from: pixels, or the kept features of its frozen layers."""
        if self.kept is not None:
            return self.kept.of(view, batch.indices, batch.mirrored, batch.drawings).to(self.encoder.device)
        pixels = getattr(batch, view)
        if pixels is None:
            raise ValueError(f"no features of {view} are kept, and the batch has none to look at")
        pixels_BCHW = self.encoder.preprocessing.normalize_tensor(pixels)
        # Convolutions on the CPU take half the time when channels come last (see `loop.prepare`).
        return pixels_BCHW.contiguous(memory_format=torch.channels_last)

    def _embedded(self, seen: Tensor) -> Tensor:
        encode_image: Any = self._tower.encode_image
        return torch.as_tensor(encode_image(seen))

    @property
    def _tower(self) -> Any:
        return self.encoder.model if self.split is None else self.split.rest


def _maps_and_drawings(batch: Batch) -> Tensor:
    """Return the edge maps, and behind them the drawings where a loss wants them: one pass sees both."""
    return batch.edges if batch.sketches is None else torch.cat([batch.edges, batch.sketches])


def _cnn_features(branch: EdgeCNN, batch: Batch) -> dict[str, Tensor]:
    """Read regions off the `cnn` branch's own grid: each is what its cells add to the embedding of the whole.

    The projection is linear in the cells, so that a cell's share is computed once and every box is a weighted sum of
    shares; a cell counts by how much of it the box covers. The whole picture as a box gives the embedding itself.
    """
    maps = _maps_and_drawings(batch)
    pooled = torch.nn.functional.adaptive_avg_pool2d(branch.features(maps), branch.grid)
    cells_BCgg, *drawn = pooled.chunk(len(maps) // len(batch))
    weight_DCgg = branch.projection.weight.view(-1, *cells_BCgg.shape[1:])
    shares_BggD = torch.einsum("bcij,dcij->bijd", cells_BCgg, weight_DCgg.to(cells_BCgg.dtype))
    x1_BK, y1_BK, x2_BK, y2_BK = batch.boxes.unbind(dim=-1)
    covered_x_BKg = covered_cells(x1_BK, x2_BK, branch.grid).to(shares_BggD.dtype)
    covered_y_BKg = covered_cells(y1_BK, y2_BK, branch.grid).to(shares_BggD.dtype)
    bias_D = branch.projection.bias
    sketches = {"sketch": branch.projection(drawn[0].flatten(1))} if drawn else {}
    return sketches | {
        "edge": shares_BggD.sum(dim=(1, 2)) + bias_D,
        "regions": torch.einsum("bki,bkj,bijd->bkd", covered_y_BKg, covered_x_BKg, shares_BggD) + bias_D,
    }
