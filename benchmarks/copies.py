"""Are altered copies found? Recall at one false alarm in a thousand, by manipulation and structure weight.

    python -m benchmarks.copies --model PATH --data captions.jsonl,split=test --size 300

Every picture is altered in eight ways and each copy is searched among all of them; a copy is found when its original
scores highest and above the threshold that one in a thousand of the *other* best hits reaches. Two thresholds are
compared: one flat score for all queries, and the surprise of a calibration that was fitted on another part of the data.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.results import write_result
from structxlip.calibration import Numbers, QueryKind
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.copies import COPIES
from training.calibration.fitting import fit_calibration
from training.calibration.queries import CalibrationSet, QuerySet, choose_rows, embed_background, embed_queries
from training.config import parse_source
from training.data import PairSource, open_source

FALSE_ALARM_RATE = 0.001


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--data", default="scenes:test")
    parser.add_argument("--background", default="scenes:train")
    parser.add_argument("--size", type=int, default=300, help="pictures that are copied")
    parser.add_argument("--name", default="copies")
    arguments = parser.parse_args()
    figures = measure(load_encoder(arguments.model), arguments.data, arguments.background, arguments.size)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(encoder: TwoViewEncoder, data: str, background: str, size: int, *, seed: int = 0) -> dict[str, object]:
    """Return recall in percent by weight, manipulation and threshold."""
    source, other = (_open(encoder, text, 2 * size) for text in (data, background))
    rows = choose_rows(len(source), size, seed)
    pictures = embed_background(encoder, source, rows)
    half = len(other) // 2
    known = embed_background(encoder, other, np.arange(half))
    fitted_on = embed_queries(encoder, other, np.arange(half, len(other)), seed=seed)
    calibration = fit_calibration(
        known, fitted_on, default_weight=encoder.default_structure_weight, false_accept_rate=FALSE_ALARM_RATE
    )
    copies = {name: _copies(encoder, source, rows, name, seed) for name in COPIES}
    figures: dict[str, object] = {"num_pictures": len(rows), "false_alarm_rate": FALSE_ALARM_RATE}
    for weight in sorted({0.0, encoder.default_structure_weight, 1.0}):
        level = calibration.level_at(QueryKind.PICTURE, weight)
        outcomes = {name: _outcome(CalibrationSet(pictures, {}), queries, weight) for name, queries in copies.items()}
        flat = float(np.quantile(np.concatenate([other for _, other in outcomes.values()]), 1 - FALSE_ALARM_RATE))
        surprises = {
            name: tuple(
                (
                    scores
                    - level.expected(*_background(known.scores(q.appearance, q.structure, weight)), num_images=size)
                )
                / level.scale(size)
                for scores in outcomes[name]
            )
            for name, q in copies.items()
        }
        judged = float(np.quantile(np.concatenate([other for _, other in surprises.values()]), 1 - FALSE_ALARM_RATE))
        figures[f"w={weight:g}"] = {
            name: {
                "ranked_first": _percent(own > other),
                "flat_threshold": _percent((own > other) & (own > flat)),
                "against_background": _percent((own > other) & (surprises[name][0] > judged)),
            }
            for name, (own, other) in outcomes.items()
        }
    return figures


def _open(encoder: TwoViewEncoder, text: str, size: int) -> PairSource:
    scenes = f",num_scenes={size}" if text.startswith("scenes:") else ""
    return open_source(parse_source(f"{text}{scenes}"), image_size=encoder.image_size)


def _copies(encoder: TwoViewEncoder, source: PairSource, rows: Numbers, name: str, seed: int) -> QuerySet:
    parts = []
    for first in range(0, len(rows), 64):
        altered = [
            COPIES[name](source.read(int(row)).rgb, np.random.default_rng([seed, int(row)]))
            for row in rows[first : first + 64]
        ]
        parts.append(encoder.encode_images([encoder.prepare_image(rgb) for rgb in altered]))
    return QuerySet(
        np.concatenate([part.appearance for part in parts]),
        np.concatenate([part.structure for part in parts]),
        np.arange(len(rows)),
    )


def _outcome(pictures: CalibrationSet, queries: QuerySet, weight: float) -> tuple[Numbers, Numbers]:
    scores = queries.scores(pictures.images, weight).astype(np.float64)
    own = np.diag(scores).copy()
    np.fill_diagonal(scores, -np.inf)
    return own, scores.max(axis=1)


def _background(scores: Numbers) -> tuple[Numbers, Numbers]:
    return scores.mean(axis=1).astype(np.float64), scores.std(axis=1).astype(np.float64)


def _percent(is_found: Numbers) -> float:
    return round(100 * float(is_found.mean()), 1)


if __name__ == "__main__":
    main()
