"""Pairs of pictures and captions: where they come from, what is wrong with them, and how they become batches.

```
sources      manifest, folder, shards, scenes  →  RawPair (pixels, captions, boxes)
validation   reads every record once and reports what is missing, unreadable, empty or duplicated
appearance   how much of the captions their structural text leaves out
samples      RawPair → Sample: augmentation, edges, regions, tokens, chunk spans, in the workers
sketches     hand-like drawings of pictures, to learn from and to be judged by
batches      samples → one Batch of fixed shapes and masks
loading      which samples make which batch: a function of seed, epoch and step
```
"""

from training.data.appearance import AppearanceShare, appearance_share
from training.data.batches import Batch, collate
from training.data.loading import BatchPlan, load_batches
from training.data.records import DataError, PairSource, RawPair
from training.data.samples import Sample, SampleMaker
from training.data.sources import open_source
from training.data.validation import ValidationReport, validated

__all__ = [
    "AppearanceShare",
    "Batch",
    "BatchPlan",
    "DataError",
    "PairSource",
    "RawPair",
    "Sample",
    "SampleMaker",
    "ValidationReport",
    "appearance_share",
    "collate",
    "load_batches",
    "open_source",
    "validated",
]
