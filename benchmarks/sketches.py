"""Do sketches find their pictures? Rendered scenes, or photographs of a manifest.

    python -m benchmarks.sketches --model scenes-tiny --size 1000
    python -m benchmarks.sketches --model PATH --data captions.jsonl,split=test --size 400

Each picture gets a hand-like sketch (`training.data.sketches`: another detector than the trained one, thinned,
simplified, broken, jittered) that must find it among all of them. The edge branch on the normalised sketch is compared
with the colour branch on the same drawing, which is what a service without an edge branch would do.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import write_result
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.queries import choose_rows, embed_background, embed_sketches
from training.config import parse_source
from training.data import open_source
from training.data.sketches import draw_sketch

RANKS = (1, 5, 10)
BATCH = 64


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--data", default="scenes:test")
    parser.add_argument("--size", type=int, default=1000, help="pictures")
    parser.add_argument("--name", default="sketches")
    arguments = parser.parse_args()
    figures = measure(load_encoder(arguments.model), arguments.data, arguments.size)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(encoder: TwoViewEncoder, data: str, size: int, *, seed: int = 0) -> dict[str, object]:
    """Return the recall of both branches in percent, and chance."""
    scenes = f",num_scenes={size}" if data.startswith("scenes:") else ""
    source = open_source(parse_source(f"{data}{scenes}"), image_size=encoder.image_size)
    rows = choose_rows(len(source), size, seed)
    pictures = embed_background(encoder, source, rows)
    drawings = [draw_sketch(source.read(int(row)).rgb, np.random.default_rng([seed, int(row)])) for row in rows]
    sketches = embed_sketches(encoder, drawings, np.arange(len(rows)))
    coloured = np.concatenate(
        [
            encoder.encode_images(
                [encoder.prepare_image(drawing) for drawing in drawings[first : first + BATCH]]
            ).appearance
            for first in range(0, len(drawings), BATCH)
        ]
    )
    num = len(rows)
    return {
        "num_pictures": num,
        "num_sketches_with_strokes": len(sketches),
        # A drawing without a stroke has found nothing.
        "edge_branch": _recall(_ranks(sketches.structure @ pictures.structure.T, sketches.owner), num),
        "colour_branch": _recall(_ranks(coloured @ pictures.appearance.T, np.arange(num)), num),
        "chance": {f"R@{k}": round(100 * min(1.0, k / num), 2) for k in RANKS},
    }


def _ranks(scores: NDArray[np.float32], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    own = scores[np.arange(len(owner)), owner]
    return np.asarray(1 + (scores > own[:, None]).sum(axis=1))


def _recall(ranks: NDArray[np.int64], num: int) -> dict[str, float]:
    return {f"R@{k}": round(100 * float((ranks <= k).sum()) / num, 2) for k in RANKS}


if __name__ == "__main__":
    main()
