"""The records of a study, how they are divided, and what its runs share because it never changes.

Shapes: `N` records of the pool, `F` variants of each (as it is, mirrored), `K` regions, `S` side.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from structxlip.encoder import TwoViewEncoder
from structxlip.regions import build_region_proposer
from training.config import AugmentationConfig, TrainConfig
from training.convolutions import suit_cpu
from training.data import PairSource, open_source
from training.data.samples import PictureCache, PictureSample, SampleMaker, TextCache, mirrored
from training.data.sources import FileSource
from training.freezing import num_frozen_layers
from training.frozen import FrozenFeatures, keep_features, split_image_tower
from training.held_out import HeldOut, hold_out
from training.loop import RunCache, sample_maker
from training.start import start_encoder
from training.study.plan import Part
from training.texts import Ids

FOLD_SEED = 20260101


@dataclass(frozen=True)
class Division:
    """Places of the records of a run in the pool, each in the pool's order."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


@dataclass
class Pool:
    """All records of a study.

    Attributes:
        records: Training, validation and test records together.
        short: The short captions of the forgetting check, if there are any.
        folder: Where features and regions are kept.
    """

    records: FileSource
    short: PairSource | None
    folder: Path
    given: Division
    _encoders: dict[str, TwoViewEncoder] = field(default_factory=dict)
    _features: dict[str, FrozenFeatures] = field(default_factory=dict)
    _pictures: dict[str, PictureCache] = field(default_factory=dict)
    _texts: dict[str, TextCache] = field(default_factory=dict)
    _token_features: dict[str, dict[Ids, Tensor]] = field(default_factory=dict)
    _held_out: dict[str, HeldOut] = field(default_factory=dict)

    def divided(self, part: Part, fold: int) -> Division:
        """Return the records of a run."""
        if part.kind == "given":
            return self.given
        order = np.random.default_rng(FOLD_SEED).permutation(len(self.records))
        test = order[fold :: part.num_folds]
        rest = order[~np.isin(order, test)]
        return Division(*(tuple(sorted(rows.tolist())) for rows in (rest[part.num_val :], rest[: part.num_val], test)))

    def part_of(self, rows: tuple[int, ...]) -> FileSource:
        """Return some of the records as a source."""
        chosen = set(rows)
        return self.records.without(index for index in range(len(self.records)) if index not in chosen)

    def cache(self, config: TrainConfig, division: Division) -> RunCache:
        """Return what a run starts with."""
        encoder = self._encoder(config)
        features = self._of_records(config, encoder)
        return RunCache(
            pictures=self._pictures_for(config, encoder) if config.loss.is_structural else {},
            texts=self._texts.setdefault(_text_key(config), {}),
            features=_rows(features, division.train) if features is not None else None,
            held_out=self.held_out(config, division.val),
            token_features=self._token_features.setdefault(_token_key(config), {}),
        )

    def held_out(self, config: TrainConfig, rows: tuple[int, ...]) -> HeldOut:
        """Return some records prepared for measuring."""
        encoder = self._encoder(config)
        key = _digest(rows, _text_key(config), _tower_key(config))
        if key not in self._held_out:
            features = self._of_records(config, encoder)
            kept = None if features is None else _rows(features, rows)
            num_frozen = num_frozen_layers(encoder.model, config.freezing)
            self._held_out[key] = hold_out(encoder, self.part_of(rows), kept=kept, num_frozen=num_frozen)
        return self._held_out[key]

    def held_out_short(self, config: TrainConfig) -> HeldOut | None:
        """Return the short captions prepared for measuring."""
        encoder = self._encoder(config)
        if self.short is None:
            return None
        key = _digest("short", _text_key(config), _tower_key(config))
        if key not in self._held_out:
            features = self._features_of(config, encoder, self.short, "short", is_mirrored=False)
            num_frozen = num_frozen_layers(encoder.model, config.freezing)
            self._held_out[key] = hold_out(encoder, self.short, kept=features, num_frozen=num_frozen)
        return self._held_out[key]

    def _encoder(self, config: TrainConfig) -> TwoViewEncoder:
        """Return the start of a run: it prepares pictures and texts, and its frozen layers are those of the run."""
        key = _digest(asdict(config.model))
        if key not in self._encoders:
            self._encoders[key] = start_encoder(config.model)
            suit_cpu(self._encoders[key].model)
        return self._encoders[key]

    def _of_records(self, config: TrainConfig, encoder: TwoViewEncoder) -> FrozenFeatures | None:
        # Both as they are and mirrored, so that arms that mirror and arms that do not share them.
        return self._features_of(config, encoder, self.records, "records", is_mirrored=True)

    def _features_of(
        self, config: TrainConfig, encoder: TwoViewEncoder, source: PairSource, name: str, *, is_mirrored: bool
    ) -> FrozenFeatures | None:
        if not config.freezing.cache_folder:
            return None
        key = _digest(name, is_mirrored, _tower_key(config), config.loss.sketch > 0)
        if key not in self._features:
            split = split_image_tower(encoder.model, num_frozen_layers(encoder.model, config.freezing))
            maker = replace(
                sample_maker(config, encoder), augmentation=AugmentationConfig(flip=is_mirrored), regions=None
            )
            self._features[key] = keep_features(self.folder, encoder, split, source, maker)
        return self._features[key]

    def _pictures_for(self, config: TrainConfig, encoder: TwoViewEncoder) -> PictureCache:
        """Return edges and regions of every record, and colours where no features of them are kept.

        A run without regions ignores them.
        """
        regions, edges = config.loss.regions, encoder.edge_detector.config()
        drawn = ["drawn"] if config.loss.sketch else []
        key = _digest(regions, edges, True, self.records.digest, encoder.image_size, *drawn)
        if key not in self._pictures:
            path = self.folder / f"regions-{key}.npz"
            if not path.is_file():
                _write_pictures(path, config, encoder, self.records)
            self._pictures[key] = _read_pictures(path, self.records, encoder.image_size)
        if config.freezing.cache_folder:
            return self._pictures[key]
        coloured = f"{key}, coloured"
        if coloured not in self._pictures:
            self._pictures[coloured] = _with_colours(self._pictures[key], self.records, sample_maker(config, encoder))
        return self._pictures[coloured]


def open_pool(config: TrainConfig, folder: Path) -> Pool:
    """Open the records that a configuration names as train, val and test, as one pool."""
    named = (config.data.train, config.data.val, next(iter(config.data.test.values())))
    sources = [open_source(source, image_size=0) for source in named]
    everything = open_source(replace(config.data.train, split=""), image_size=0)
    assert isinstance(everything, FileSource)
    place = {everything.key(index): index for index in range(len(everything))}
    rows = [tuple(sorted(place[s.key(index)] for index in range(len(s)))) for s in sources]
    short = None if config.data.forgetting is None else open_source(config.data.forgetting, image_size=0)
    folder.mkdir(parents=True, exist_ok=True)
    return Pool(everything, short, folder, Division(*rows))


def _rows(features: FrozenFeatures, rows: tuple[int, ...]) -> FrozenFeatures:
    chosen = list(rows)
    of_maps = (None if table is None else table[chosen] for table in (features.edges, features.sketches))
    return FrozenFeatures(features.rgb[chosen], *of_maps)


def _write_pictures(path: Path, config: TrainConfig, encoder: TwoViewEncoder, source: PairSource) -> None:
    maker = replace(sample_maker(config, encoder), regions=build_region_proposer(config.loss.regions))
    edges, boxes, valid, sketches = [], [], [], []
    for index in range(len(source)):
        pair = source.read(index)
        for is_mirrored in (False, True):
            seen = maker.seen(pair, is_mirrored=is_mirrored)
            edges.append(seen.edges)
            boxes.append(seen.boxes)
            valid.append(seen.box_valid)
            sketches.append(seen.sketches)
    draft = path.with_name(f".{path.name}")
    # As bits, a map of black and white takes an eighth.
    is_binary = all(np.isin(map_, (0, 255)).all() for map_ in edges)
    kept = np.stack([np.packbits(map_ > 0) if is_binary else map_ for map_ in edges])
    np.savez(draft, edges=kept, boxes=np.stack(boxes), valid=np.stack(valid), sketches=np.stack(sketches))
    draft.replace(path)


def _read_pictures(path: Path, source: PairSource, side: int) -> PictureCache:
    """Return pictures without colours, which runs from kept features do not look at."""
    with np.load(path) as kept:
        edges, boxes, valid = (kept[name] for name in ("edges", "boxes", "valid"))
        sketches = kept.get("sketches", np.zeros((len(edges), 0, side, side), dtype=np.uint8))
    pictures: PictureCache = {}
    for row in range(len(edges)):
        if edges.ndim == 3:
            lines = edges[row]
        else:
            lines = np.unpackbits(edges[row], count=side * side).reshape(side, side) * np.uint8(255)
        name = (source.key(row // 2), bool(row % 2))
        pictures[name] = PictureSample(None, lines, boxes[row], valid[row], sketches[row])
    return pictures


def _with_colours(pictures: PictureCache, source: PairSource, maker: SampleMaker) -> PictureCache:
    """Return the same with the pictures themselves."""
    coloured: PictureCache = {}
    for pair in map(source.read, range(len(source))):
        for is_mirrored, seen in ((False, pair), (True, mirrored(pair))):
            name = (pair.key, is_mirrored)
            coloured[name] = replace(pictures[name], rgb=maker.preprocessing.resize(seen.rgb))
    return coloured


def _text_key(config: TrainConfig) -> str:
    loss, augmentation = config.loss, config.data.augmentation
    return _digest(
        augmentation.drop_phrases,
        augmentation.dropped_from,
        config.model.start,
        config.model.captions,
        config.model.context_length,
        loss.local > 0,
        loss.local_text,
    )


def _token_key(config: TrainConfig) -> str:
    freezing = config.freezing
    layers = (freezing.mode, freezing.last_layers, freezing.text_layers, freezing.train_text)
    return _digest(config.model.start, config.model.context_length, layers)


def _tower_key(config: TrainConfig) -> str:
    freezing, model = config.freezing, config.model
    return _digest(
        model.start, model.edges, model.edge_branch, freezing.mode, freezing.last_layers, freezing.cache_folder
    )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
