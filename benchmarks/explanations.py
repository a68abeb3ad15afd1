"""Do explanations point at the right thing? The top region of an object phrase against the truth, on rendered scenes.

    python -m benchmarks.explanations --size 300

For each group of objects of a scene, the phrase that names it ("a striped grey arrow") is held against the regions of
the picture. It is right when the best region overlaps the group, or one of its objects, by at least half (IoU).
Chance is the share of regions that do; the bound is how often any region does.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.results import write_result
from structxlip.encoder import TwoViewEncoder
from structxlip.explanation import cut_out, find_regions, similarities
from structxlip.models import load_encoder
from structxlip.regions import box_overlaps
from training.scenes import SceneDataset
from training.scenes.vocabulary import KINDS

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
OVERLAP = 0.5


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--size", type=int, default=300, help="scenes")
    parser.add_argument("--name", default="explanations")
    arguments = parser.parse_args()
    figures = measure(load_encoder(arguments.model), arguments.size)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(encoder: TwoViewEncoder, size: int) -> dict[str, object]:
    """Return shares of phrases in percent, by structure weight."""
    weights = sorted({*WEIGHTS, encoder.default_structure_weight})
    right: dict[float, list[bool]] = {weight: [] for weight in weights}
    chance: list[float] = []
    reachable: list[bool] = []
    for example in SceneDataset("test", size, size=2 * encoder.image_size):
        boxes = find_regions(example.rgb, encoder.edge_detector)
        seen = encoder.encode_images([encoder.prepare_image(cut_out(example.rgb, box)) for box in boxes])
        phrases = [_phrase(group) for group in example.facts["groups"]]
        told = encoder.encode_texts([encoder.prepare_text(phrase) for phrase in phrases])
        truths = [np.array([group["box"], *group["boxes"]], np.float32) for group in example.facts["groups"]]
        hits = [(box_overlaps(boxes.astype(np.float32), truth) >= OVERLAP).any(axis=1) for truth in truths]
        chance += [float(hit.mean()) for hit in hits]
        reachable += [bool(hit.any()) for hit in hits]
        for weight in weights:
            found = similarities(
                (told.appearance, told.structure), (seen.appearance, seen.structure), structure_weight=weight
            )
            right[weight] += [bool(hit[row.argmax()]) for hit, row in zip(hits, found, strict=True)]
    return {
        "num_scenes": size,
        "num_phrases": len(chance),
        "top_region_right": {f"w={weight:g}": round(100 * float(np.mean(hits)), 1) for weight, hits in right.items()},
        "chance": round(100 * float(np.mean(chance)), 1),
        "any_region_right": round(100 * float(np.mean(reachable)), 1),
    }


def _phrase(group: dict[str, Any]) -> str:
    singular, plural = KINDS[group["kind"]].names[0]
    pattern = "" if group["pattern"] == "plain" else f"{group['pattern']} "
    noun = singular if group["count"] == 1 else plural
    return f"{'a ' if group['count'] == 1 else ''}{pattern}{group['colour']} {noun}"


if __name__ == "__main__":
    main()
