"""One run of a study: trained in memory, the best validation kept, measured on its test part."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.config import TrainConfig
from training.evaluate import PairEmbeddings, best_weight, measure, metric_of, sweep, views
from training.held_out import HeldOut, embed
from training.loop import Run, assemble, embed_validation, epoch_batches, is_validation_due, take_step
from training.study.plan import RunKey
from training.study.pool import Division, Pool
from training.study.results import Ranks, RunResult

VIEWS = ("appearance", "structure", "fused")


@dataclass
class _Best:
    """The best validation so far."""

    value: float = -1.0
    epoch: int = 0
    structure_weight: float = 0.0
    weights: dict[str, Tensor] | None = None


def run_once(key: RunKey, config: TrainConfig, division: Division, pool: Pool, *, is_trained: bool = True) -> RunResult:
    """Train with one configuration on a division of the pool and measure.

    Args:
        key: Which run.
        config: What to do.
        division: Which records.
        pool: The records, and what runs share.
        is_trained: Whether to take any step; otherwise the start is measured.
    """
    begun = time.process_time()
    torch.set_num_threads(max(1, config.regime.num_threads))
    cache = pool.cache(config, division)
    run = assemble(config, pool.part_of(division.train), pool.part_of(division.val), cache)
    prepared = time.process_time()
    best = _Best()
    if is_trained:
        _train(run, best)
    else:
        _validate(run, best)
    trained = time.process_time()
    assert best.weights is not None
    run.shadow.load_state_dict(best.weights)
    test = _embedded(run, pool.held_out(config, division.test))
    short = pool.held_out_short(config)
    forgetting = {} if short is None else measure(_embedded(run, short), 0.0).summary()["text_to_image"]
    return RunResult(
        key=key,
        validation=best.value,
        epoch=best.epoch,
        structure_weight=best.structure_weight,
        metrics=_rounded(views(test, best.structure_weight)),
        ranks=_ranks(test, best.structure_weight),
        queries=hashlib.sha256("\n".join(test.keys).encode()).hexdigest()[:12],
        forgetting=_rounded(forgetting),
        seconds={
            "training": round(trained - prepared, 1),
            "all": round(time.process_time() - begun, 1),
        },
    )


def _train(run: Run, best: _Best) -> None:
    course, config = run.learner.course, run.config
    num_worse = 0
    while course.epoch < config.optimiser.epochs:
        for batches in epoch_batches(run):
            take_step(run, batches)
        course.epoch, course.step = course.epoch + 1, 0
        if is_validation_due(run):
            num_worse = 0 if _validate(run, best) else num_worse + 1
            if config.evaluation.patience and num_worse >= config.evaluation.patience:
                return


def _validate(run: Run, best: _Best) -> bool:
    """Measure on validation; keep the weights if nothing was better, and return whether that is so."""
    run.shadow.load_state_dict(run.learner.average.state_dict())
    pairs, config = embed_validation(run), run.config
    weight = best_weight(sweep(pairs, config.evaluation.num_weights)) if config.loss.is_structural else 0.0
    value = metric_of(views(pairs, weight), config.evaluation.metric)
    if value <= best.value:
        return False
    best.value, best.epoch, best.structure_weight = value, run.learner.course.epoch, weight
    best.weights = {name: tensor.detach().clone() for name, tensor in run.shadow.state_dict().items()}
    return True


def _embedded(run: Run, pairs: HeldOut) -> PairEmbeddings:
    packed = run.extract.packed and run.extract.packed.of(run.shadow.model)
    return embed(run.shadow, pairs, packed=packed)


def _ranks(pairs: PairEmbeddings, weight: float) -> Ranks:
    """Return the rank of each query; ties have their expected rank, seldom a whole number."""
    found: Ranks = {}
    for view, at in zip(VIEWS, (0.0, 1.0, weight), strict=True):
        measured = measure(pairs, at)
        found[view] = {
            "text_to_image": [_plain(rank) for rank in measured.text_to_image.rank],
            "image_to_text": [_plain(rank) for rank in measured.image_to_text.rank],
        }
    return found


def _plain(rank: float) -> float:
    return int(rank) if rank == int(rank) else round(float(rank), 2)


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    return round(tree, 3)
