"""`structxlip calibrate`: give a checkpoint the background and the levels that tell matches from chance."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from structxlip.checkpoint import add_calibration, save_checkpoint
from structxlip.encoder import TwoViewEncoder
from structxlip.models import checkpoint_folder, load_encoder
from training.calibration.fitting import MIN_EXAMPLES, fit_calibration
from training.calibration.queries import choose_rows, embed_background, embed_queries, num_of_one_picture
from training.calibration.reliability import Reliability, cross_measured, draw_reliability, reliability_table
from training.config import parse_source
from training.data import DataError, PairSource, open_source, validated


def calibrate_checkpoint(
    checkpoint: str,
    data: str,
    *,
    background: str | None = None,
    false_accept_rate: float = 0.05,
    num_background: int = 512,
    num_queries: int = 500,
    out: Path | None = None,
    plot: Path | None = None,
    device: str = "auto",
    seed: int = 0,
) -> str:
    """Calibrate, write, and return a table in Markdown of what it is worth on pictures it was not fitted on.

    Args:
        checkpoint: As `load_encoder` takes it.
        data: Pictures with captions that the model was not trained on, as `parse_source` takes them.
        background: Other pictures, such as the training ones; without it half of `data`, which the queries then lack.
        false_accept_rate: Share of queries without a match that may find one all the same, 0 to 1.
        num_background: Pictures of the background.
        num_queries: Pictures that queries are made of.
        out: Write a new checkpoint here; without it the checkpoint itself is calibrated.
        plot: Where to draw confidence against truth.
        device: As torch names it.
        seed: Draws pictures, altered copies and sketches.

    Raises:
        ModelError: If the model cannot be loaded, or written.
        DataError: If the data have faults, or are too few.
    """
    folder = checkpoint_folder(checkpoint)
    if folder is None and out is None:
        raise DataError(
            f"{checkpoint} is a plain model, which has no place for a calibration: name a folder with --out"
        )
    encoder = load_encoder(checkpoint, device=device)
    asked = _open(data, encoder)
    known_source = asked if background is None else _open(background, encoder)
    known_rows = choose_rows(len(known_source), num_background, seed)
    asked_rows = choose_rows(len(asked), num_queries, seed)
    if background is None:
        known_rows, asked_rows = _halves(len(asked), num_background, num_queries, seed)
    if len(asked_rows) < MIN_EXAMPLES:
        raise DataError(f"{data} gives {len(asked_rows)} pictures to ask for; at least {MIN_EXAMPLES} are needed")
    known = embed_background(encoder, known_source, known_rows)
    examples = embed_queries(encoder, asked, asked_rows, seed=seed, num_each=num_of_one_picture(len(asked_rows)))
    weight = encoder.default_structure_weight
    calibration = fit_calibration(
        known, examples, default_weight=weight, false_accept_rate=false_accept_rate, seed=seed
    )
    measured = cross_measured(known, examples, default_weight=weight, false_accept_rate=false_accept_rate, seed=seed)
    if out is not None:
        save_checkpoint(
            out,
            encoder,
            default_structure_weight=weight,
            structure_is_trained=encoder.structure_is_trained,
            calibration=calibration,
        )
    else:
        assert folder is not None
        add_calibration(folder, calibration)
    return _told(measured, false_accept_rate, len(asked_rows), plot)


def _told(measured: list[Reliability], false_accept_rate: float, num_pictures: int, plot: Path | None) -> str:
    if plot is not None:
        draw_reliability(measured, plot)
    return reliability_table(measured, false_accept_rate=false_accept_rate, num_pictures=num_pictures)


def _halves(num: int, num_background: int, num_queries: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    known, asked = np.array_split(np.random.default_rng(seed).permutation(num), 2)
    return np.sort(known[:num_background]), np.sort(asked[:num_queries])


def _open(data: str, encoder: TwoViewEncoder) -> PairSource:
    source = open_source(parse_source(data), image_size=encoder.image_size)
    usable, report = validated(source, name=data, on_bad_record="fail", decode=False)
    print(report.told(), file=sys.stderr)
    return usable
