"""`structxlip search`: find pictures by words, as a table, as JSON, or as a contact sheet."""

from __future__ import annotations

import dataclasses
import json
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from service.commands.errors import CommandError
from service.commands.options import ApiKey, Data, Device, Model, Url
from service.commands.targets import FoundPicture, Query, Target, open_target

# What the table takes beside the id and the caption: rank, four scores, lines and padding.
TABLE_FRAME = 61
MIN_CAPTION = 20
CAPTION_LINES = 3  # one line of a narrow window says "A colourful picture of …" of every picture


def search(
    text: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to look for, alone or with the words.")] = None,
    sketch: Annotated[Path | None, typer.Option(help="A drawing on any ground, alone or with the others.")] = None,
    negative: Annotated[list[str] | None, typer.Option(help="Words that hits must not look like.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    data: Data = None,
    model: Model = None,
    device: Device = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    structure_weight: Annotated[
        float | None,
        typer.Option("--weight", min=0, max=1, help="Structure against appearance; default: the model's."),
    ] = None,
    filter: Annotated[
        str | None, typer.Option(help='Metadata condition as JSON: {"field": "shop", "eq": "x"}.')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet of the hits to this PNG.")] = None,
    open_sheet: Annotated[bool, typer.Option("--open", help="Write a contact sheet and show it.")] = False,
) -> None:
    """Find pictures by words, by a picture, by a sketch, or by several of these together."""
    asked = Query(
        text=text,
        image=_read(image),
        sketch=_read(sketch),
        negatives=tuple(negative or ()),
        structure_weight=structure_weight,
        limit=limit,
        filter=_parse_json(filter),
    )
    title = " + ".join(part for part in (text, image and image.name, sketch and sketch.name) if part)
    with open_target(url=url, api_key=api_key, data=data, model=model, device=device) as target:
        found = target.search(asked)
        hits = found.hits
        if open_sheet and sheet is None:
            sheet = Path("structxlip-search.png")
        if sheet is not None:
            _write_sheet(sheet, title, hits, target)
    if as_json:
        print(json.dumps([dataclasses.asdict(hit) for hit in hits], ensure_ascii=False, indent=2))
    else:
        print_hits(hits, Console())
        if found.no_match:
            Console().print("nothing here matches; the above are the closest")
    if sheet is not None:
        Console(stderr=True).print(f"wrote {sheet}")
    if open_sheet and sheet is not None:
        webbrowser.open(sheet.resolve().as_uri())


def print_hits(hits: Sequence[FoundPicture], console: Console) -> None:
    """Print hits as a table."""
    table = Table()
    for name in ("#", "id", "score", "appearance", "structure", "confidence"):
        table.add_column(name, no_wrap=True)
    table.add_column("caption")
    room = max(MIN_CAPTION, console.width - TABLE_FRAME - max((len(hit.id) for hit in hits), default=0))
    for rank, hit in enumerate(hits, start=1):
        caption = (hit.caption or "").replace("\n", " ")
        table.add_row(
            str(rank),
            hit.id,
            f"{hit.score:.3f}",
            f"{hit.appearance:.3f}",
            f"{hit.structure:.3f}",
            "-" if hit.confidence is None else f"{hit.confidence:.2f}",
            _shortened(caption, CAPTION_LINES * room),
        )
    console.print(table if hits else "nothing found: the collection is empty, or the filter leaves nothing")


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from error


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _parse_json(text: str | None) -> JsonValue:
    if text is None:
        return None
    try:
        value: JsonValue = json.loads(text)
    except ValueError as error:
        raise CommandError(f"--filter is not valid JSON: {error}") from error
    return value


def _write_sheet(path: Path, text: str, hits: Sequence[FoundPicture], target: Target) -> None:
    from service.contact_sheet import Tile, draw_contact_sheet
    from service.images import ImageLimits, decode_image

    tiles = [
        Tile(decode_image(target.original(hit.id), ImageLimits()).rgb, f"{hit.score:.3f} · {hit.id}") for hit in hits
    ]
    path.write_bytes(draw_contact_sheet(tiles, title=text))
