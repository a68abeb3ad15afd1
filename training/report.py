"""What a run found, in Markdown: tables, losses, recall against the structure weight, contact sheets with edge maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structxlip.encoder import TwoViewEncoder
from training.data import PairSource
from training.evaluate import DIRECTIONS, PairEmbeddings, SetEvaluation, top_hits
from training.logs import STEPS_FILE, VALIDATION_FILE, read_table

REPORT_FILE = "report.md"
LOSSES = ("loss", "contrastive", "structure", "consistency", "local", "sketch")
MEASURES = ("r1", "r5", "r10", "median_rank", "mrr", "ndcg")
HEADINGS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "median rank", "mrr": "MRR", "ndcg": "nDCG"}
SHEET_QUERIES, SHEET_HITS = 6, 5


@dataclass(frozen=True)
class WiseFtRow:
    """A model between base and tuned.

    Attributes:
        share: Of the tuned weights.
        validation: Measured on the validation pairs.
        short: Measured on short captions.
    """

    share: float
    validation: SetEvaluation
    short: SetEvaluation | None


@dataclass(frozen=True)
class Report:
    """What there is to tell.

    Attributes:
        title: Of the run.
        evaluations: Validation first, where there is one, then the test sets.
        forgetting: Short captions before and after.
        wise_ft: Models between base and tuned.
        run_folder: With the logs of the run, if it was trained here.
    """

    title: str
    evaluations: tuple[SetEvaluation, ...]
    forgetting: tuple[SetEvaluation, ...] = ()
    wise_ft: tuple[WiseFtRow, ...] = ()
    run_folder: Path | None = None


def write_report(
    folder: Path,
    report: Report,
    encoder: TwoViewEncoder,
    shown: Mapping[str, tuple[PairEmbeddings, PairSource]],
) -> Path:
    """Write `report.md` and its plots.

    Args:
        folder: Where; it is made if need be.
        report: What there is to tell.
        encoder: Draws the edge maps of the contact sheets.
        shown: For each set by name: its embeddings and pictures, for a contact sheet.

    Returns:
        The path of the Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {report.title}", _settings(report), results_table(report.evaluations)]
    if report.forgetting:
        parts += ["## Short captions", results_table(report.forgetting)]
    if report.wise_ft:
        parts += ["## Between the base model and the tuned one (WiSE-FT)", _wise_ft_table(report.wise_ft)]
    parts += ["## Recall against the structure weight", _picture(_plot_sweeps(folder, report.evaluations))]
    if report.run_folder is not None and (losses := _plot_losses(folder, report.run_folder)) is not None:
        parts += ["## The run", _picture(losses)]
    for evaluation in report.evaluations:
        if evaluation.name in shown:
            parts += [
                f"## {evaluation.name}: what some captions find",
                "Under each picture its edge map; the right one is framed.",
                _picture(_contact_sheet(folder, evaluation, encoder, *shown[evaluation.name])),
            ]
    path = folder / REPORT_FILE
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _settings(report: Report) -> str:
    weight = report.evaluations[0].structure_weight
    return (
        f"Structure weight of the fused view: {weight}. Recall, MRR and nDCG in percent; ties are counted by their "
        "expectation; scores in float32."
    )


def results_table(evaluations: Sequence[SetEvaluation]) -> str:
    """Return every view and direction of every set as a Markdown table."""
    rows = [
        [e.name, f"{e.num_pictures} / {e.num_captions}", view, direction.replace("_", " ")]
        + [f"{e.views[view][direction][measure]:.1f}" for measure in MEASURES]
        for e in evaluations
        for view in e.views
        for direction in DIRECTIONS
    ]
    return _table(["set", "pictures / captions", "view", "direction", *HEADINGS.values()], rows)


def _wise_ft_table(wise_ft: Sequence[WiseFtRow]) -> str:
    rows = []
    for row in wise_ft:
        views = row.validation.views
        told = [f"{views[view]['text_to_image']['r1']:.1f}" for view in ("appearance", "structure", "fused")]
        short = "–" if row.short is None else f"{row.short.views['appearance']['text_to_image']['r1']:.1f}"
        rows.append([f"{row.share:g}", *told, short])
    return _table(
        ["share of the tuned weights", "appearance R@1", "structure R@1", "fused R@1", "short captions R@1"], rows
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _picture(path: Path) -> str:
    return f"![{path.stem.replace('_', ' ')}]({path.name})"


def _figure(width: float, height: float) -> Any:
    # The object, not pyplot: no global state, and no screen is needed.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plot_sweeps(folder: Path, evaluations: Sequence[SetEvaluation]) -> Path:
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for evaluation in evaluations:
        weights = list(evaluation.swept)
        recalls = [evaluation.swept[weight]["text_to_image"]["r1"] for weight in weights]
        axes.plot(weights, recalls, marker=".", label=evaluation.name)
    axes.axvline(evaluations[0].structure_weight, color="grey", linestyle=":", label="used")
    axes.set(xlabel="structure weight w", ylabel="text to image R@1, %", xlim=(0, 1))
    axes.legend()
    return _saved(figure, folder / "recall_by_weight.png")


def _plot_losses(folder: Path, run_folder: Path) -> Path | None:
    steps, validations = read_table(run_folder / STEPS_FILE), read_table(run_folder / VALIDATION_FILE)
    if not steps:
        return None
    figure = _figure(9, 4)
    left, right = figure.subplots(1, 2)
    for name in LOSSES:
        if name in steps[0]:
            left.plot([row["step"] for row in steps], [row[name] for row in steps], label=name, linewidth=0.8)
    left.set(xlabel="step", ylabel="nats", title="training losses")
    left.legend()
    for name in ("appearance_r1", "structure_r1", "fused_r1"):
        right.plot(
            [row["step"] for row in validations], [row[name] for row in validations], marker=".", label=name[:-3]
        )
    right.set(xlabel="step", ylabel="text to image R@1, %", title="validation")
    right.legend()
    return _saved(figure, folder / "training.png")


def _contact_sheet(
    folder: Path, evaluation: SetEvaluation, encoder: TwoViewEncoder, pairs: PairEmbeddings, source: PairSource
) -> Path:
    captions = _spread(len(pairs.texts), SHEET_QUERIES)
    hits = top_hits(pairs, captions, evaluation.structure_weight, SHEET_HITS)
    texts = _caption_texts(source)
    figure = _figure(2.2 + 1.4 * SHEET_HITS, 2.6 * len(captions))
    grid = figure.subplots(2 * len(captions), 1 + SHEET_HITS, squeeze=False, width_ratios=[2.2] + [1.0] * SHEET_HITS)
    for axes in grid.flat:
        axes.axis("off")
    for row, (caption, found) in enumerate(zip(captions, hits, strict=True)):
        told = textwrap.shorten(texts[caption], 260, placeholder=" …")
        grid[2 * row, 0].text(0, 1, textwrap.fill(told, 38), fontsize=6, va="top", transform=grid[2 * row, 0].transAxes)
        for column, picture in enumerate(found, start=1):
            prepared = encoder.prepare_image(source.read(picture).rgb)
            is_right = picture == int(pairs.owner[caption])
            _show(grid[2 * row, column], prepared.rgb, is_framed=is_right)
            _show(grid[2 * row + 1, column], prepared.edges, is_framed=is_right)
    return _saved(figure, folder / f"sheet_{evaluation.name.replace(' ', '_')}.png")


def _caption_texts(source: PairSource) -> list[str]:
    return [text for index in range(len(source)) for text in source.captions(index) if text.strip()]


def _spread(number: int, wanted: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, number - 1, min(number, wanted))})


def _show(axes: Any, pixels: NDArray[np.uint8], *, is_framed: bool) -> None:
    axes.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None)
    if is_framed:
        axes.axis("on")
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color="tab:green", linewidth=2)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
