"""`structxlip backup`, `restore` and `reindex`: looking after a local collection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from service.commands.errors import CommandError
from service.commands.options import Data, Device, Model

if TYPE_CHECKING:
    from index.collection import Vector
    from structxlip.encoder import PreparedImage


# Beside the collection; `service.watchlists` keeps it.
WATCHLISTS = "watchlists"


def backup(
    destination: Annotated[Path, typer.Argument(help="New folder for the copy.")],
    data: Data = None,
) -> None:
    """Copy a collection while it may be in use; the copy is consistent and verified."""
    from index.backup import backup_directory
    from service.commands.serve import load_settings

    folder = data or load_settings().data
    num_files = backup_directory(folder, destination)
    if (folder / WATCHLISTS).is_dir():
        num_files += backup_directory(folder / WATCHLISTS, destination / WATCHLISTS)
    Console(stderr=True).print(f"{num_files} files copied from {folder} to {destination}")


def restore(
    source: Annotated[Path, typer.Argument(help="A folder written by `structxlip backup`.")],
    data: Data = None,
) -> None:
    """Put a backup into an empty or missing folder, verified."""
    from index.backup import restore as restore_directory
    from service.commands.serve import load_settings

    folder = data or load_settings().data
    num_files = restore_directory(source, folder)
    if (source / WATCHLISTS).is_dir():
        num_files += restore_directory(source / WATCHLISTS, folder / WATCHLISTS)
    Console(stderr=True).print(f"{num_files} files restored to {folder}")


def reindex(
    data: Data = None,
    model: Model = None,
    device: Device = None,
    prune: Annotated[bool, typer.Option("--prune", help="Then drop the vectors of every other model.")] = False,
) -> None:
    """Embed every stored picture with another model, beside the old vectors; a service may keep running.

    It can be stopped and started again. When it is done, restart the service with the new model.
    """
    from structxlip.quick_start import import_without_compiler

    import_without_compiler()
    from index.reembedding import prune_vectors, reembed
    from service.commands.serve import load_settings
    from service.images import ImageLimits, decode_image
    from service.model import load_model
    from service.problems import Problem

    given = {"data": data, "model": model, "device": device}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    encoder = load_model(settings)
    limits = ImageLimits(max_bytes=settings.max_file_bytes, max_pixels=settings.max_pixels)
    console = Console(stderr=True)

    def embed(originals: Sequence[tuple[str, bytes]]) -> list[tuple[Vector, Vector] | None]:
        prepared: list[PreparedImage | None] = []
        for image_id, content in originals:
            try:
                decoded = decode_image(content, limits, min_side=encoder.image_size)
            except Problem as problem:
                console.print(f"[red]{image_id}[/red] cannot be embedded again: {problem.detail}")
                prepared.append(None)
            else:
                prepared.append(encoder.prepare_image(decoded.rgb))
        embedded = encoder.encode_images([image for image in prepared if image is not None])
        vectors = iter(zip(embedded.appearance, embedded.structure, strict=True))
        return [next(vectors) if image is not None else None for image in prepared]

    folders = [folder for folder in (settings.data, settings.data / WATCHLISTS) if folder.is_dir()]
    failed: list[str] = []
    with Progress(console=console) as progress:
        for folder in folders:
            bar = progress.add_task("embedding" if folder == settings.data else "watch lists", total=None)
            outcome = reembed(
                folder,
                dimension=encoder.dimension,
                fingerprint=encoder.fingerprint,
                embed=embed,
                progress=partial(_show, progress, bar),
            )
            failed += outcome.failed
    if failed:
        raise CommandError(
            f"{len(failed)} pictures have no vectors of the new model (the first: {failed[0]}); "
            "delete them, or serve with the old model"
        )
    if prune:
        for folder in folders:
            prune_vectors(folder, keep=encoder.fingerprint)
    console.print(f"every picture has vectors of {encoder.name} ({encoder.fingerprint[:12]})")


def _show(progress: Progress, bar: TaskID, done: int, total: int) -> None:
    progress.update(bar, completed=done, total=total)
