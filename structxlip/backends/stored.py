"""The converted form of a model, beside its weights: loaded instead of converting again.

```
openvino/form.json     format version, fingerprint, OpenVINO's release, the cosines measured on export
openvino/images.xml    and images.bin: the tower and its weights in float32; likewise tokens, and edges for `cnn`
```

It belongs to the weights whose fingerprint it names, and is ignored beside any others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from structxlip.atomic_folder import new_folder
from structxlip.backends import openvino_cpu
from structxlip.backends.agreement import MIN_COSINE, batches_of, make_probes, smallest_cosine
from structxlip.backends.eager import torch_towers
from structxlip.errors import CheckpointWriteError, UnsupportedModelError

if TYPE_CHECKING:
    from structxlip.encoder import TwoViewEncoder

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
FORM_FOLDER = "openvino"
FORM_FILE = "form.json"
TowerName: TypeAlias = Literal["images", "edges", "tokens"]


class FormRecord(BaseModel):
    """What `form.json` holds.

    Attributes:
        format_version: Of the folder.
        fingerprint: Of the encoder that was converted.
        openvino: The release that converted it.
        cosines: The smallest cosine to float32 of each tower, measured on what was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    fingerprint: str
    openvino: str
    cosines: dict[TowerName, float]


def write_form(
    encoder: TwoViewEncoder, folder: Path, *, pictures: Sequence[NDArray[np.uint8]] | None = None
) -> FormRecord:
    """Convert an encoder, write the form into `folder` / `openvino` whole or not at all, and check what was written.

    Args:
        encoder: A loaded model.
        folder: Of its checkpoint.
        pictures: To check it on, uint8 `(H, W, 3)`; drawn ones unless given.

    Raises:
        ModelUnavailableError: If OpenVINO is not installed.
        UnsupportedModelError: If the model cannot be converted, or what was written is too far from the model.
        CheckpointWriteError: If the folder cannot be written.
    """
    openvino_cpu.require()
    try:
        models = openvino_cpu.convert(encoder)
    except Exception as error:
        raise UnsupportedModelError(f"OpenVINO cannot take {encoder.name}: {error}") from error
    try:
        with new_folder(folder / FORM_FOLDER) as draft:
            for name, model in models.items():
                openvino_cpu.write(model, draft / f"{name}.xml")
            record = FormRecord(
                format_version=FORMAT_VERSION,
                fingerprint=encoder.fingerprint,
                openvino=openvino_cpu.version(),
                cosines=_verified(encoder, draft, models, pictures),
            )
            (draft / FORM_FILE).write_text(record.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise CheckpointWriteError(f"{folder / FORM_FOLDER} could not be written: {error.strerror}") from error
    return record


def read_form(folder: Path, fingerprint: str) -> dict[str, openvino_cpu.ConvertedTower] | None:
    """Return the converted towers beside a model; `None`, with a line in the log, if they are not these weights'."""
    form = folder / FORM_FOLDER
    if not (form / FORM_FILE).is_file():
        return None
    try:
        written = json.loads((form / FORM_FILE).read_text(encoding="utf-8"))
        record = FormRecord.model_validate(written)
    except (OSError, ValueError, ValidationError):
        logger.warning("%s is ignored: its %s cannot be read; export it again", form, FORM_FILE)
        return None
    if record.format_version != FORMAT_VERSION:
        logger.warning("%s is ignored: format version %d, this release reads %d", form, record.format_version, 1)
        return None
    if record.fingerprint != fingerprint:
        logger.warning("%s is ignored: it was made from other weights; export it again", form)
        return None
    try:
        return {name: openvino_cpu.read(form / f"{name}.xml") for name in record.cosines}
    except (RuntimeError, OSError, ValueError):
        logger.warning("%s is ignored: a tower cannot be read; export it again", form)
        return None


def _verified(
    encoder: TwoViewEncoder, draft: Path, models: Mapping[str, Any], pictures: Sequence[NDArray[np.uint8]] | None
) -> dict[str, float]:
    probes, reference = make_probes(encoder, pictures=pictures), dict(torch_towers(encoder))
    cosines = {}
    for name in models:
        written = openvino_cpu.read(draft / f"{name}.xml")
        tower = openvino_cpu.OpenVinoTower(written.model, precision="f32", file=written.file)
        cosines[name] = smallest_cosine(tower, reference[name], batches_of(probes, name))
        if cosines[name] < MIN_COSINE["f32"]:
            raise UnsupportedModelError(
                f"the converted {name} of {encoder.name} are too far from the model: cosine {cosines[name]:.6f}, "
                f"at least {MIN_COSINE['f32']} is needed; serve it with the backend torch"
            )
    return cosines
