"""Where `structxlip add` finds pictures: folders, files, and manifests (JSONL or CSV)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from service.commands.errors import CommandError
from structxlip.client.folders import find_pictures, id_of_path

MANIFEST_SUFFIXES = {".jsonl", ".ndjson", ".csv"}
PATH_COLUMNS = ("image", "file", "path", "filename", "file_name", "filepath")
CAPTION_COLUMNS = ("caption", "long", "text", "title", "description", "captions")


@dataclass(frozen=True, slots=True)
class PictureSource:
    """One picture to add; ``problem`` says why a manifest's line cannot be used."""

    path: Path
    id: str | None
    metadata: Mapping[str, JsonValue]
    caption: str | None = None
    problem: str | None = None


def find_sources(paths: Sequence[Path]) -> list[PictureSource]:
    """Return every picture that the paths name, in a stable order.

    Args:
        paths: Folders (searched to any depth for files named like pictures), single files of any name, and manifests.

    Raises:
        CommandError: If a path does not exist, or nothing at all was found.
    """
    sources = [source for path in paths for source in _sources_of(path)]
    if not sources:
        raise CommandError(
            f"no pictures found in {', '.join(map(str, paths))}: "
            "name a folder with pictures, picture files, or a .jsonl or .csv manifest"
        )
    return sources


def _sources_of(path: Path) -> Iterator[PictureSource]:
    if not path.exists():
        raise CommandError(f"{path} does not exist")
    if path.is_dir():
        yield from _in_folder(path)
    elif path.suffix.lower() in MANIFEST_SUFFIXES:
        yield from _in_manifest(path)
    else:
        yield PictureSource(path, id_of_path(path.name), {"path": path.name})


def _in_folder(folder: Path) -> Iterator[PictureSource]:
    for path in find_pictures(folder):
        relative = path.relative_to(folder).as_posix()
        yield PictureSource(path, id_of_path(relative), {"path": relative})


def _in_manifest(manifest: Path) -> Iterator[PictureSource]:
    for number, row in enumerate(_rows(manifest), start=1):
        where = f"{manifest.name}, record {number}"
        if isinstance(row, str):
            yield PictureSource(manifest, None, {}, problem=f"{where}: {row}")
            continue
        column = next((name for name in PATH_COLUMNS if row.get(name)), None)
        if column is None:
            yield PictureSource(
                manifest,
                None,
                {},
                problem=f"{where}: no picture named; expected one of {', '.join(PATH_COLUMNS)}",
            )
            continue
        yield _from_row(row, str(row[column]), column, manifest)


def _rows(manifest: Path) -> Iterator[dict[str, JsonValue] | str]:
    if manifest.suffix.lower() == ".csv":
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            for line in csv.DictReader(file):
                yield {name: value for name, value in line.items() if name is not None and value not in (None, "")}
        return
    with manifest.open(encoding="utf-8") as file:
        for text in filter(str.strip, file):
            try:
                row = json.loads(text)
            except ValueError as error:
                yield f"not valid JSON ({error})"
                continue
            yield row if isinstance(row, dict) else f"expected a JSON object, received {type(row).__name__}"


def _from_row(row: Mapping[str, JsonValue], picture: str, path_column: str, manifest: Path) -> PictureSource:
    nested = row.get("metadata")
    taken = {path_column, "id", "metadata", *CAPTION_COLUMNS}
    metadata: dict[str, JsonValue] = {
        name: value for name, value in row.items() if name not in taken and isinstance(value, str | int | float | bool)
    }
    metadata["path"] = picture
    if isinstance(nested, dict):
        metadata.update(nested)
    image_id = str(row["id"]) if row.get("id") is not None else id_of_path(picture)
    return PictureSource(manifest.parent / picture, image_id, metadata, _caption_of(row))


def _caption_of(row: Mapping[str, JsonValue]) -> str | None:
    for name in CAPTION_COLUMNS:
        value = row.get(name)
        if isinstance(value, list):
            value = next((item for item in value if isinstance(item, str) and item), None)
        if isinstance(value, str) and value.strip():
            return value
    return None
