"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str | None, typer.Option("--url", help="A running service, for example http://127.0.0.1:8000.")]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="STRUCTXLIP_API_KEY", help="Key for --url.", show_envvar=True),
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of a local collection. [env: STRUCTXLIP_DATA]")]
Model = Annotated[str | None, typer.Option("--model", help="Checkpoint or open_clip model. [env: STRUCTXLIP_MODEL]")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda. [env: STRUCTXLIP_DEVICE]")]
