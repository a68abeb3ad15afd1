"""The commands that training adds to `structxlip`, and what `python -m training.train` runs.

A user's mistake ends in one sentence and exit code 1; Ctrl-C in a run ends in 130, with everything saved.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.allocation import keep_freed_memory

if TYPE_CHECKING:
    from structxlip.gather import Ranks

INTERRUPTED = 130


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, or one of the package's own, such as own_pictures.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as optimiser.lr=1e-4.")] = None,
) -> None:
    """Fine-tune a model with the structural losses; the same command takes an interrupted run up again."""
    keep_freed_memory()
    raise typer.Exit(run_training([str(config), *(overrides or [])]))


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder, or any model that `serve` takes.")],
    data: Annotated[str, typer.Argument(help="A manifest, folder, shards or scenes:SPLIT, with ,key=value options.")],
    weight: Annotated[
        float | None, typer.Option(min=0, max=1, help="Structure weight; the checkpoint's own unless given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for a report with plots.")] = None,
    short: Annotated[str | None, typer.Option(help="Short captions, to see what is kept of the base model.")] = None,
    base: Annotated[str | None, typer.Option(help="The model that training started from, for --short.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave faulty records out instead of failing.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure recall, rank and gain of a checkpoint on pairs of pictures and captions."""
    with _told_errors():
        from training.evaluation_command import evaluate_checkpoint

        print(
            evaluate_checkpoint(
                checkpoint, data, weight=weight, out=out, short=short, base=base, skip_bad=skip_bad, device=device
            )
        )


def calibrate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder; a plain model together with --out.")],
    data: Annotated[str, typer.Argument(help="Pictures with captions that the model was not trained on.")],
    background: Annotated[
        str | None, typer.Option(help="Pictures that scores are compared with; half of DATA unless given.")
    ] = None,
    false_accept_rate: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Share of queries without a match that may find one.")
    ] = 0.05,
    num_background: Annotated[int, typer.Option(min=20, help="Pictures of the background.")] = 512,
    num_queries: Annotated[int, typer.Option(min=20, help="Pictures that queries are made of.")] = 500,
    out: Annotated[
        Path | None, typer.Option(help="Write a new checkpoint here instead of changing CHECKPOINT.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw confidence against truth to this PNG.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Give a checkpoint what tells matches from chance: the confidence of hits, and "nothing matches"."""
    with _told_errors():
        from training.calibration.command import calibrate_checkpoint

        print(
            calibrate_checkpoint(
                checkpoint,
                data,
                background=background,
                false_accept_rate=false_accept_rate,
                num_background=num_background,
                num_queries=num_queries,
                out=out,
                plot=plot,
                device=device,
            )
        )


def captions(
    text: Annotated[str, typer.Argument(help="A caption.")],
    kind: Annotated[str, typer.Option("--filter", help="lexicon, syntactic or none.")] = "lexicon",
    chunks: Annotated[str, typer.Option("--chunks", help="windows or syntactic.")] = "windows",
) -> None:
    """Show the structural text of a caption and its chunks."""
    with _told_errors():
        from structxlip.captions import build_caption_filter
        from structxlip.captions.chunks import build_chunker
        from training.config import TrainingConfigError

        try:
            caption_filter, chunker = build_caption_filter({"kind": kind}), build_chunker({"kind": chunks})
        except ValueError as error:
            raise TrainingConfigError(str(error)) from error
        structural = caption_filter.structural_text(text)
        print(structural)
        for chunk in chunker.chunks(structural):
            print(f"  {chunk.start_char:4d}–{chunk.end_char:<4d} {chunk.text}")


def edges(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the edge map; beside the picture unless given.")
    ] = None,
    size: Annotated[int, typer.Option(min=16, help="Side of the map, in pixels.")] = 224,
    kind: Annotated[
        str, typer.Option("--detector", help="percentile-canny, otsu-canny, scharr or xdog.")
    ] = "percentile-canny",
    regions: Annotated[int, typer.Option(min=0, help="Most regions to draw; 0 draws none.")] = 16,
) -> None:
    """Write the edge map of a picture, with its regions drawn over it."""
    with _told_errors():
        from training.drawings import write_edge_map

        path = out or image.with_name(f"{image.stem}.edges.png")
        for line in write_edge_map(image, path, size=size, detector=kind, max_regions=regions):
            print(line)


def run_training(arguments: Sequence[str]) -> int:
    """Run `CONFIG [key=value…]`, alone or as one process of torchrun, and return the exit code."""
    with _told_errors(), _ranks() as ranks:
        from training.config import TrainingConfigError, load_config
        from training.finish import finish
        from training.logs import say
        from training.loop import train as run_to_end

        if not arguments:
            raise TrainingConfigError("expected a configuration: python -m training.train CONFIG [key=value…]")
        config = load_config(Path(arguments[0]), arguments[1:])
        result = run_to_end(config, ranks=ranks)
        if not result.is_finished:
            return INTERRUPTED
        if not ranks.index:
            finish(config, say=say)
            print(f"report: {result.folder / 'report.md'}", file=sys.stderr)
        return 0


@contextmanager
def _told_errors() -> Iterator[None]:
    """Show what a user can mend as one sentence."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _user_errors()):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _user_errors() -> tuple[type[Exception], ...]:
    """Return the exception types whose message is enough; only asked for when something went wrong."""
    from structxlip.captions import PipelineError
    from structxlip.errors import ModelError
    from training.config import TrainingConfigError
    from training.data import DataError
    from training.loop import TrainingStoppedError
    from training.state import RunStateError

    return ModelError, PipelineError, TrainingConfigError, DataError, TrainingStoppedError, RunStateError


@contextmanager
def _ranks() -> Iterator[Ranks]:
    """Join the other processes of torchrun, where there are any."""
    import torch
    import torch.distributed as dist

    # Its functions have the group of the moment as a default value. Imported later (open_clip does), they would keep
    # ours, and gloo's threads with it, until the interpreter is gone: which sometimes aborts the process.
    import torch.distributed.nn

    from structxlip.gather import Ranks

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks.of_group()
    finally:
        dist.destroy_process_group()
