"""Held-out pairs that are measured many times: prepared once, embedded as often as the weights change.

Shapes: `N` pictures, `T` captions, `D` embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from structxlip.encoder import PreparedImage, PreparedText, TwoViewEncoder
from training.data import PairSource
from training.evaluate import PairEmbeddings
from training.frozen import FrozenFeatures, View, split_image_tower
from training.texts import PackedTower


@dataclass(frozen=True)
class HeldOut:
    """Pairs, ready for the towers.

    Attributes:
        images: The prepared pictures; empty where `kept` is all that is needed.
        texts: The prepared captions.
        owner: The picture of each caption.
        keys: The pictures' names.
        kept: Features of the frozen layers of the image tower, one variant of each picture.
        num_frozen: How many layers those are.
    """

    images: tuple[PreparedImage, ...]
    texts: tuple[PreparedText, ...]
    owner: tuple[int, ...]
    keys: tuple[str, ...]
    kept: FrozenFeatures | None = None
    num_frozen: int = 0


def hold_out(
    encoder: TwoViewEncoder, source: PairSource, *, kept: FrozenFeatures | None = None, num_frozen: int = 0
) -> HeldOut:
    """Prepare every pair of a source.

    Args:
        encoder: Prepares pictures and texts.
        source: The pairs.
        kept: Features of the frozen layers, of these very pictures.
        num_frozen: How many layers those are.
    """
    needs_pictures = kept is None or encoder.edge_branch is not None
    rows = range(len(source))
    images = tuple(encoder.prepare_image(source.read(index).rgb) for index in rows) if needs_pictures else ()
    captions = [(index, caption) for index in rows for caption in source.captions(index) if caption.strip()]
    return HeldOut(
        images=images,
        texts=tuple(encoder.prepare_text(caption) for _, caption in captions),
        owner=tuple(index for index, _ in captions),
        keys=tuple(source.key(index) for index in rows),
        kept=kept,
        num_frozen=num_frozen,
    )


@torch.inference_mode()
def embed(
    encoder: TwoViewEncoder, pairs: HeldOut, *, batch_size: int = 64, packed: PackedTower | None = None
) -> PairEmbeddings:
    """Embed held-out pairs as the service would; texts of like length together.

    Args:
        encoder: Whose weights.
        pairs: What to embed.
        batch_size: Pictures or texts at once.
        packed: Reads the texts for this encoder's tower, without what its frozen layers did before.
    """
    images_ND, edges_ND = _pictures(encoder, pairs, batch_size)
    order = np.argsort([len(text.tokens) for text in pairs.texts], kind="stable")
    told = [
        _told(encoder, [pairs.texts[place] for place in order[first : first + batch_size]], packed)
        for first in range(0, len(order), batch_size)
    ]
    texts_TD, structural_TD = (torch.cat(parts) for parts in zip(*told, strict=True))
    back = torch.from_numpy(np.argsort(order))
    return PairEmbeddings(
        images=images_ND,
        edges=edges_ND,
        texts=texts_TD[back],
        structural_texts=structural_TD[back],
        owner=torch.tensor(pairs.owner),
        keys=pairs.keys,
    )


def _told(encoder: TwoViewEncoder, texts: Sequence[PreparedText], packed: PackedTower | None) -> tuple[Tensor, Tensor]:
    if packed is None:
        views = encoder.encode_texts(texts)
        return torch.from_numpy(views.appearance), torch.from_numpy(views.structure)
    pad = encoder.tokenizer.pad
    sets = [pad([text.tokens for text in texts]), pad([text.structural_tokens for text in texts])]
    full_BD, structural_BD = packed([tokens_BL.to(encoder.device) for tokens_BL in sets]).embeddings
    return F.normalize(full_BD.float(), dim=-1).cpu(), F.normalize(structural_BD.float(), dim=-1).cpu()


def _pictures(encoder: TwoViewEncoder, pairs: HeldOut, batch_size: int) -> tuple[Tensor, Tensor]:
    if pairs.kept is None:
        seen = [encoder.encode_images(part) for part in _batches(pairs.images, batch_size)]
        appearance, structure = ([getattr(part, view) for part in seen] for view in ("appearance", "structure"))
        return torch.from_numpy(np.concatenate(appearance)), torch.from_numpy(np.concatenate(structure))
    rest: Any = split_image_tower(encoder.model, pairs.num_frozen).rest
    views: list[View] = ["rgb", "edges"] if encoder.edge_branch is None else ["rgb"]
    found = [_from_kept(rest.encode_image, pairs.kept, view, len(pairs.keys), batch_size) for view in views]
    if encoder.edge_branch is not None:
        maps = [encoder.encode_edge_maps([i.edges for i in part]) for part in _batches(pairs.images, batch_size)]
        found.append(torch.from_numpy(np.concatenate(maps)))
    return found[0], found[1]


def _from_kept(
    encode: Callable[[Tensor], Tensor], kept: FrozenFeatures, view: View, number: int, batch_size: int
) -> Tensor:
    rows = [tuple(range(first, min(first + batch_size, number))) for first in range(0, number, batch_size)]
    return torch.cat([F.normalize(encode(kept.of(view, part, (False,) * len(part))), dim=-1).float() for part in rows])


def _batches(items: Sequence[PreparedImage], size: int) -> list[Sequence[PreparedImage]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
