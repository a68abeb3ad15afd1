"""Which samples make which batch, and the workers that make them.

The order of an epoch is a function of seed and epoch, and a step's place in it of its number: a run that is
resumed in the middle of an epoch goes on with the very batch that it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from structxlip.gather import ONE_PROCESS, Ranks
from training.data.batches import Batch
from training.data.records import DataError
from training.data.samples import Sample, SampleSet

Collate = Callable[[Sequence[Sample]], Batch]


@dataclass(frozen=True)
class BatchPlan:
    """The order in which samples are seen.

    Attributes:
        num_samples: Of the source.
        batch_size: Pairs of a step, over all processes. What does not fill a batch waits for the next epoch's order.
        seed: Of the order.
    """

    num_samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < self.batch_size:
            raise DataError(
                f"the training data have {self.num_samples} usable records, fewer than one batch of {self.batch_size}: "
                "lower regime.batch_size or add data"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch."""
        return self.num_samples // self.batch_size

    def steps(self, epoch: int, *, start: int = 0, ranks: Ranks = ONE_PROCESS) -> list[list[int]]:
        """Return this process's indices for each step of an epoch, from step `start` on."""
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(self.num_samples)
        share = self.batch_size // ranks.count
        first = [step * self.batch_size + ranks.index * share for step in range(start, self.steps_per_epoch)]
        return [order[begin : begin + share].tolist() for begin in first]


def load_batches(
    samples: SampleSet, steps: Sequence[Sequence[int]], *, collate: Collate, micro_batch: int = 0, num_workers: int = 0
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step.

    Args:
        samples: By index.
        steps: The indices of each step.
        collate: Makes a batch of samples.
        micro_batch: Most pairs of a micro-batch; 0 makes one of each step.
        num_workers: Processes that work ahead; 0 works here and now.
    """
    cutter = _Cutter(collate, micro_batch)
    loader: DataLoader[Sample] = DataLoader(
        samples,  # type: ignore[arg-type]  # it has what a map-style data set needs
        batch_sampler=[list(step) for step in steps],
        collate_fn=cutter,
        num_workers=num_workers,
        # A plain fork copies locks of OpenCV's and torch's threads as they stand, and may wait for them for ever.
        multiprocessing_context="forkserver" if num_workers else None,
        worker_init_fn=_one_thread if num_workers else None,
        pin_memory=torch.cuda.is_available(),
        # The order comes from `steps`; a generator of its own keeps the loader off the run's random state.
        generator=torch.Generator(),
    )
    yield from loader


@dataclass(frozen=True)
class _Cutter:
    collate: Collate
    micro_batch: int

    def __call__(self, samples: Sequence[Sample]) -> list[Batch]:
        size = self.micro_batch or len(samples)
        return [self.collate(samples[first : first + size]) for first in range(0, len(samples), size)]


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
