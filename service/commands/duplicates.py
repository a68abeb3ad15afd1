"""`structxlip duplicates`: clusters of copies in a local collection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.commands.options import Data, Device, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.search.resemblance import Cluster


def duplicates(
    data: Data = None,
    model: Model = None,
    device: Device = None,
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(min=1e-6, max=0.5, help="Pictures without a copy taken for one; of calibrated models."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score of a copy, for models without a calibration.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List pictures that are copies of each other: recoloured, greyscaled, inverted, blurred, saved again."""
    from structxlip.quick_start import import_without_compiler

    import_without_compiler()
    from service.app import copy_rules, open_collection
    from service.commands.serve import load_settings
    from service.search.resemblance import find_clusters
    from structxlip.models import load_encoder

    given = {
        "data": data,
        "model": model,
        "device": device,
        "copy_false_alarm_rate": false_alarm_rate,
        "copy_min_score": min_score,
    }
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    encoder = load_encoder(settings.model, device=settings.device)
    collection = open_collection(settings, encoder, wait=True)
    try:
        clusters = find_clusters(collection, copy_rules(settings, encoder))
    finally:
        collection.close()
    if as_json:
        print(json.dumps([_plain(cluster) for cluster in clusters], ensure_ascii=False, indent=2))
    else:
        _print(clusters, Console())


def _plain(cluster: Cluster) -> dict[str, object]:
    return {
        "ids": [record.id for record in cluster.records],
        "least_score": cluster.least_score,
        "least_confidence": cluster.least_confidence,
    }


def _print(clusters: Sequence[Cluster], console: Console) -> None:
    if not clusters:
        console.print("no copies found")
        return
    table = Table("pictures", "weakest score", "weakest confidence", "ids, oldest first")
    for cluster in clusters:
        confidence = "-" if cluster.least_confidence is None else f"{cluster.least_confidence:.3f}"
        ids = ", ".join(record.id for record in cluster.records)
        table.add_row(str(len(cluster.records)), f"{cluster.least_score:.3f}", confidence, ids)
    console.print(table)
