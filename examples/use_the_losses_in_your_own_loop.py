"""The structural losses in a training loop of your own, with a plain open_clip model.

    python examples/use_the_losses_in_your_own_loop.py

Everything that is ours is a function of features; the model, the data and the optimiser are yours. Here they are
a tiny model with random weights, sixteen drawn pictures and AdamW, so that the loop runs anywhere in seconds.

Shapes: `B` pairs, `D` embedding, `L` tokens, `C` width of a tower, `M` chunks, `K` regions, `H W` pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from structxlip.captions import LexiconFilter
from structxlip.captions.chunks import WindowChunker
from structxlip.captions.spans import token_spans
from structxlip.edges import PercentileCanny
from structxlip.losses import (
    LogitScale,
    LossTerms,
    WeightSchedule,
    bounded_scale,
    combine,
    consistency_loss,
    local_alignment_loss,
    masked_contrastive_loss,
)
from structxlip.pooling import (
    collect_chunks,
    image_tower_patch_features,
    pool_chunks,
    project_regions,
    project_text,
    roi_pool,
    text_tower_hidden_states,
)
from structxlip.regions import ColourAndContourRegions

IMAGE_SIZE, CONTEXT_LENGTH = 64, 40
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "yellow": (230, 210, 50)}


def main(num_epochs: int = 20) -> list[float]:
    """Train on the drawn pictures and return the loss of each epoch."""
    torch.manual_seed(0)
    model = build_model()
    local_scale = LogitScale(10.0)  # the local loss has a temperature of its own
    optimiser = torch.optim.AdamW([*model.parameters(), *local_scale.parameters()], lr=1e-3)
    schedule = WeightSchedule()
    batch = prepare([draw_pair(shape, colour) for shape in ("square", "circle", "bar", "cross") for colour in COLOURS])
    history: list[float] = []
    for epoch in range(num_epochs):
        terms = compute_losses(model, local_scale, batch)
        loss = combine(terms, schedule.at(epoch / num_epochs))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append(loss.item())
        print(f"epoch {epoch:3d}  " + "  ".join(f"{name} {term.item():.4f}" for name, term in terms.computed().items()))
    return history


def compute_losses(model: CLIP, local_scale: LogitScale, batch: dict[str, Any]) -> LossTerms:
    """Two passes through each tower, then every loss from their features."""
    images = model.encode_image(batch["images_B3HW"])
    edges = image_tower_patch_features(model, batch["edges_B3HW"])  # embedding and patches in one pass
    texts = text_tower_hidden_states(model, batch["tokens_BL"])  # embedding and token features in one pass
    structural_texts = model.encode_text(batch["structural_tokens_BL"])

    chunks_MD = project_text(model, pool_chunks(texts.hidden, batch["chunks"]))
    regions_BKD = project_regions(model, roi_pool(edges.patches, batch["boxes_BK4"]))

    scale = bounded_scale(model.logit_scale)
    has_edges_B = batch["has_edges_B"]
    return LossTerms(
        contrastive=masked_contrastive_loss(images, texts.embedding, logit_scale=scale),
        # The structural losses follow the temperature of the ordinary one; they do not set it.
        structure=masked_contrastive_loss(
            edges.embedding, structural_texts, logit_scale=scale.detach(), valid_B=has_edges_B
        ),
        consistency=consistency_loss(images, edges.embedding, has_edges_B),
        local=local_alignment_loss(
            chunks_MD, batch["chunks"].owner, regions_BKD, batch["is_region_BK"], scale=local_scale()
        ),
    )


def prepare(pairs: list[tuple[NDArray[np.uint8], str]]) -> dict[str, Any]:
    """What a data worker does: edge maps, regions, structural texts, and chunks of the text that is encoded."""
    tokenizer = SimpleTokenizer(context_length=CONTEXT_LENGTH)
    detector, proposer = PercentileCanny(), ColourAndContourRegions(max_regions=8)
    caption_filter, chunker = LexiconFilter(), WindowChunker()
    pictures, captions = [picture for picture, _ in pairs], [caption for _, caption in pairs]
    edges = [detector.detect(picture) for picture in pictures]
    boxes, is_region = zip(*map(proposer.propose, pictures, edges), strict=True)
    encoded = [token_spans(tokenizer, text, chunker.chunks(text), CONTEXT_LENGTH) for text in captions]
    return {
        "images_B3HW": as_input(np.stack(pictures)),
        "edges_B3HW": as_input(np.stack([np.stack([edge] * 3, axis=-1) for edge in edges])),
        "has_edges_B": torch.tensor([bool(edge.any()) for edge in edges]),
        "tokens_BL": tokenizer(captions),
        "structural_tokens_BL": tokenizer([caption_filter.structural_text(text) for text in captions]),
        "chunks": collect_chunks([text.spans for text in encoded], max_chunks=8, max_tokens=16),
        "boxes_BK4": torch.from_numpy(np.stack(boxes)),
        "is_region_BK": torch.from_numpy(np.stack(is_region)),
    }


def build_model() -> CLIP:
    """Return any open_clip model: here the smallest, with random weights."""
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": IMAGE_SIZE}
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    return CLIP(32, vision, text)


def draw_pair(shape: str, colour: str) -> tuple[NDArray[np.uint8], str]:
    """Return a picture and its caption."""
    picture = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 235, dtype=np.uint8)
    ink = COLOURS[colour]
    if shape == "square":
        cv2.rectangle(picture, (16, 16), (48, 48), ink, -1)
    elif shape == "circle":
        cv2.circle(picture, (32, 32), 20, ink, -1)
    elif shape == "bar":
        cv2.rectangle(picture, (4, 26), (60, 38), ink, -1)
    else:
        cv2.line(picture, (10, 10), (54, 54), ink, 6)
        cv2.line(picture, (54, 10), (10, 54), ink, 6)
    return picture, f"A large {colour} {shape}, drawn by hand, stands in the middle of an empty sheet of paper."


def as_input(pictures: NDArray[np.uint8]) -> Tensor:
    """Return `(B, H, W, 3)` bytes as the tower takes them: `(B, 3, H, W)`, −1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


if __name__ == "__main__":
    main()
