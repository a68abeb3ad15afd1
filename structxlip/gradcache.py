"""A contrastive batch larger than the device's memory, with the gradients of the whole batch.

A contrastive loss needs every embedding of the batch, but the activations behind them only a few at a time.
So: embed all micro-batches without a graph, take the loss and its gradient with respect to the *embeddings*,
    then embed each micro-batch
again, with a graph, and send its slice of that gradient back (Gao et al. 2021, arXiv:2101.06983). This costs
a second forward pass; the gradients equal those of one large batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

MicroBatch = TypeVar("MicroBatch")
Embeddings = Mapping[str, Tensor]


def gradcache_step(
    model: nn.Module,
    micro_batches: Sequence[MicroBatch],
    *,
    encode: Callable[[MicroBatch], Embeddings],
    loss: Callable[[Embeddings], Tensor],
) -> Tensor:
    """Add a whole batch's gradients to the parameters, holding the activations of one micro-batch at a time.

    Args:
        model: What `encode` runs. Its buffers (running statistics) move once, and its dropout is the same
            both times.
        micro_batches: The batch in pieces, 1 or more.
        encode: Embeds a piece: named tensors, each with its rows first. Names must be the same for all
            pieces.
        loss: The loss of the whole batch, from the pieces' tensors laid end to end by name. Its own
            parameters, such as a scale, receive their gradients too.

    Returns:
        The loss, detached.

    Raises:
        ValueError: If there is no micro-batch, or the pieces differ in their names.
    """
    if not micro_batches:
        raise ValueError("gradcache_step needs at least one micro-batch, got none")
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    random_states, pieces = [], []
    for micro_batch in micro_batches:
        random_states.append(_RandomState())
        with torch.no_grad():
            pieces.append({name: tensor.detach() for name, tensor in encode(micro_batch).items()})
    # Not needed with torch 2.15. Earlier autocast keeps weights that it cast without a graph, and the second pass
    # would then send them no gradient.
    torch.clear_autocast_cache()
    value, gradients = _loss_and_gradients(pieces, loss)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    # The last piece leaves the generators where the first pass left them: the next step draws other numbers.
    for index, micro_batch in enumerate(micro_batches):
        random_states[index].restore()
        _send_back(encode(micro_batch), gradients[index])
    return value


class _RandomState:
    """The random generators of the CPU and of every CUDA device in use, as they are now."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        is_cuda_in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if is_cuda_in_use else []

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def _loss_and_gradients(
    pieces: Sequence[Embeddings], loss: Callable[[Embeddings], Tensor]
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    names = pieces[0].keys()
    if any(piece.keys() != names for piece in pieces):
        raise ValueError(
            f"every micro-batch must give the embeddings {sorted(names)}, got {[sorted(p) for p in pieces]}"
        )
    with torch.enable_grad():
        whole = {name: torch.cat([piece[name] for piece in pieces]) for name in names}
        for tensor in whole.values():
            tensor.requires_grad_(tensor.is_floating_point())
        value = loss(whole)
        value.backward()  # type: ignore[no-untyped-call]
    gradients: list[dict[str, Tensor]] = [{} for _ in pieces]
    for name, tensor in whole.items():
        if tensor.grad is None:  # the loss does not depend on it
            continue
        for gradient, part in zip(gradients, torch.split(tensor.grad, [len(p[name]) for p in pieces]), strict=True):
            gradient[name] = part
    return value.detach(), gradients


def _send_back(embeddings: Embeddings, gradients: Mapping[str, Tensor]) -> None:
    names = [name for name in gradients if embeddings[name].requires_grad]  # a frozen tower's do not
    if names:
        torch.autograd.backward([embeddings[name] for name in names], [gradients[name] for name in names])
