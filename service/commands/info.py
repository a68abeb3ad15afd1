"""`structxlip info`: the model and the collection, at a glance."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.commands.options import ApiKey, Data, Device, Model, Url
from service.commands.targets import open_target


def info(
    url: Url = None,
    api_key: ApiKey = None,
    data: Data = None,
    model: Model = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Describe the model and the collection."""
    with open_target(url=url, api_key=api_key, data=data, model=model, device=device) as target:
        description = target.info()
    if as_json:
        print(json.dumps(description, indent=2, default=str))
        return
    for name in ("model", "collection"):
        table = Table(name, "", title_justify="left", show_header=True)
        for key, value in description[name].items():
            table.add_row(key.replace("_", " "), _shown(value))
        Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "–" if value is None else str(value)
