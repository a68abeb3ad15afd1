"""`structxlip add`: put folders, files or manifests into a collection, here or over HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.commands.options import ApiKey, Data, Device, Model, Url
from service.commands.sources import PictureSource, find_sources
from service.commands.targets import AddResult, Target, open_target
from structxlip.client.adding import batches
from structxlip.client.sync_client import in_parallel

MAX_LISTED_FAILURES = 20


def add(
    paths: Annotated[list[Path], typer.Argument(help="Folders, picture files, .jsonl or .csv manifests.")],
    url: Url = None,
    api_key: ApiKey = None,
    data: Data = None,
    model: Model = None,
    device: Device = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Batches on their way at once.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, max=64, help="Pictures in a batch.")] = 16,
    report: Annotated[Path | None, typer.Option(help="Write every failure to this JSONL file.")] = None,
) -> None:
    """Add pictures; running it again adds only what is new or changed.

    Ends with exit status 1 when any picture failed; the good ones are stored all the same.
    """
    console = Console(stderr=True)
    sources = find_sources(paths)
    with open_target(url=url, api_key=api_key, data=data, model=model, device=device, is_bulk=True) as target:
        results = add_with_progress(target, sources, workers, batch_size, console)
    failures = print_summary(results, console)
    if report is not None:
        _write_report(report, failures)
    if failures:
        raise typer.Exit(1)


def add_with_progress(
    target: Target, sources: Sequence[PictureSource], workers: int, batch_size: int, console: Console
) -> list[AddResult]:
    """Add everything in batches, several at once, behind a progress bar."""
    columns = (
        TextColumn("adding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[green]{task.fields[rate]}"),
        TextColumn("[red]{task.fields[failed]}"),
        TimeRemainingColumn(),
    )
    results: list[AddResult] = []
    num_failed = 0
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("add", total=len(sources), rate="", failed="")
        for batch in in_parallel(target.add, batches(sources, batch_size), workers):
            results.extend(batch)
            num_failed += sum(result.status == "failed" for result in batch)
            speed = progress.tasks[bar].speed
            progress.update(
                bar,
                advance=len(batch),
                rate=f"{speed:.0f}/s" if speed else "",
                failed=f"{num_failed} failed" if num_failed else "",
            )
    return results


def print_summary(results: Sequence[AddResult], console: Console) -> list[AddResult]:
    """Print what became of the pictures, and return those that failed."""
    failures = [result for result in results if result.status == "failed"]
    counts = Counter(result.status for result in results)
    console.print(", ".join(f"{counts[status]} {status}" for status in sorted(counts)) or "nothing to add")
    if failures:
        console.print(_failure_table(failures))
    return failures


def _failure_table(failures: Sequence[AddResult]) -> Table:
    table = Table("picture", "why it was not added", title=f"{len(failures)} failed", title_justify="left")
    for result in failures[:MAX_LISTED_FAILURES]:
        table.add_row(str(result.source.path), result.reason or "unknown")
    if len(failures) > MAX_LISTED_FAILURES:
        table.add_row("…", f"and {len(failures) - MAX_LISTED_FAILURES} more; --report FILE writes them all")
    return table


def _write_report(path: Path, failures: Sequence[AddResult]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for result in failures:
            line = {"path": str(result.source.path), "id": result.source.id, "reason": result.reason}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
