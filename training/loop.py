"""The training loop, read top to bottom: `train` is the whole of it.

A run can be stopped at any moment (Ctrl-C, `kill -9`, a full disk, a loss that is no number) and taken up by the same
command; on the CPU it then ends in the very weights of a run that was never stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from structxlip.captions.chunks import WindowChunker
from structxlip.checkpoint import Provenance, save_checkpoint
from structxlip.encoder import TwoViewEncoder
from structxlip.gather import ONE_PROCESS, Ranks
from structxlip.gradcache import gradcache_step
from structxlip.losses import LogitScale, LossTerms, LossWeights, bounded_scale
from structxlip.models import resolve_device
from structxlip.regions import build_region_proposer
from structxlip.tokenizer import PADDING
from training.config import AugmentationConfig, TrainConfig, TrainingConfigError
from training.convolutions import suit_cpu
from training.data import (
    Batch,
    BatchPlan,
    PairSource,
    SampleMaker,
    appearance_share,
    collate,
    load_batches,
    open_source,
    validated,
)
from training.data.samples import PictureCache, SampleSet, TextCache, with_sides_swapped
from training.evaluate import PairEmbeddings, best_weight, embed_pairs, metric_of, sweep, views
from training.features import FeatureExtractor
from training.freezing import freeze, num_frozen_layers, num_frozen_text_layers, set_training
from training.frozen import FrozenFeatures, keep_features, split_image_tower
from training.held_out import HeldOut, embed, hold_out
from training.logs import RunLog, say
from training.objective import Objective, values_of, weight_schedule
from training.optimisation import (
    MovingAverage,
    NamedParameter,
    build_optimiser,
    learning_rate,
    set_learning_rate,
    trained_parameters,
)
from training.precision import TOLD_WITHOUT_BFLOAT16, computes_bfloat16, mixed_precision
from training.start import rebuilt, span_finder, start_encoder, words_with_vectors
from training.state import Course, Learner, load_state, read_state, save_state
from training.texts import Ids, PackedTower, is_packable
from training.used_tokens import learn_used_tokens

BEST, LAST = "best", "last"


class TrainingStoppedError(RuntimeError):
    """A run that cannot go on; the message says where it stands and what to do."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: With logs, state and checkpoints.
        is_finished: Whether it came to its end, or was interrupted and can be taken up.
        course: How far it came.
    """

    folder: Path
    is_finished: bool
    course: Course


@dataclass
class RunCache:
    """What is made once and used in every epoch, or by several runs over the same records.

    Attributes:
        pictures: Prepared pictures; none are kept where left out.
        texts: Prepared texts; likewise.
        features: Features of the frozen layers of the image tower for each training record.
        held_out: The validation pairs, prepared.
        token_features: Features of the frozen layers of the text tower, by text.
    """

    pictures: PictureCache | None = None
    texts: TextCache | None = None
    features: FrozenFeatures | None = None
    held_out: HeldOut | None = None
    token_features: dict[Ids, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """The parts of a run, none of which is replaced while it goes."""

    config: TrainConfig
    ranks: Ranks
    train_source: PairSource
    val_source: PairSource
    maker: SampleMaker
    plan: BatchPlan
    learner: Learner
    parameters: list[NamedParameter]
    extract: FeatureExtractor
    objective: Objective
    shadow: TwoViewEncoder
    cache: RunCache

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(self.config.saving.run_folder)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.plan.steps_per_epoch * self.config.optimiser.epochs


def train(config: TrainConfig, *, ranks: Ranks = ONE_PROCESS) -> RunResult:
    """Run a configuration from where its folder stands to its end.

    Args:
        config: The run.
        ranks: The processes that share it; all of them call this.

    Raises:
        TrainingStoppedError: If a loss or gradient is not a number; weights and state are those before that step.
        DataError: If the data have faults and `data.on_bad_record` is `fail`.
        ModelError: If the model cannot be built, or a checkpoint not written.
    """
    run = prepare(config, ranks)
    course = run.learner.course
    with (
        RunLog(run.folder, resumed_at=course.total_steps, is_quiet=ranks.index > 0) as log,
        _interruptions() as interrupted,
    ):
        log.say(
            f"{config.name}: {len(run.train_source)} pairs, {run.num_steps} steps, {_num_weights(run)} weights learn"
        )
        if config.loss.reads_structural_text and not ranks.index:
            log.say(appearance_share(run.train_source, run.learner.encoder.caption_filter).told())
        if course.total_steps:
            log.say(f"going on after step {course.total_steps}")
        if _forgets_statistics(run):
            log.say(
                "note: this pretrained tower normalises batches, and freezing.running_statistics: learn moves what it "
                "normalises with; where recall falls at once, take keep"
            )
        if config.regime.amp == "bf16" and not computes_bfloat16(run.learner.encoder.device):
            log.say(f"note: {TOLD_WITHOUT_BFLOAT16}")
        while course.epoch < config.optimiser.epochs and not course.is_finished:
            clock = _Clock(config.regime.batch_size)
            for batches in epoch_batches(run):
                values = take_step(run, batches)
                log.step(course.total_steps, run.num_steps, {**values, "img_per_s": clock.rate()})
                if interrupted.is_set(ranks, run.learner.encoder.device):
                    save_state(run.folder, run.learner, config.to_dict(), ranks)
                    log.say(f"interrupted after step {course.total_steps}: saved, the same command goes on from here")
                    return RunResult(run.folder, is_finished=False, course=course)
                if config.saving.every_steps and course.total_steps % config.saving.every_steps == 0:
                    save_state(run.folder, run.learner, config.to_dict(), ranks)
            course.epoch, course.step = course.epoch + 1, 0
            if is_validation_due(run):
                validate(run, log)
            course.is_finished = _is_over(run)
            save_state(run.folder, run.learner, config.to_dict(), ranks)
        if not ranks.index and course.best is not None:
            log.say(f"done: best {config.evaluation.metric} {course.best:.2f} after epoch {course.best_epoch}")
    return RunResult(run.folder, is_finished=True, course=course)


def prepare(config: TrainConfig, ranks: Ranks = ONE_PROCESS) -> Run:
    """Check the data, build the model, and take up the state of the run if it has one."""
    _check(config, ranks)
    if config.regime.num_threads:
        torch.set_num_threads(config.regime.num_threads)
    Path(config.saving.run_folder).mkdir(parents=True, exist_ok=True)
    image_size = _image_size(config, _device(config, ranks))
    train_source, val_source = (_open(config, name, image_size, ranks) for name in ("train", "val"))
    keeps = config.data.cache == "memory"
    run = assemble(config, train_source, val_source, RunCache({}, {}) if keeps else RunCache(), ranks)
    load_state(run.folder, run.learner, ranks)
    return run


def assemble(
    config: TrainConfig,
    train_source: PairSource,
    val_source: PairSource,
    cache: RunCache,
    ranks: Ranks = ONE_PROCESS,
) -> Run:
    """Build the model and everything else that a run over these sources needs, at its very start."""
    device = _device(config, ranks)
    torch.manual_seed(config.seed)
    encoder = start_encoder(config.model, device=device, source=train_source)
    encoder.model.to(memory_format=torch.channels_last)
    if device == "cpu":
        suit_cpu(encoder.model)
    freeze(encoder, config.freezing)
    maker = sample_maker(config, encoder)
    if config.freezing.used_tokens_only:
        learn_used_tokens(encoder.model, _training_ids(config, encoder, train_source, maker))
    local_scale = LogitScale(config.loss.local_scale).to(device)
    local_scale.requires_grad_(config.loss.local > 0)
    parameters = trained_parameters(encoder, local_scale, config.optimiser)
    learner = Learner(
        encoder,
        local_scale,
        build_optimiser(parameters, config.optimiser),
        MovingAverage(encoder, config.optimiser.ema_decay),
    )
    # The same start in every process, but other draws of dropout.
    torch.manual_seed(config.seed + 1 + ranks.index)
    return Run(
        config=config,
        ranks=ranks,
        train_source=train_source,
        val_source=val_source,
        maker=maker,
        plan=BatchPlan(len(train_source), config.regime.batch_size, config.seed),
        learner=learner,
        parameters=parameters,
        extract=_extractor(config, encoder, train_source, maker, cache, ranks),
        objective=Objective(encoder, local_scale, config.loss, ranks),
        shadow=rebuilt(encoder),
        cache=cache,
    )


def take_step(run: Run, batches: Sequence[Batch]) -> dict[str, float]:
    """Move the weights once and return what there is to log.

    Raises:
        TrainingStoppedError: If the loss or a gradient is not a number; the weights stay as they were.
    """
    config, learner, course = run.config, run.learner, run.learner.course
    device = learner.encoder.device
    batches = [batch.to(device) for batch in batches]
    weights = weight_schedule(config.loss).at(course.total_steps / run.num_steps)
    lr = learning_rate(config.optimiser, course.total_steps, run.num_steps)
    set_learning_rate(learner.optimiser, lr)
    set_training(learner.encoder, True, keeps_statistics=config.freezing.running_statistics == "keep")

    learner.optimiser.zero_grad(set_to_none=True)
    loss, terms = add_gradients(run, batches, weights)
    run.ranks.average_gradients(known.parameter for known in run.parameters)
    norm = _clip(run)
    _require_finite(run, batches, loss, norm)
    learner.optimiser.step()
    learner.average.update()

    course.step += 1
    course.total_steps += 1
    shares = {"loss": float(loss), **values_of(terms)}
    # Each process holds its share of every loss; their mean is the loss of the whole batch.
    told = run.ranks.sum(torch.tensor(list(shares.values()), device=device)) / run.ranks.count
    return {
        "epoch": course.epoch,
        **dict(zip(shares, told.tolist(), strict=True)),
        "lr": lr,
        "grad_norm": float(norm),
        "logit_scale": float(bounded_scale(torch.as_tensor(learner.encoder.model.logit_scale).detach())),
    }


def add_gradients(run: Run, batches: Sequence[Batch], weights: LossWeights) -> tuple[Tensor, LossTerms]:
    """Add the gradients of the whole batch to the parameters; one micro-batch needs no second pass."""
    parts: dict[str, LossTerms] = {}

    def loss_of(features: Mapping[str, Tensor]) -> Tensor:
        parts["terms"] = run.objective.terms(features, batches)
        return run.objective.total(parts["terms"], weights)

    def encode(batch: Batch) -> Mapping[str, Tensor]:
        with mixed_precision(run.config.regime.amp, run.learner.encoder.device):
            return run.extract(batch)

    if len(batches) == 1:
        loss = loss_of(encode(batches[0]))
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        loss = gradcache_step(_modules(run.learner), batches, encode=encode, loss=loss_of)
    return loss.detach(), parts["terms"]


def validate(run: Run, log: RunLog) -> None:
    """Measure on the validation pairs, keep the best checkpoint, and count validations without a better one."""
    config, course = run.config, run.learner.course
    if not run.ranks.index:
        run.shadow.load_state_dict(run.learner.average.state_dict())
        pairs = embed_validation(run)
        weight = best_weight(sweep(pairs, config.evaluation.num_weights)) if config.loss.is_structural else 0.0
        measured = views(pairs, weight)
        value = metric_of(measured, config.evaluation.metric)
        shown = {f"{view}_r1": found["text_to_image"]["r1"] for view, found in measured.items()}
        log.validation(course.total_steps, {"epoch": course.epoch, "metric": value, "weight": weight, **shown})
        course.num_worse += 1
        is_better = course.best is None or value > course.best
        if is_better:
            course.best, course.best_epoch, course.best_weight, course.num_worse = value, course.epoch, weight, 0
        metrics: dict[str, Any] = {"validation": measured, "epoch": course.epoch}
        for name in (LAST, *((BEST,) if is_better else ())):
            save_run_checkpoint(run, name, weight, metrics)
    _share_course(run)


def embed_validation(run: Run) -> PairEmbeddings:
    """Embed the validation pairs with the averaged weights; what `data.cache` keeps is prepared only once."""
    size, cache = run.config.evaluation.batch_size, run.cache
    if cache.pictures is None:
        return embed_pairs(run.shadow, run.val_source, batch_size=size)
    if cache.held_out is None:
        cache.held_out = _held_out(run)
    packed = run.extract.packed and run.extract.packed.of(run.shadow.model)
    return embed(run.shadow, cache.held_out, batch_size=size, packed=packed)


def _held_out(run: Run) -> HeldOut:
    freezing, encoder = run.config.freezing, run.shadow
    if not freezing.cache_folder:
        return hold_out(encoder, run.val_source)
    num_frozen = num_frozen_layers(encoder.model, freezing)
    split = split_image_tower(encoder.model, num_frozen)
    as_it_is = replace(run.maker, augmentation=AugmentationConfig())
    kept = keep_features(Path(freezing.cache_folder), encoder, split, run.val_source, as_it_is)
    return hold_out(encoder, run.val_source, kept=kept, num_frozen=num_frozen)


def save_run_checkpoint(run: Run, name: str, weight: float, metrics: dict[str, Any]) -> None:
    """Write the averaged weights as a checkpoint in the run's folder."""
    config = run.config
    save_checkpoint(
        run.folder / name,
        run.shadow,
        default_structure_weight=weight,
        structure_is_trained=config.loss.is_structural,
        metrics=metrics,
        provenance=provenance(config, run.train_source),
        half_precision=config.saving.half_precision,
    )


def provenance(config: TrainConfig, source: PairSource) -> Provenance:
    """Say where a checkpoint of this run comes from."""
    return Provenance(
        base_model="" if config.model.start == "scratch" else config.model.start,
        data=config.data.train.kind,
        data_digest=source.digest,
        seed=config.seed,
        code_version=_code_version(),
        licence=config.saving.licence,
        notes=config.saving.notes,
    )


def epoch_batches(run: Run) -> Iterator[list[Batch]]:
    """Yield what is left of the current epoch."""
    config, course = run.config, run.learner.course
    samples = SampleSet(run.train_source, run.maker, course.epoch, run.cache.pictures, run.cache.texts)
    tower = run.learner.encoder.text_tower
    yield from load_batches(
        samples,
        run.plan.steps(course.epoch, start=course.step, ranks=run.ranks),
        collate=partial(
            collate,
            tokenizer=run.maker.tokenizer,
            text_length=None if tower.is_cuttable else tower.context_length,
            max_chunks=config.loss.max_chunks,
            max_chunk_tokens=config.loss.max_chunk_tokens,
        ),
        micro_batch=config.regime.micro_batch,
        num_workers=config.data.num_workers,
    )


def _check(config: TrainConfig, ranks: Ranks) -> None:
    if config.regime.batch_size % ranks.count:
        raise TrainingConfigError(
            f"regime.batch_size is {config.regime.batch_size}, which {ranks.count} processes cannot share evenly"
        )
    state = read_state(Path(config.saving.run_folder))
    if state is None:
        return
    former, asked = _what_counts(state["config"]), _what_counts(config.to_dict())
    if former != asked:
        raise TrainingConfigError(
            f"{config.saving.run_folder} holds a run of another configuration ({_first_difference(former, asked)}); "
            "choose another saving.run_folder, or remove this one"
        )


def _what_counts(tree: dict[str, Any]) -> dict[str, Any]:
    """Leave out what changes how fast a run goes, and not where it ends."""
    return {
        section: {key: part for key, part in value.items() if key not in ("num_threads", "num_workers", "every_steps")}
        if isinstance(value, dict)
        else value
        for section, value in tree.items()
        if section != "calibration"  # comes after the last step
    }


def _first_difference(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return _first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path} was {old!r}, now {new!r}"


def _device(config: TrainConfig, ranks: Ranks) -> str:
    device = resolve_device(config.regime.device)
    if device == "cuda" and ranks.count > 1:
        local = ranks.index % torch.cuda.device_count()
        torch.cuda.set_device(local)
        return f"cuda:{local}"
    return device


def _image_size(config: TrainConfig, device: str) -> int:
    """Return the side that rendered scenes are drawn at: the model's own."""
    if config.model.start == "scratch":
        return int(config.model.preprocessing["image_size"])
    if "scenes" not in (config.data.train.kind, config.data.val.kind):
        return 0
    from structxlip.models import load_encoder

    return load_encoder(config.model.start, device=device).image_size


def _open(config: TrainConfig, name: str, image_size: int, ranks: Ranks) -> PairSource:
    source = open_source(getattr(config.data, name), image_size=image_size)
    usable, report = validated(
        source, name=f"data.{name}", on_bad_record=config.data.on_bad_record, decode=config.data.check == "full"
    )
    kept = Path(config.saving.run_folder) / f"data_{name}.txt"
    kept.write_text(report.told() + "\n", encoding="utf-8")
    if report.faults and not ranks.index:
        say(f"data.{name}: {report.summary()}, left out; by name in {kept}")
    return usable


def _forgets_statistics(run: Run) -> bool:
    config = run.config
    if config.model.start == "scratch" or config.freezing.running_statistics == "keep":
        return False
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in run.learner.encoder.model.modules())


def sample_maker(config: TrainConfig, encoder: TwoViewEncoder) -> SampleMaker:
    """Return what makes the samples of a run."""
    has_local = config.loss.local > 0
    return SampleMaker(
        preprocessing=encoder.preprocessing,
        edge_detector=encoder.edge_detector,
        caption_filter=encoder.caption_filter,
        tokenizer=encoder.tokenizer,
        regions=build_region_proposer(config.loss.regions) if has_local else None,
        find_spans=span_finder(encoder, WindowChunker()) if has_local else None,
        chunk_full_text=config.loss.local_text == "full",
        looks=config.loss.is_structural or not config.freezing.cache_folder,
        draws=config.loss.sketch > 0,
        augmentation=config.data.augmentation,
        seed=config.seed,
    )


def _training_ids(
    config: TrainConfig, encoder: TwoViewEncoder, source: PairSource, maker: SampleMaker
) -> Iterator[list[int]]:
    yield [PADDING]
    if config.model.zero_unseen_words:  # which has met every word already: those have vectors
        yield words_with_vectors(encoder)
        return
    for index in range(len(source)):
        for caption in source.captions(index):
            told = [caption, with_sides_swapped(caption)] if maker.augmentation.swap_sides else [caption]
            for text in (maker.text(one, version) for one in told for version in range(maker.num_versions)):
                yield [*text.tokens.tolist(), *text.structural_tokens.tolist()]


def _extractor(
    config: TrainConfig,
    encoder: TwoViewEncoder,
    source: PairSource,
    maker: SampleMaker,
    cache: RunCache,
    ranks: Ranks,
) -> FeatureExtractor:
    freezing, packed = config.freezing, _packed_tower(config, encoder, cache)
    if not freezing.cache_folder:
        return FeatureExtractor(encoder, config.loss, packed=packed)
    split = split_image_tower(encoder.model, num_frozen_layers(encoder.model, freezing))
    if cache.features is not None:
        return FeatureExtractor(encoder, config.loss, split, cache.features, packed)
    keep = partial(keep_features, Path(freezing.cache_folder), encoder, split, source, maker)
    if not ranks.index:
        keep(say=say)
    if ranks.count > 1:
        dist.barrier(group=ranks.group)
    cache.features = keep()
    return FeatureExtractor(encoder, config.loss, split, cache.features, packed)


def _packed_tower(config: TrainConfig, encoder: TwoViewEncoder, cache: RunCache) -> PackedTower | None:
    if not config.regime.pack_texts or not is_packable(encoder.model):
        return None
    num_frozen = num_frozen_text_layers(encoder.model) if config.data.cache == "memory" else 0
    return PackedTower(encoder.model, num_frozen=num_frozen, kept=cache.token_features)


def _modules(learner: Learner) -> nn.Module:
    parts = [learner.encoder.model]
    return nn.ModuleList(parts if learner.encoder.edge_branch is None else [*parts, learner.encoder.edge_branch])


def _clip(run: Run) -> Tensor:
    limit = run.config.optimiser.clip_norm or float("inf")
    return nn.utils.clip_grad_norm_([known.parameter for known in run.parameters], limit)


def _require_finite(run: Run, batches: Sequence[Batch], loss: Tensor, norm: Tensor) -> None:
    is_bad = ~(torch.isfinite(loss) & torch.isfinite(norm))
    if not int(run.ranks.sum(is_bad.long())):
        return
    suspects = [key for batch in batches for key in _broken(run, batch)]
    keys = suspects or [key for batch in batches for key in batch.keys]
    told = "these pairs have features that are not numbers" if suspects else "the batch was"
    raise TrainingStoppedError(
        f"step {run.learner.course.total_steps + 1} of {run.config.name} has loss {float(loss)} and gradient norm "
        f"{float(norm)}; {told}: {', '.join(keys)}. The optimiser did not move, and what was saved last is untouched: "
        "look at these records, lower optimiser.lr, or set regime.amp: none"
    )


@torch.no_grad()
def _broken(run: Run, batch: Batch) -> list[str]:
    with mixed_precision(run.config.regime.amp, run.learner.encoder.device):
        features = run.extract(batch)
    rows = torch.ones(len(batch), dtype=torch.bool)
    for name in ("image", "text", "edge", "structural"):
        if name in features:
            rows &= torch.isfinite(features[name]).all(dim=1).cpu()
    return [key for key, is_sound in zip(batch.keys, rows.tolist(), strict=True) if not is_sound]


def is_validation_due(run: Run) -> bool:
    """Whether the epoch that has just ended is one after which to measure."""
    epoch, config = run.learner.course.epoch, run.config
    return epoch % config.evaluation.every_epochs == 0 or epoch == config.optimiser.epochs


def _is_over(run: Run) -> bool:
    course, config = run.learner.course, run.config
    is_stale = config.evaluation.patience > 0 and course.num_worse >= config.evaluation.patience
    return is_stale or course.epoch >= config.optimiser.epochs


def _share_course(run: Run) -> None:
    """Let every process know what the first one found, so that all of them stop together."""
    if run.ranks.count == 1:
        return
    found = [vars(run.learner.course)]
    dist.broadcast_object_list(found, src=0, group=run.ranks.group)
    for name, value in found[0].items():
        setattr(run.learner.course, name, value)


def _num_weights(run: Run) -> int:
    return sum(known.parameter.numel() for known in run.parameters)


def _code_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("structxlip")
    except PackageNotFoundError:
        return ""


class _Clock:
    """Pairs a second from the end of one step to the end of the next: the data are counted too."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._since = time.monotonic()

    def rate(self) -> float:
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        return self._batch_size / max(elapsed, 1e-9)


class _Interruption:
    def __init__(self) -> None:
        self._is_asked = False

    def ask(self, *_signal: Any) -> None:
        self._is_asked = True

    def is_set(self, ranks: Ranks, device: str) -> bool:
        if ranks.count == 1:
            return self._is_asked
        return bool(ranks.sum(torch.tensor(int(self._is_asked), device=device)))


@contextmanager
def _interruptions() -> Iterator[_Interruption]:
    """Turn Ctrl-C and a polite kill into a flag that is looked at between steps; a second Ctrl-C kills."""
    interruption = _Interruption()
    former = {}

    def first(number: int, frame: Any) -> None:
        interruption.ask()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            former[number] = signal.signal(number, first)
    except ValueError:  # not in the main thread, where nobody presses Ctrl-C
        pass
    try:
        yield interruption
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
