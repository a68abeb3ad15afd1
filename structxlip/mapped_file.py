"""A file as memory that can be given back: its pages are read when they are used, let go, and read again.

A model that another backend executes has its weights twice: OpenVINO packs them anew and keeps the originals, which it
hardly reads again. Originals that lie in a mapped file need not stay in memory for that.

The file must stay as it is meanwhile. One that is put in its place by renaming does no harm, as with `save_checkpoint`;
writing over it changes the weights under whoever uses them, and cutting it short ends the process.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

# How safetensors names what is taken from the file as it is.
MAPPED_TYPE = "F32"


class MappedFile:
    """A file's bytes; what is written into them reaches nobody else.

    Args:
        path: Of a file that is not empty.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is empty.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # Private and writable: torch and OpenVINO warn of, or refuse, memory that they could not write into.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    @property
    def content(self) -> NDArray[np.uint8]:
        """All bytes, in place."""
        return np.frombuffer(self._map, dtype=np.uint8)

    def let_go(self) -> None:
        """Give the memory back until it is used again; what was written into it is lost.

        Where the system has no call for it (Windows), nothing happens.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def map_tensors(path: Path) -> tuple[dict[str, Tensor], MappedFile]:
    """Return the tensors of a safetensors file, those in single precision in place, and the file.

    Raises:
        OSError: If it cannot be read.
        SafetensorError: If it is no such file.
    """
    tensors = load_file(path)  # checks it; nothing is read of a tensor before it is used
    file = MappedFile(path)
    header_end = 8 + int.from_bytes(file.content[:8].tobytes(), "little")
    header = json.loads(file.content[8:header_end].tobytes())
    for name in tensors:
        told = header[name]
        if told["dtype"] == MAPPED_TYPE and tensors[name].numel():
            begin, end = (header_end + offset for offset in told["data_offsets"])
            tensors[name] = torch.from_numpy(file.content[begin:end]).view(torch.float32).view(told["shape"])
    return tensors, file


def use_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make these tensors a module's weights; those of another type or layout than its own are copied.

    Raises:
        RuntimeError: If a weight is missing, left over, or has another shape.
    """
    own: dict[str, Any] = module.state_dict()
    fitting = {name: _as(tensor, own[name]) if name in own else tensor for name, tensor in tensors.items()}
    module.load_state_dict(fitting, strict=True, assign=True)


def _as(tensor: Tensor, own: Tensor) -> Tensor:
    if tensor.shape != own.shape or (tensor.dtype, tensor.stride()) == (own.dtype, own.stride()):
        return tensor
    return torch.empty_like(own).copy_(tensor)
