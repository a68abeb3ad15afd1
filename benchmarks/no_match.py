"""Does "nothing matches" hold what it promises? False and true accept rates beside a flat threshold's.

    python -m benchmarks.no_match --sizes 250 500 1000 2000
    python -m benchmarks.no_match --model PATH --data captions.jsonl,split=test --fit captions.jsonl,split=val \\
        --background captions.jsonl,split=train

The calibration is fitted on `--fit`, then every caption of `--data` is asked twice: with its picture in the collection,
and without, in collections of several sizes: the smaller ones are all the parts of the largest. On scenes there is a
second trial: the collection holds pictures of one half of the kinds of object, and the queries name kinds of the other
half alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.results import write_result
from structxlip.calibration import MatchCalibration, QueryKind
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.fitting import fit_calibration
from training.calibration.queries import CalibrationSet, choose_rows, embed_background, embed_queries
from training.calibration.reliability import Reliability, measure_all
from training.config import parse_source
from training.data import PairSource, open_source
from training.scenes import SceneDataset
from training.scenes.vocabulary import KINDS

RATE = 0.05
# Of pictures and of queries; scenes whose kinds are all of one half are few.
HALF_VOCABULARY = 1000


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--data", default="scenes:test")
    parser.add_argument("--fit", default="scenes:val")
    parser.add_argument("--background", default="scenes:train")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 500, 1000, 2000], help="of the collection")
    parser.add_argument("--name", default="no_match")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.model)
    figures = measure(encoder, arguments.data, arguments.fit, arguments.background, arguments.sizes)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(
    encoder: TwoViewEncoder, data: str, fit: str, background: str, sizes: Sequence[int], *, seed: int = 0
) -> dict[str, object]:
    """Return rates in percent by size of the collection, kind of query and structure weight."""
    size = max(sizes)
    sources = [_open(encoder, text, size) for text in (data, fit, background)]
    known = embed_background(encoder, sources[2], choose_rows(len(sources[2]), 512, seed))
    weight = encoder.default_structure_weight
    examples = embed_queries(encoder, sources[1], choose_rows(len(sources[1]), 500, seed), seed=seed)
    calibration = fit_calibration(known, examples, default_weight=weight, false_accept_rate=RATE)
    held_out = embed_queries(encoder, sources[0], choose_rows(len(sources[0]), size, seed), seed=seed)
    figures: dict[str, object] = {"stated_false_accept_rate": 100 * RATE, "num_pictures": len(held_out)}
    figures["captions_of_other_pictures"] = [
        row for each in sorted(sizes) for row in _rates(calibration, held_out, each, default_weight=weight, seed=seed)
    ]
    if data.startswith("scenes:"):
        figures["half_of_the_vocabulary"] = _half_vocabulary(encoder, calibration, min(size, HALF_VOCABULARY))
    return figures


def _rates(
    calibration: MatchCalibration, held_out: CalibrationSet, size: int, *, default_weight: float, seed: int
) -> list[dict[str, object]]:
    """Cut a collection into parts of one size, and average what each of them gives."""
    order = np.random.default_rng([seed, size]).permutation(len(held_out))
    parts = [held_out.part(np.sort(rows)) for rows in np.array_split(order, max(1, len(held_out) // size))]
    measured = [measure_all(calibration, part, default_weight=default_weight) for part in parts]

    def mean(rows: Sequence[Reliability], value: Callable[[Reliability], float]) -> float:
        return _percent(float(np.mean([value(row) for row in rows])))

    return [
        {
            "num_pictures": len(parts[0]),
            "query": rows[0].kind.value,
            "structure_weight": rows[0].structure_weight,
            "false_accepts": mean(rows, lambda row: row.false_accept_rate),
            "true_accepts": mean(rows, lambda row: row.true_accept_rate),
            "ranked_first": mean(rows, lambda row: row.found),
            "flat_threshold_true_accepts": mean(rows, lambda row: row.flat_true_accept_rate),
            "calibration_error": mean(rows, Reliability.calibration_error),
        }
        for rows in zip(*measured, strict=True)
    ]


def _half_vocabulary(encoder: TwoViewEncoder, calibration: MatchCalibration, size: int) -> dict[str, float]:
    names = sorted(KINDS)
    shown = set(np.random.default_rng(0).permutation(names)[: len(names) // 2].tolist())
    scenes, captions = [], []
    # A scene has several kinds: those of one half alone are few.
    for example in SceneDataset("test", 20 * size, size=encoder.image_size):
        kinds = {group["kind"] for group in example.facts["groups"]}
        if kinds <= shown and len(scenes) < size:
            scenes.append(encoder.prepare_image(example.rgb))
        elif not kinds & shown and len(captions) < size:
            captions.append(encoder.prepare_text(example.caption))
        if len(scenes) == len(captions) == size:
            break
    stored, asked = encoder.encode_images(scenes), encoder.encode_texts(captions)
    accepted = []
    weight = encoder.default_structure_weight
    for appearance, structure in zip(asked.appearance, asked.structure, strict=True):
        judged = calibration.judge(
            appearance, structure, structure_weight=weight, kind=QueryKind.TEXT, num_images=len(scenes)
        )
        best = ((1 - weight) * stored.appearance @ appearance + weight * stored.structure @ structure).max()
        accepted.append(judged.is_match(float(best)))
    return {
        "num_pictures": len(scenes),
        "num_queries": len(captions),
        "structure_weight": weight,
        "false_accepts": _percent(float(np.mean(accepted))),
    }


def _open(encoder: TwoViewEncoder, text: str, size: int) -> PairSource:
    scenes = f",num_scenes={size}" if text.startswith("scenes:") else ""
    return open_source(parse_source(f"{text}{scenes}"), image_size=encoder.image_size)


def _percent(share: float) -> float:
    return round(100 * share, 2)


if __name__ == "__main__":
    main()
