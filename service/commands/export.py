"""`structxlip export`: the fast form of a checkpoint, beside it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from service.commands.errors import CommandError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PICTURES = 32


class ExportBackend(StrEnum):
    """Backends that have a form of their own."""

    OPENVINO = "openvino"


def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder, a bundled checkpoint or `local-dir:…`.")],
    backend: Annotated[ExportBackend, typer.Option(help="For which backend.")] = ExportBackend.OPENVINO,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures to check the result on, instead of drawn ones.")
    ] = None,
) -> None:
    """Write the converted form of a model into its folder and check it against the model itself.

    `serve` takes it from there instead of converting at each start, as long as it belongs to the weights beside it.
    """
    from structxlip.quick_start import import_without_compiler

    import_without_compiler()
    from structxlip.backends.stored import FORM_FOLDER, write_form
    from structxlip.models import load_encoder, model_folder

    folder = model_folder(checkpoint)
    if folder is None:
        raise CommandError(
            f"{checkpoint} has no folder of its own to write into: put its files into one and name it local-dir:FOLDER"
        )
    encoder = load_encoder(checkpoint, device="cpu")
    record = write_form(encoder, folder, pictures=None if pictures is None else _read_pictures(pictures))
    console = Console(stderr=True)
    console.print(f"{folder / FORM_FOLDER}: {backend.value} {record.openvino}, for {record.fingerprint[:12]}")
    for name, cosine in record.cosines.items():
        console.print(f"  {name}: smallest cosine to the model {cosine:.7f}")


def _read_pictures(folder: Path) -> list[NDArray[np.uint8]]:
    """Decode the first pictures of a folder; a bad one is told, not skipped."""
    from service.commands.sources import find_sources
    from service.images import ImageLimits, decode_image

    sources = find_sources([folder])[:MAX_PICTURES]
    return [decode_image(source.path.read_bytes(), ImageLimits()).rgb for source in sources]
