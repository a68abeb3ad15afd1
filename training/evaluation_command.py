"""`structxlip evaluate`: a checkpoint measured on pairs, as a table and, if asked for, a report with plots."""

from __future__ import annotations

import sys
from pathlib import Path

from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.config import parse_source
from training.data import PairSource, open_source, validated
from training.evaluate import SetEvaluation, embed_pairs, evaluate_set
from training.report import Report, results_table, write_report


def evaluate_checkpoint(
    checkpoint: str,
    data: str,
    *,
    weight: float | None = None,
    out: Path | None = None,
    short: str | None = None,
    base: str | None = None,
    skip_bad: bool = False,
    device: str = "auto",
) -> str:
    """Measure and return a table in Markdown.

    Args:
        checkpoint: As `load_encoder` takes it.
        data: As `parse_source` takes it.
        weight: Structure weight of the fused view; the checkpoint's own unless given, so that nothing is chosen
            on this set.
        out: Where to write a report with plots.
        short: Short captions, measured by appearance.
        base: The model that training started from, measured on `short` too.
        skip_bad: Leave faulty records out.
        device: As torch names it.

    Raises:
        ModelError: If a model cannot be loaded.
        DataError: If the data have faults, or cannot be read.
    """
    encoder = load_encoder(checkpoint, device=device)
    source = _open(data, encoder, skip_bad)
    pairs = embed_pairs(encoder, source)
    weight = encoder.default_structure_weight if weight is None else weight
    evaluation = evaluate_set(data, pairs, structure_weight=weight)
    forgetting: list[SetEvaluation] = []
    if short is not None:
        models = {"short captions, this model": encoder}
        if base is not None:
            models["short captions, base model"] = load_encoder(base, device=device)
        for name, model in models.items():
            told = embed_pairs(model, _open(short, model, skip_bad))
            forgetting.append(evaluate_set(name, told, structure_weight=0.0, num_weights=2))
    if out is not None:
        report = Report(checkpoint, (evaluation,), tuple(forgetting))
        write_report(out, report, encoder, {evaluation.name: (pairs, source)})
    return results_table((evaluation, *forgetting))


def _open(data: str, encoder: TwoViewEncoder, skip_bad: bool) -> PairSource:
    source = open_source(parse_source(data), image_size=encoder.image_size)
    usable, report = validated(source, name=data, on_bad_record="skip" if skip_bad else "fail")
    print(report.told(), file=sys.stderr)
    return usable
