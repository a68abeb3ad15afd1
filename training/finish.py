"""The end of a run: the best checkpoint measured on everything that was held out, described, and exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from structxlip.calibration import MatchCalibration
from structxlip.checkpoint import Provenance, read_checkpoint_config, save_checkpoint
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder
from training.calibration.fitting import MIN_EXAMPLES, fit_calibration
from training.calibration.queries import choose_rows, embed_background, embed_queries, num_of_one_picture
from training.calibration.reliability import cross_measured, draw_reliability, reliability_table
from training.config import SourceConfig, TrainConfig
from training.data import PairSource, open_source, validated
from training.evaluate import PairEmbeddings, SetEvaluation, embed_pairs, evaluate_set, interpolated
from training.loop import BEST
from training.report import Report, WiseFtRow, write_report
from training.start import rebuilt, start_encoder

CALIBRATION_REPORT = "calibration.md"


@dataclass(frozen=True)
class _Evaluated:
    evaluation: SetEvaluation
    pairs: PairEmbeddings
    source: PairSource


def finish(config: TrainConfig, *, say: Callable[[str], None]) -> Report:
    """Evaluate the best checkpoint of a finished run, write its report, and export it.

    The structure weight comes from the validation pairs; the test sets are measured with it, once.
    """
    folder = Path(config.saving.run_folder)
    encoder = load_encoder(str(folder / BEST), device=config.regime.device)
    is_structural = config.loss.is_structural
    val = _evaluate(config, "validation", encoder, config.data.val, None if is_structural else 0.0)
    weight = val.evaluation.structure_weight
    say(f"structure weight {weight} (chosen on validation)")
    evaluated = [val]
    for name, source in config.data.test.items():
        evaluated.append(_evaluate(config, name, encoder, source, weight))
        say(_line(evaluated[-1].evaluation))
    base = _base(config) if config.model.start != "scratch" else None
    forgetting = _forgetting(config, encoder, base)
    report = Report(
        title=config.name,
        evaluations=tuple(item.evaluation for item in evaluated),
        forgetting=forgetting,
        wise_ft=_wise_ft(config, encoder, base, val),
        run_folder=folder,
    )
    write_report(folder, report, encoder, {item.evaluation.name: (item.pairs, item.source) for item in evaluated})
    calibration = _calibration(config, encoder, val.source, weight, say)
    _export(config, encoder, weight, metrics_of(report), calibration)
    return report


def metrics_of(report: Report) -> dict[str, JsonValue]:
    """Return what goes to `metrics.json`, one row for each set, view and direction."""
    rows: dict[str, JsonValue] = {"structure weight": report.evaluations[0].structure_weight}
    for evaluation in (*report.evaluations, *report.forgetting):
        rows[f"{evaluation.name}, size"] = {"pictures": evaluation.num_pictures, "captions": evaluation.num_captions}
        rows |= evaluation.metrics()
    return rows


def _evaluate(
    config: TrainConfig, name: str, encoder: TwoViewEncoder, source_config: SourceConfig, weight: float | None
) -> _Evaluated:
    source, _ = validated(
        open_source(source_config, image_size=encoder.image_size),
        name=name,
        on_bad_record=config.data.on_bad_record,
        decode=False,
    )
    pairs = embed_pairs(encoder, source, batch_size=config.evaluation.batch_size)
    found = evaluate_set(name, pairs, structure_weight=weight, num_weights=config.evaluation.num_weights)
    return _Evaluated(found, pairs, source)


def _base(config: TrainConfig) -> TwoViewEncoder:
    torch.manual_seed(config.seed)
    return start_encoder(config.model, device=config.regime.device)


def _forgetting(config: TrainConfig, encoder: TwoViewEncoder, base: TwoViewEncoder | None) -> tuple[SetEvaluation, ...]:
    """Measure short captions before and after: by appearance, which is all that the base model knows."""
    if config.data.forgetting is None:
        return ()
    models = {"short captions, base model": base, "short captions, tuned": encoder}
    return tuple(
        _evaluate(config, name, model, config.data.forgetting, 0.0).evaluation
        for name, model in models.items()
        if model is not None
    )


def _wise_ft(
    config: TrainConfig, encoder: TwoViewEncoder, base: TwoViewEncoder | None, val: _Evaluated
) -> tuple[WiseFtRow, ...]:
    if base is None or not config.evaluation.wise_ft:
        return ()
    mixed, rows = rebuilt(encoder), []
    states: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = (base.state_dict(), encoder.state_dict())
    for share in config.evaluation.wise_ft:
        mixed.load_state_dict(interpolated(*states, share))
        pairs = embed_pairs(mixed, val.source, batch_size=config.evaluation.batch_size)
        found = evaluate_set("validation", pairs, structure_weight=val.evaluation.structure_weight, num_weights=2)
        short = None
        if config.data.forgetting is not None:
            short = _evaluate(config, "short captions", mixed, config.data.forgetting, 0.0).evaluation
        rows.append(WiseFtRow(share, found, short))
    return tuple(rows)


def _calibration(
    config: TrainConfig, encoder: TwoViewEncoder, val: PairSource, weight: float, say: Callable[[str], None]
) -> MatchCalibration | None:
    """Fit what tells matches from chance: training pictures are the background, validation pictures are asked for."""
    wanted = config.calibration
    asked_rows = choose_rows(len(val), wanted.num_queries, config.seed)
    if not wanted.num_background or len(asked_rows) < MIN_EXAMPLES:
        say(f"no calibration: {len(asked_rows)} validation pictures, {wanted.num_background} of background asked for")
        return None
    train, _ = validated(
        open_source(replace(config.data.train, num_parts=0), image_size=encoder.image_size),
        name="training",
        on_bad_record=config.data.on_bad_record,
        decode=False,
    )
    known = embed_background(encoder, train, choose_rows(len(train), wanted.num_background, config.seed))
    examples = embed_queries(encoder, val, asked_rows, seed=config.seed, num_each=num_of_one_picture(len(asked_rows)))
    rate = wanted.false_accept_rate
    measured = cross_measured(known, examples, default_weight=weight, false_accept_rate=rate, seed=config.seed)
    folder = Path(config.saving.run_folder)
    table = reliability_table(measured, false_accept_rate=rate, num_pictures=len(asked_rows))
    (folder / CALIBRATION_REPORT).write_text(f"# Calibration of {config.name}\n\n{table}\n", encoding="utf-8")
    draw_reliability(measured, folder / "reliability.png")
    say(f"calibrated for {100 * rate:g} % false accepts: {folder / CALIBRATION_REPORT}")
    return fit_calibration(known, examples, default_weight=weight, false_accept_rate=rate, seed=config.seed)


def _export(
    config: TrainConfig,
    encoder: TwoViewEncoder,
    weight: float,
    metrics: dict[str, JsonValue],
    calibration: MatchCalibration | None,
) -> None:
    folder = Path(config.saving.run_folder)
    written: Provenance = read_checkpoint_config(folder / BEST).provenance
    for target in (folder / BEST, *([Path(config.saving.export_to)] if config.saving.export_to else [])):
        save_checkpoint(
            target,
            encoder,
            default_structure_weight=weight,
            structure_is_trained=config.loss.is_structural,
            metrics=metrics,
            calibration=calibration,
            provenance=written,
            half_precision=config.saving.half_precision,
        )


def _line(evaluation: SetEvaluation) -> str:
    told = "  ".join(f"{view} {found['text_to_image']['r1']:.1f}" for view, found in evaluation.views.items())
    return f"{evaluation.name}: text to image R@1  {told}"
