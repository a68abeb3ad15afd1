from __future__ import annotations

import multiprocessing
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from structxlip.gather import ONE_PROCESS, Ranks, messages
from structxlip.gradcache import gradcache_step
from structxlip.losses import LogitScale, consistency_loss, local_alignment_loss, masked_contrastive_loss

NUM_PAIRS, NUM_CHUNKS, NUM_REGIONS, DIMENSION = 8, 12, 3, 6
POSITIVES = ("owner", "hard", "soft")


class Model(nn.Module):
    """Embeds everything, and owns the scales."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(DIMENSION, DIMENSION)
        self.right = nn.Linear(DIMENSION, DIMENSION)
        self.scale, self.local_scale = LogitScale(8.0), LogitScale(4.0)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "query": self.left(batch["query"]),
            "key": self.right(batch["key"]),
            "chunks": self.left(batch["chunks"]),
            "regions": self.right(batch["regions"]),
            "scale": self.scale(),
            "local_scale": self.local_scale(),
        }


def make_model() -> Model:
    torch.manual_seed(0)
    return Model().double()


def make_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    region_valid = torch.rand(NUM_PAIRS, NUM_REGIONS, generator=generator) < 0.6
    region_valid[3] = False
    return {
        "query": draw(NUM_PAIRS, DIMENSION),
        "key": draw(NUM_PAIRS, DIMENSION),
        "chunks": draw(NUM_CHUNKS, DIMENSION),
        "regions": draw(NUM_PAIRS, NUM_REGIONS, DIMENSION),
        # With four processes the third has no valid pair at all, and the last but one chunk.
        "valid": torch.tensor([True, True, True, False, False, False, False, True]),
        "meaning": torch.tensor([5, 6, 5, 7, 7, 8, 9, 6]),
        "owner": torch.tensor([0, 0, 1, 2, 2, 3, 4, 4, 5, 7, -1, -1]),
        "region_valid": region_valid,
    }


def share_of(batch: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Cut out one process's pairs, with their chunks padded to one length on all processes."""
    size = NUM_PAIRS // ranks.count
    first = ranks.index * size
    share = {name: tensor[first : first + size] for name, tensor in batch.items()}
    mine = (batch["owner"] >= first) & (batch["owner"] < first + size)
    rows = torch.full((NUM_CHUNKS,), -1)
    rows[: int(mine.sum())] = batch["owner"][mine] - first
    chunks = torch.zeros(NUM_CHUNKS, DIMENSION, dtype=torch.float64)
    chunks[: int(mine.sum())] = batch["chunks"][mine]
    return share | {"owner": rows, "chunks": chunks}


def total_loss(embedded: dict[str, Tensor], batch: dict[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    query, key, valid = embedded["query"], embedded["key"], batch["valid"]
    losses = {
        "contrastive": masked_contrastive_loss(
            query,
            key,
            logit_scale=embedded["scale"],
            valid_B=valid,
            meaning_B=batch["meaning"],
            hard_negative_margin=0.5,
            margin_features=key,
            ranks=ranks,
        ),
        "consistency": consistency_loss(query, key, valid, stop_gradient=False, ranks=ranks),
    }
    for positives in POSITIVES:
        losses[f"local, {positives}"] = local_alignment_loss(
            embedded["chunks"],
            batch["owner"],
            embedded["regions"],
            batch["region_valid"],
            scale=embedded["local_scale"],
            positives=positives,  # type: ignore[arg-type]
            ranks=ranks,
        )
    return losses


def loss_and_gradients(ranks: Ranks, *, wrapped: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = make_model()
    batch = share_of(make_batch(), ranks)
    runner = DistributedDataParallel(model) if wrapped else model
    losses = total_loss(runner(batch), batch, ranks)
    torch.stack(list(losses.values())).sum().backward()
    if not wrapped:
        ranks.average_gradients(model.parameters())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def cached_loss_and_gradients(ranks: Ranks) -> tuple[Tensor, dict[str, Tensor]]:
    """The contrastive loss by GradCache, in two micro-batches on every process."""
    model = make_model()
    batch = share_of(make_batch(), ranks)
    half = NUM_PAIRS // ranks.count // 2
    value = gradcache_step(
        model,
        list(zip(batch["query"].split(half), batch["key"].split(half), strict=True)),
        encode=lambda part: {"query": model.left(part[0]), "key": model.right(part[1])},
        loss=lambda e: masked_contrastive_loss(
            e["query"], e["key"], logit_scale=model.scale(), valid_B=batch["valid"], ranks=ranks
        ),
    )
    used = [*model.left.parameters(), *model.right.parameters(), *model.scale.parameters()]
    ranks.average_gradients(used)
    return value, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def work(index: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=index,
        world_size=count,
        timeout=timedelta(seconds=120),
    )
    ranks = Ranks.of_group()
    results = {
        "ranks": (ranks.index, ranks.count),
        "wrapped": loss_and_gradients(ranks, wrapped=True),
        "bare": loss_and_gradients(ranks, wrapped=False),
        "cached": cached_loss_and_gradients(ranks),
    }
    torch.save(results, Path(folder) / f"{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 4])
def results(request: pytest.FixtureRequest) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        # One server imports torch, and each process is a fork of it: several times faster than one import each.
        multiprocessing.set_forkserver_preload(["torch.distributed", "structxlip.gradcache", "structxlip.losses"])
        mp.start_processes(work, args=(request.param, folder), nprocs=request.param, start_method="forkserver")
        return [torch.load(Path(folder) / f"{index}.pt") for index in range(request.param)]


def test_every_process_knows_its_place(results: list[dict[str, object]]) -> None:
    assert [result["ranks"] for result in results] == [(i, len(results)) for i in range(len(results))]


@pytest.mark.parametrize("way", ["wrapped", "bare"])
def test_unequal_masks_on_several_processes_give_the_loss_and_gradients_of_one(
    way: str, results: list[dict[str, object]]
) -> None:
    expected_losses, expected_gradients = loss_and_gradients(ONE_PROCESS, wrapped=False)
    for name, expected in expected_losses.items():
        shares = [result[way][0][name] for result in results]  # type: ignore[index]
        assert float(expected) > 0
        torch.testing.assert_close(torch.stack(shares).mean(), expected, rtol=0, atol=1e-6)
    for result in results:
        torch.testing.assert_close(result[way][1], expected_gradients, rtol=0, atol=1e-6)  # type: ignore[index]
    assert all(gradient.abs().max() > 1e-3 for gradient in expected_gradients.values())


def test_gradcache_on_several_processes_gives_the_gradients_of_one(results: list[dict[str, object]]) -> None:
    value, gradients = cached_loss_and_gradients(ONE_PROCESS)
    for result in results:
        torch.testing.assert_close(result["cached"][1], gradients, rtol=0, atol=1e-6)  # type: ignore[index]
    shares = [result["cached"][0] for result in results]  # type: ignore[index]
    torch.testing.assert_close(torch.stack(shares).mean(), value, rtol=0, atol=1e-6)


def test_without_a_process_group_there_is_one_process_that_talks_to_nobody() -> None:
    ranks = Ranks.of_group()
    rows = torch.ones(2, 3, requires_grad=True)
    assert ranks == ONE_PROCESS
    assert ranks.gather(rows) is rows
    assert ranks.sum(torch.tensor(3)) == 3


def test_gradients_go_in_messages_of_one_type_and_a_bounded_size() -> None:
    sizes = [3, 4, 1, 20, 2, 2, 5]
    types = [torch.float32] * 5 + [torch.float64] * 2
    tensors = [torch.zeros(size, dtype=kind) for size, kind in zip(sizes, types, strict=True)]
    found = list(messages(tensors, 8))
    assert [[len(tensor) for tensor in message] for message in found] == [[3, 4, 1], [20], [2], [2, 5]]
    assert [id(tensor) for message in found for tensor in message] == [id(tensor) for tensor in tensors]
    assert list(messages([], 8)) == []
