"""Features of every process in one tensor, with gradients that are exact under data-parallel training.

A contrastive loss compares its own rows with the columns of all processes. `Ranks.gather` brings those
columns together, and its backward pass sums what every process says about them. Gradients are averaged over
the processes afterwards (by `DistributedDataParallel` or `Ranks.average_gradients`), so each process returns
`count · (its local sum) / (global number of samples)`: the average is then the gradient of the one-process
loss.

Every collective needs the same shapes on all processes: batches are padded and masked, never of different
length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Of gradients in one message: each message is a meeting of the processes, and takes its size in memory once more.
MESSAGE_NUMBERS = 1 << 23


@dataclass(frozen=True)
class Ranks:
    """The processes that share one batch; by default a process on its own, which talks to nobody.

    Args:
        index: Which of them this process is, 0 to `count - 1`.
        count: How many they are.
        group: Their `torch.distributed` group; None for the default one.
    """

    index: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def of_group(cls, group: Any = None) -> Ranks:
        """Return the processes of a `torch.distributed` group, or one process where none was set up."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(index=dist.get_rank(group), count=dist.get_world_size(group), group=group)

    def gather(self, local_B: Tensor) -> Tensor:
        """Return the rows of all processes, `(count · B, …)` by their index, with exact gradients."""
        if self.count == 1:
            return local_B
        gathered: Tensor = _GatherSumBackward.apply(local_B, self)
        return gathered

    def sum(self, local: Tensor) -> Tensor:
        """Return the sum over the processes of a tensor that needs no gradient, such as a count."""
        total = local.detach().clone()
        if self.count > 1:
            dist.all_reduce(total, group=self.group)
        return total

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, for loops without `DistributedDataParallel`.

        A parameter without a gradient here counts as zero, because another process may have one.
        """
        if self.count == 1:
            return
        gradients = []
        for parameter in parameters:
            if not parameter.requires_grad:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for message in messages(gradients, MESSAGE_NUMBERS):
            self._average_in_place(message)

    def _average_in_place(self, tensors: list[Tensor]) -> None:
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(joined, group=self.group)
        joined /= self.count
        pieces = torch.split(joined, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


def messages(tensors: Iterable[Tensor], most_numbers: int) -> Iterator[list[Tensor]]:
    """Put tensors of one type together, in their order, up to so many numbers; a larger one goes alone."""
    message: list[Tensor] = []
    size = 0
    for tensor in tensors:
        size += tensor.numel()
        if message and (size > most_numbers or tensor.dtype != message[0].dtype):
            yield message
            message, size = [], tensor.numel()
        message.append(tensor)
    if message:
        yield message


ONE_PROCESS = Ranks()


class _GatherSumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_B: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        ctx.num_rows = local_B.shape[0]
        pieces = [torch.empty_like(local_B, memory_format=torch.contiguous_format) for _ in range(ranks.count)]
        dist.all_gather(pieces, local_B.contiguous(), group=ranks.group)
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # Every process holds a loss that depends on our rows: their gradients add up.
        total = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.ranks.group)
        first = ctx.ranks.index * ctx.num_rows
        return total[first : first + ctx.num_rows], None
