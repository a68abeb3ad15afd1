"""Tables most of whose rows are zero, stored without those rows.

A text tower trained from nothing on a small vocabulary keeps the vectors of words that it never met at zero: of CLIP's
49,408 rows a few hundred are used, and the rest would be most of the checkpoint.

In the file, a table ``name`` becomes ``name.rows`` (int32, which rows are kept, rising) and ``name.kept`` (those rows).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ROWS, KEPT = ".rows", ".kept"
MIN_ZERO_SHARE = 0.5


def without_zero_rows(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with each matrix of mostly zero rows replaced by its other rows and their places."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        is_kept = (tensor != 0).any(dim=1) if tensor.ndim == 2 else None
        if is_kept is None or 1 - float(is_kept.float().mean()) < MIN_ZERO_SHARE:
            packed[name] = tensor
            continue
        rows = is_kept.nonzero()[:, 0]
        packed[name + ROWS] = rows.to(torch.int32)
        packed[name + KEPT] = tensor[rows].contiguous()
    return packed


def with_zero_rows(packed: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `without_zero_rows`.

    Args:
        packed: As read from the file.
        like: Tensors of the shapes that are wanted, by name.

    Raises:
        RuntimeError: If rows lie outside their table or do not belong to one.
    """
    state = {name: tensor for name, tensor in packed.items() if not name.endswith((ROWS, KEPT))}
    for name in sorted({name.removesuffix(ROWS).removesuffix(KEPT) for name in packed} - set(state)):
        rows, kept, table = packed.get(name + ROWS), packed.get(name + KEPT), like.get(name)
        if (
            rows is None
            or kept is None
            or table is None
            or rows.ndim != 1
            or kept.shape != (len(rows), *table.shape[1:])
        ):
            raise RuntimeError(f"the rows of {name} do not fit a table of the model")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
            raise RuntimeError(f"{name} has rows up to {int(rows.max())}, the model's table has {len(table)}")
        state[name] = torch.zeros(table.shape, dtype=kept.dtype).index_copy_(0, rows.long(), kept)
    return state
