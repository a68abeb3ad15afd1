"""Measures an encoder on pairs: by appearance, by structure, and by both, in both directions.

`score = (1 − w) · ⟨appearance⟩ + w · ⟨structure⟩`, as the service computes it; `w` is chosen on validation, never
on test.

Shapes: `I` pictures, `T` captions, `D` embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from structxlip.encoder import TwoViewEncoder
from training.data import PairSource
from training.recall import Retrieval, retrieval

Summary = dict[str, float]
Progress = Callable[[int], None]
DIRECTIONS = ("text_to_image", "image_to_text")


@dataclass(frozen=True)
class PairEmbeddings:
    """Both views of a set of pairs, float32 unit rows.

    Attributes:
        images: Appearance `(I, D)`.
        edges: Structure of the pictures `(I, D)`.
        texts: Full captions `(T, D)`.
        structural_texts: Their structural parts `(T, D)`.
        owner: The picture of each caption, `(T,)`.
        keys: The pictures' names.
    """

    images: Tensor
    edges: Tensor
    texts: Tensor
    structural_texts: Tensor
    owner: Tensor
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """The two directions of one ranking.

    Attributes:
        text_to_image: Each caption looks for its picture.
        image_to_text: Each picture looks for any of its captions.
    """

    text_to_image: Retrieval
    image_to_text: Retrieval

    def summary(self) -> dict[str, Summary]:
        """Return the measures of each direction, and their mean over both."""
        by_direction = {name: getattr(self, name).summary() for name in DIRECTIONS}
        first, second = by_direction.values()
        return by_direction | {"mean": {measure: (first[measure] + second[measure]) / 2 for measure in first}}


@dataclass(frozen=True)
class SetEvaluation:
    """Everything that is measured on one set of pairs.

    Attributes:
        name: Of the set.
        num_pictures: In it.
        num_captions: In it.
        structure_weight: Of the fused view.
        views: By appearance alone, by structure alone, and fused: `views[view][direction][measure]`.
        swept: At each structure weight: `swept[weight][direction][measure]`.
    """

    name: str
    num_pictures: int
    num_captions: int
    structure_weight: float
    views: dict[str, dict[str, Summary]]
    swept: dict[float, dict[str, Summary]]

    def metrics(self) -> dict[str, JsonValue]:
        """Return one row for each view and direction, for `metrics.json` and the model card."""
        rows: dict[str, JsonValue] = {}
        for view, directions in self.views.items():
            for direction in DIRECTIONS:
                rounded: dict[str, JsonValue] = {what: round(v, 2) for what, v in directions[direction].items()}
                rows[f"{self.name}, {view}, {direction.replace('_', ' ')}"] = rounded
        return rows


def evaluate_set(
    name: str, pairs: PairEmbeddings, *, structure_weight: float | None = None, num_weights: int = 21
) -> SetEvaluation:
    """Measure a set of pairs.

    Args:
        name: Of the set.
        pairs: Embedded.
        structure_weight: Chosen elsewhere; without it the best one of this very set, which is for validation sets only.
        num_weights: Weights of the sweep.
    """
    swept = sweep(pairs, num_weights)
    weight = best_weight(swept) if structure_weight is None else structure_weight
    return SetEvaluation(name, len(pairs.images), len(pairs.texts), weight, views(pairs, weight), swept)


@torch.inference_mode()
def embed_pairs(
    encoder: TwoViewEncoder, source: PairSource, *, batch_size: int = 64, on_progress: Progress | None = None
) -> PairEmbeddings:
    """Embed every picture and every caption of a source, the way that the service would."""
    images, edges, texts, structural, owner = [], [], [], [], []
    for first in range(0, len(source), batch_size):
        rows = range(first, min(first + batch_size, len(source)))
        pairs = [source.read(index) for index in rows]
        seen = encoder.encode_images([encoder.prepare_image(pair.rgb) for pair in pairs])
        captions = [(index, c) for index, pair in zip(rows, pairs, strict=True) for c in pair.captions if c.strip()]
        told = encoder.encode_texts([encoder.prepare_text(caption) for _, caption in captions])
        images.append(seen.appearance)
        edges.append(seen.structure)
        texts.append(told.appearance)
        structural.append(told.structure)
        owner += [index for index, _ in captions]
        if on_progress is not None:
            on_progress(len(rows))
    return PairEmbeddings(
        images=torch.from_numpy(np.concatenate(images)),
        edges=torch.from_numpy(np.concatenate(edges)),
        texts=torch.from_numpy(np.concatenate(texts)),
        structural_texts=torch.from_numpy(np.concatenate(structural)),
        owner=torch.tensor(owner),
        keys=tuple(source.key(index) for index in range(len(source))),
    )


def measure(pairs: PairEmbeddings, structure_weight: float, *, chunk: int = 256) -> Measured:
    """Rank all pictures for each caption, and all captions for each picture, at one structure weight."""
    query_TD, item_ID = _views(pairs, structure_weight)
    images_of_caption = [[int(image)] for image in pairs.owner]
    captions_of_image: list[list[int]] = [[] for _ in pairs.keys]
    for caption, image in enumerate(pairs.owner.tolist()):
        captions_of_image[image].append(caption)
    return Measured(
        text_to_image=retrieval(lambda rows: query_TD[rows] @ item_ID.T, images_of_caption, len(item_ID), chunk=chunk),
        image_to_text=retrieval(lambda rows: item_ID[rows] @ query_TD.T, captions_of_image, len(query_TD), chunk=chunk),
    )


def sweep(pairs: PairEmbeddings, num_weights: int) -> dict[float, dict[str, Summary]]:
    """Measure at structure weights spread evenly from 0 to 1."""
    weights = [round(place / (num_weights - 1), 4) for place in range(num_weights)]
    return {weight: measure(pairs, weight).summary() for weight in weights}


def best_weight(swept: Mapping[float, Mapping[str, Summary]]) -> float:
    """Return the weight of the best mean reciprocal rank over both directions; of equal ones the smallest."""
    return max(swept, key=lambda weight: (swept[weight]["mean"]["mrr"], -weight))


def views(pairs: PairEmbeddings, structure_weight: float) -> dict[str, dict[str, Summary]]:
    """Measure by appearance alone, by structure alone, and by both at the given weight."""
    weights = {"appearance": 0.0, "structure": 1.0, "fused": structure_weight}
    return {view: measure(pairs, weight).summary() for view, weight in weights.items()}


def metric_of(measured: Mapping[str, Mapping[str, Mapping[str, float]]], name: str) -> float:
    """Look a measure up by `view.direction.measure`; a median rank is negated, so that more is better.

    Raises:
        ValueError: If there is no such measure.
    """
    try:
        view, direction, what = name.split(".")
        value = measured[view][direction][what]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"no measure {name!r}; expected view.direction.measure with views {', '.join(measured)}, directions "
            f"{', '.join((*DIRECTIONS, 'mean'))} and measures r1, r5, r10, median_rank, mrr, ndcg"
        ) from error
    return -value if what == "median_rank" else value


def top_hits(pairs: PairEmbeddings, captions: Sequence[int], structure_weight: float, number: int) -> list[list[int]]:
    """Return the best pictures for some captions, best first."""
    query_TD, item_ID = _views(pairs, structure_weight)
    hits: list[list[int]] = (
        (query_TD[list(captions)] @ item_ID.T).topk(min(number, len(item_ID)), dim=1).indices.tolist()
    )
    return hits


def interpolated(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return `(1 − share) · base + share · tuned`, weight by weight (WiSE-FT, arXiv:2109.01903).

    Raises:
        ValueError: If the two do not have the same weights of the same shapes.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (base, tuned)]
    if shapes[0] != shapes[1]:
        differing = sorted(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise ValueError(f"only models of one shape can be interpolated; these differ: {', '.join(differing[:5])}")
    return {
        name: torch.lerp(base[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in tuned.items()
    }


def _views(pairs: PairEmbeddings, structure_weight: float) -> tuple[Tensor, Tensor]:
    """Return queries and items whose inner product is the weighted score."""
    if structure_weight == 0:
        return pairs.texts, pairs.images
    if structure_weight == 1:
        return pairs.structural_texts, pairs.edges
    queries = torch.cat([(1 - structure_weight) * pairs.texts, structure_weight * pairs.structural_texts], dim=1)
    return queries, torch.cat([pairs.images, pairs.edges], dim=1)
