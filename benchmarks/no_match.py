"""Does "nothing matches" hold what it promises? False and true accept rates beside a flat threshold's.

    python -m benchmarks.no_match --sizes 250 500 1000 2000
    python -m benchmarks.no_match --model PATH --data captions.jsonl,split=test --fit captions.jsonl,split=val \\
        --background captions.jsonl,split=train --sizes 100 200 400 --divisions 40

The calibration is fitted on `--fit`, then every caption of `--data` is asked twice: with its picture in the collection,
and without, in collections of several sizes: the smaller ones are all the parts of the largest. On scenes there is a
second trial: the collection holds pictures of one half of the kinds of object, and the queries name kinds of the other
half alone.

A rate of a few hundred pictures, at a level from a few hundred others, is the luck of both draws. So `--divisions`
throws all of them together and divides them anew at random, as often as it says, into as many to fit on and to ask for
as before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.results import write_result
from structxlip.calibration import Background, MatchCalibration, QueryKind
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.fitting import fit_calibration
from training.calibration.queries import (
    CalibrationSet,
    choose_rows,
    embed_background,
    embed_queries,
    joined,
    num_of_one_picture,
)
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
    parser.add_argument("--divisions", type=int, default=0, help="at random, of the pictures of both --data and --fit")
    parser.add_argument("--name", default="no_match")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.model)
    figures = measure(
        encoder, arguments.data, arguments.fit, arguments.background, arguments.sizes, num_divisions=arguments.divisions
    )
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(
    encoder: TwoViewEncoder,
    data: str,
    fit: str,
    background: str,
    sizes: Sequence[int],
    *,
    num_divisions: int = 0,
    seed: int = 0,
) -> dict[str, object]:
    """Return rates in percent by size of the collection, kind of query and structure weight."""
    size = max(sizes)
    sources = [_open(encoder, text, size) for text in (data, fit, background)]
    known = embed_background(encoder, sources[2], choose_rows(len(sources[2]), 512, seed))
    weight = encoder.default_structure_weight
    asked_rows = choose_rows(len(sources[1]), 500, seed)
    num_each = num_of_one_picture(len(asked_rows))  # as a calibration does it
    examples = embed_queries(encoder, sources[1], asked_rows, seed=seed, num_each=num_each)
    calibration = fit_calibration(known, examples, default_weight=weight, false_accept_rate=RATE)
    told = embed_queries(encoder, sources[0], choose_rows(len(sources[0]), size, seed), seed=seed, num_each=num_each)
    held_out = told.first_of_each()
    figures: dict[str, object] = {"stated_false_accept_rate": 100 * RATE, "num_pictures": len(held_out)}
    figures["captions_of_other_pictures"] = [
        row for each in sorted(sizes) for row in _rates(calibration, held_out, each, default_weight=weight, seed=seed)
    ]
    if num_divisions:
        both = joined(examples, told)
        rows = [
            _divided(known, both, len(examples), division, sizes, default_weight=weight)
            for division in range(num_divisions)
        ]
        figures["divisions"] = [_spread(each) for each in zip(*rows, strict=True)]
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


def _divided(
    known: Background,
    both: CalibrationSet,
    num_fitted: int,
    division: int,
    sizes: Sequence[int],
    *,
    default_weight: float,
) -> list[dict[str, object]]:
    """Fit on some pictures, drawn at random, and return the rates of the others."""
    order = np.random.default_rng([division, len(both)]).permutation(len(both))
    fitted, others = (both.part(np.sort(rows)) for rows in (order[:num_fitted], order[num_fitted:]))
    calibration = fit_calibration(known, fitted, default_weight=default_weight, false_accept_rate=RATE)
    asked = others.first_of_each()
    return [
        row for size in sorted(sizes) for row in _rates(calibration, asked, size, default_weight=default_weight, seed=0)
    ]


def _spread(rows: Sequence[dict[str, Any]]) -> dict[str, object]:
    """Return mean and deviation of one rate over divisions, and the share of them in which it is beyond the aim."""
    rates = np.array([row["false_accepts"] for row in rows])
    return {
        **{key: rows[0][key] for key in ("num_pictures", "query", "structure_weight")},
        "false_accepts": round(float(rates.mean()), 2),
        "deviation": round(float(rates.std(ddof=1)), 2) if len(rates) > 1 else None,
        "largest": float(rates.max()),
        "share_beyond_1.5_times": _percent(float((rates > 150 * RATE).mean())),
        **{
            key: round(float(np.mean([row[key] for row in rows])), 2)
            for key in ("true_accepts", "ranked_first", "flat_threshold_true_accepts")
        },
    }


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
