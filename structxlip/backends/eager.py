"""The `torch` backend: an encoder's own modules, run as they are.

On a GPU pixels travel as bytes from pinned memory, so that the copy of one batch overlaps with the work on another, and
convolutions see channels last. In bf16 matrix products run under autocast and everything that is sensitive (norms, the
final normalisation) in float32, so that no second copy of the weights is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from structxlip.backends.towers import BackendName, Precision, Rows, Towers

if TYPE_CHECKING:
    from structxlip.encoder import TwoViewEncoder

# On a CPU: a line through the times of 1 and of 8 texts of 12 tokens meets zero tokens at the time of 42 (4-layer
# text tower, two busy cores, 2026-11-25). On a GPU, not measured: launching kernels is what costs there, so that a
# batch is split only when it is large.
SPARE_TOKENS_CPU, SPARE_TOKENS_GPU = 40, 4096


class TorchTower:
    """Runs a function of tensors.

    Args:
        embed: From a tensor on `device` to rows that need not be of unit length yet.
        device: As torch names it.
        precision: Of matrix products.
    """

    backend: BackendName = "torch"

    def __init__(self, embed: Callable[[Tensor], Tensor], *, device: str, precision: Precision) -> None:
        self._embed = embed
        self._device = torch.device(device)
        self.precision = precision

    @torch.inference_mode()
    def __call__(self, items: NDArray[Any]) -> Rows:
        """Embed a batch."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            rows_BD = self._embed(self._on_device(items))
        rows: Rows = F.normalize(rows_BD.float(), dim=-1).cpu().numpy()
        return rows

    def _on_device(self, items: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(items))
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def torch_towers(encoder: TwoViewEncoder, *, precision: Precision = "f32") -> Towers:
    """Return towers that run the encoder's own modules, with whatever weights these have when called."""

    def tower(embed: Callable[[Tensor], Tensor]) -> TorchTower:
        return TorchTower(embed, device=encoder.device, precision=precision)

    is_gpu = torch.device(encoder.device).type == "cuda"
    return Towers(
        images=tower(encoder.embed_rgb),
        edges=tower(encoder.embed_edges),
        tokens=tower(encoder.embed_tokens),
        spare_tokens=SPARE_TOKENS_GPU if is_gpu else SPARE_TOKENS_CPU,
    )
