"""What a training run is: one tree of frozen values, read from YAML and overrides, kept with the checkpoint.

    config = load_config(Path("training/configs/scenes_tiny.yaml"), ["optimiser.lr=1e-3", "seed=1"])

Nothing is guessed: an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")
OWN_CONFIGS = Path(__file__).with_name("configs")

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class TrainingConfigError(ValueError):
    """A configuration that cannot be run; the message names the key, what was received and what was expected."""


@dataclass(frozen=True, config=STRICT)
class SourceConfig:
    """Where pairs of picture and captions come from.

    Attributes:
        kind: `scenes` are rendered on the fly; `manifest` is JSONL or CSV; `folder` has a `.txt` beside each picture;
            `shards` are WebDataset tar files.
        path: File or folder; for `shards` any fsspec path, with `{000..009}` or `*` for several.
        split: For `scenes` its name; for a manifest the value of the column `split` (all records where empty).
        num_scenes: How many scenes.
        num_parts: For `scenes`: so many samples more, each of one thing cut out of the scene of the same number, with
            the phrase that names it; drawn anew in every epoch.
        scenes_seed: Which of the rendered data sets.
        image_root: Folder that a manifest's picture names are relative to; the manifest's own folder unless given.
        image_field: Column of the picture's name.
        caption_field: Column of a caption or of a list of captions.
        boxes_field: Column of regions `[[x1, y1, x2, y2], …]` as shares of the width and height.
        starts_with: Keep only records whose picture's name begins with this.
        limit: Keep the first so many records.
    """

    kind: Literal["scenes", "manifest", "folder", "shards"]
    path: str = ""
    split: str = ""
    num_scenes: Count = 1000
    num_parts: Annotated[int, Field(ge=0)] = 0
    scenes_seed: int = 0
    image_root: str = ""
    image_field: str = "image"
    caption_field: str = "caption"
    boxes_field: str = "boxes"
    starts_with: str = ""
    limit: Count | None = None

    def __post_init__(self) -> None:
        if self.kind == "scenes" and not self.split:
            raise ValueError("a source of kind scenes needs a split, such as train")
        if self.kind != "scenes" and not self.path:
            raise ValueError(f"a source of kind {self.kind} needs a path")


@dataclass(frozen=True, config=STRICT)
class AugmentationConfig:
    """What happens to a training picture before its edges and regions are found.

    Attributes:
        min_crop_area: A crop of at least this share of the area; 1 leaves the picture whole.
        flip: Mirror half of the pictures. Captions that say left and right become wrong, unless `swap_sides`.
        swap_sides: Exchange the words left and right in the captions of mirrored pictures.
        brightness: Largest change of brightness, as a share.
        contrast: Largest change of contrast, as a share.
        drop_phrases: Share of a caption's phrases, as commas and full stops part them, that are left out; each caption
            has a few such versions, which epochs take in turn.
        dropped_from: Whether from the structural text only, or from both.
    """

    min_crop_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: bool = False
    swap_sides: bool = False
    brightness: Share = 0.0
    contrast: Share = 0.0
    drop_phrases: Annotated[float, Field(ge=0, lt=1)] = 0.0
    dropped_from: Literal["structural", "both"] = "structural"

    @property
    def only_mirrors(self) -> bool:
        """Whether every epoch sees the same pictures, but for left and right."""
        return (self.min_crop_area, self.brightness, self.contrast) == (1.0, 0.0, 0.0)


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """The pairs, and what to do about bad records.

    Attributes:
        train: Seen by the optimiser.
        val: Chooses the best checkpoint and the structure weight.
        test: Evaluated once, at the end, by name.
        forgetting: Short captions that the base model knew; what is lost on them is reported.
        on_bad_record: `fail` stops before the first step; `skip` leaves them out and says how many.
        check: `full` decodes every picture before the first step, `header` reads its header only.
        augmentation: Of training pictures.
        cache: `memory` keeps prepared pictures, which needs 0 workers and no augmentation but mirroring.
        num_workers: Processes that prepare samples; 0 prepares them in the training process.
    """

    train: SourceConfig
    val: SourceConfig
    test: dict[str, SourceConfig] = field(default_factory=dict)
    forgetting: SourceConfig | None = None
    on_bad_record: Literal["fail", "skip"] = "fail"
    check: Literal["full", "header"] = "full"
    augmentation: AugmentationConfig = AugmentationConfig()
    cache: Literal["none", "memory"] = "none"
    num_workers: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.cache == "memory" and (self.num_workers or not self.augmentation.only_mirrors):
            raise ValueError("cache: memory needs num_workers: 0 and no augmentation but flip")
        if self.cache == "memory" and self.train.num_parts:
            raise ValueError("cache: memory keeps pictures, but parts of scenes are other ones in every epoch")


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Where training starts.

    Attributes:
        start: `scratch`, a checkpoint of ours, or a plain open_clip model by any name that `load_encoder` takes.
        architecture: For `scratch`: open_clip's model config.
        preprocessing: For `scratch`: the fields of `structxlip.preprocessing.Preprocessing`.
        edges: The edge detector, as `build_edge_detector` takes it.
        edge_branch: `kind`, `width` and `grid` of the edge branch.
        captions: The caption filter, as `build_caption_filter` takes it.
        context_length: Tokens that the text tower reads; stretched to it where the model reads fewer.
        zero_unseen_words: For `scratch`: token vectors that no training caption uses start, and so stay, at zero.
    """

    start: str = "scratch"
    architecture: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    edges: dict[str, Any] = field(default_factory=lambda: {"kind": "percentile-canny"})
    edge_branch: dict[str, Any] = field(default_factory=lambda: {"kind": "shared"})
    captions: dict[str, Any] = field(default_factory=lambda: {"kind": "lexicon"})
    context_length: Count | None = None
    zero_unseen_words: bool = False

    def __post_init__(self) -> None:
        if (self.start == "scratch") != bool(self.architecture and self.preprocessing):
            raise ValueError("start: scratch needs architecture and preprocessing, and only scratch takes them")


@dataclass(frozen=True, config=STRICT)
class LossConfig:
    """The losses; weights as in method.md, section 1. A loss of weight 0 is not computed.

    Attributes:
        contrastive: Weight of image and text.
        structure: Weight of edge map and structural text.
        consistency: Weight of image and edge map.
        local: Weight of text chunks and edge regions.
        sketch: Weight of edge map and hand-like drawing of the same picture, which teaches the edge view to know a
            picture by a few broken lines. Needs no captions.
        hold_until: Share of the run during which the structural weights are held.
        settle_at: Share of the run from which on they stay.
        structure_floor: What is left of the structure weight then, as a share.
        consistency_floor: The same for consistency.
        local_floor: The same for the local loss.
        hard_negative_margin: Gamma of HN-CLIP; 0 is plain CLIP.
        consistency_distance: `cosine` or `l2`.
        consistency_stop_gradient: Whether the colour embedding is a fixed target.
        local_positives: Which regions of its image a chunk shall find.
        local_scale: Where the local loss's own scale starts.
        local_text: Whether chunks come from the structural text or from the full one.
        regions: The region proposer, as `build_region_proposer` takes it.
        region_embedding: `roi` pools the features of the one pass; `crop` encodes each region's own crop.
        max_chunks: Most chunks of a caption.
        max_chunk_tokens: Most tokens of a chunk.
    """

    contrastive: NonNegative = 1.0
    structure: NonNegative = 0.5
    consistency: NonNegative = 0.05
    local: NonNegative = 0.1
    sketch: NonNegative = 0.0
    hold_until: Share = 0.2
    settle_at: Share = 0.8
    structure_floor: Share = 0.7
    consistency_floor: Share = 0.5
    local_floor: Share = 0.4
    hard_negative_margin: NonNegative = 0.0
    consistency_distance: Literal["cosine", "l2"] = "cosine"
    consistency_stop_gradient: bool = True
    local_positives: Literal["owner", "hard", "soft"] = "owner"
    local_scale: Positive = 1 / 0.07
    local_text: Literal["structural", "full"] = "structural"
    regions: dict[str, Any] = field(default_factory=lambda: {"kind": "colour-and-contours", "max_regions": 16})
    region_embedding: Literal["roi", "crop"] = "roi"
    max_chunks: Count = 16
    max_chunk_tokens: Count = 24

    @property
    def is_structural(self) -> bool:
        """Whether any loss sees edge maps."""
        return bool(self.structure or self.consistency or self.local or self.sketch)

    @property
    def reads_structural_text(self) -> bool:
        """Whether any loss sees structural texts."""
        return bool(self.structure or (self.local and self.local_text == "structural"))


@dataclass(frozen=True, config=STRICT)
class OptimiserConfig:
    """What moves the weights, its course, and the moving average.

    Attributes:
        kind: `adamw`, or `muon`: Muon for the matrices of hidden layers, AdamW for the rest; from nothing much faster.
        lr: Learning rate at the top of the course.
        matrix_lr_factor: Multiplies it for what Muon moves.
        edge_lr_factor: Multiplies it for the `cnn` edge branch and the local scale, which start from nothing.
        text_lr_factor: Multiplies it for the text tower.
        layer_decay: Multiplies it once for each layer further from the output; 1 treats layers alike.
        weight_decay: Of matrices; never of norms, biases, scales and positions.
        beta1: Of the mean of gradients.
        beta2: Of their mean square.
        eps: Of the division.
        clip_norm: Largest norm of the whole gradient; 0 leaves it as it is.
        ema_decay: Of the moving average that is evaluated and saved; 0 keeps none.
        epochs: Passes over the data.
        warmup: Share of the run in which the rate rises from 0.
        final_lr: What is left of the rate at the end, as a share.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    lr: Positive = 5e-6
    matrix_lr_factor: Positive = 1.0
    edge_lr_factor: Positive = 1.0
    text_lr_factor: NonNegative = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: NonNegative = 0.05
    beta1: Share = 0.9
    beta2: Share = 0.98
    eps: Positive = 1e-6
    clip_norm: NonNegative = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    epochs: Count = 10
    warmup: Share = 0.05
    final_lr: Share = 0.0


Amp = Literal["none", "bf16"]


@dataclass(frozen=True, config=STRICT)
class RegimeConfig:
    """How a step is computed.

    Attributes:
        batch_size: Pairs that are contrasted with each other, over all processes.
        micro_batch: Pairs whose activations are held at a time, in each process; with fewer than its share of the
            batch, GradCache makes the gradients of the whole batch. 0 holds all.
        amp: `bf16` runs the towers in bfloat16, where the device has arithmetic for it; losses are always float32.
        device: `auto`, `cpu` or `cuda`.
        num_threads: Of torch on the CPU; 0 leaves torch's own choice.
        pack_texts: Encode texts of like length together and the frozen layers once for each text: the same embeddings
            for less work, where the text tower is open_clip's own.
    """

    batch_size: Annotated[int, Field(ge=2)] = 16
    micro_batch: Annotated[int, Field(ge=0)] = 0
    amp: Amp = "none"
    device: str = "auto"
    num_threads: Annotated[int, Field(ge=0)] = 0
    pack_texts: bool = False


@dataclass(frozen=True, config=STRICT)
class FreezingConfig:
    """Which weights stay as they are.

    Attributes:
        mode: `none`; `backbone` trains final projections, scales and the edge branch; `towers` trains the last
            `last_layers` of each tower besides.
        last_layers: For `towers`.
        text_layers: For `towers`: of the text tower, where its number differs.
        train_text: For `towers`: train the whole text tower.
        used_tokens_only: Of the token vectors, train those that the training captions use; the others have no gradient
            anyway, and are left out of every step. A word that only a later telling uses keeps the vector it had.
        running_statistics: `keep` leaves those of batch normalisations as they are and normalises with them in training
            too: right for a pretrained tower, above all one whose statistics were folded into its weights. `learn` is
            for training from scratch.
        cache_folder: Where features of the frozen layers of the image tower are kept, computed once and stored as
            float16; pictures may be mirrored, but not otherwise augmented. Empty computes them every time.
    """

    mode: Literal["none", "backbone", "towers"] = "none"
    last_layers: Annotated[int, Field(ge=0)] = 0
    text_layers: Annotated[int, Field(ge=0)] | None = None
    train_text: bool = False
    used_tokens_only: bool = False
    running_statistics: Literal["learn", "keep"] = "learn"
    cache_folder: str = ""


@dataclass(frozen=True, config=STRICT)
class CalibrationConfig:
    """What a finished run is given to tell matches from chance (see `structxlip.calibration`).

    Attributes:
        num_background: Training pictures that scores are compared with; 0 for no calibration.
        num_queries: Validation pictures that queries are made of, and so are their captions, copies and sketches.
        false_accept_rate: Share of queries without a match that may find one all the same.
    """

    num_background: Annotated[int, Field(ge=0)] = 512
    num_queries: Count = 500
    false_accept_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05


@dataclass(frozen=True, config=STRICT)
class EvaluationConfig:
    """When and how to measure.

    Attributes:
        every_epochs: Validate after so many epochs, and after the last.
        metric: What chooses the best checkpoint: `view.direction.measure`, such as `fused.mean.mrr`.
        patience: Stop after so many validations without a better one; 0 never stops early.
        batch_size: Pictures or texts encoded at once.
        num_weights: Structure weights that are tried, evenly from 0 to 1.
        wise_ft: Shares of the tuned weights, each evaluated when interpolated with the base model's.
    """

    every_epochs: Count = 1
    metric: str = "fused.mean.mrr"
    patience: Annotated[int, Field(ge=0)] = 0
    batch_size: Count = 64
    num_weights: Annotated[int, Field(ge=2)] = 21
    wise_ft: tuple[Share, ...] = ()


@dataclass(frozen=True, config=STRICT)
class SavingConfig:
    """What is written, and where.

    Attributes:
        run_folder: Logs, resumable state, and the checkpoints `best` and `last`.
        export_to: Where the best checkpoint is also written in the end, ready to be served.
        half_precision: Store matrices as float16.
        every_steps: Save the state after so many steps, and after each epoch; 0 only after each epoch.
        licence: Under which the weights may be used.
        notes: For the model card.
    """

    run_folder: str
    export_to: str = ""
    half_precision: bool = False
    every_steps: Annotated[int, Field(ge=0)] = 0
    licence: str = ""
    notes: str = ""


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """A whole run."""

    name: str
    data: DataConfig
    saving: SavingConfig
    model: ModelConfig
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    regime: RegimeConfig = RegimeConfig()
    freezing: FreezingConfig = FreezingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.freezing.cache_folder:
            return
        if self.freezing.mode == "none":
            raise ValueError("freezing.cache_folder keeps features of frozen layers, and freezing.mode is none")
        if not self.data.augmentation.only_mirrors:
            raise ValueError(
                "freezing.cache_folder allows no augmentation but flip: other pictures have other features"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as plain values; `parse_config` reads it back to an equal one."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply `key=value` overrides, with dots between levels.

    Args:
        path: A file, or the bare name of one of the package's own, such as `own_pictures`.
        overrides: In order.

    Raises:
        TrainingConfigError: If the file cannot be read, a key is unknown, or a value does not fit.
    """
    _require_extra()
    import yaml

    own = OWN_CONFIGS / f"{path.name}.yaml"
    if path.name == str(path) and not path.exists() and own.is_file():
        path = own
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in OWN_CONFIGS.glob("*.yaml")))
        raise TrainingConfigError(
            f"{path} cannot be read: {error.strerror}; give a YAML file, or one of the package's own: {names}"
        ) from error
    except yaml.YAMLError as error:
        raise TrainingConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise TrainingConfigError(f"{path} must hold keys and values, got {type(tree).__name__}")
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Make a configuration from plain values.

    Raises:
        TrainingConfigError: If a key is unknown or missing, or a value does not fit.
    """
    try:
        return TypeAdapter(TrainConfig).validate_python(dict(tree))
    except ValidationError as error:
        raise TrainingConfigError("\n".join(_told(problem) for problem in error.errors())) from error


def parse_source(text: str) -> SourceConfig:
    """Read a source from one line: a path, or `scenes:SPLIT`, each with `key=value` after commas.

    Raises:
        TrainingConfigError: If it is none.
    """
    where, *options = text.split(",")
    tree: dict[str, Any] = _source_of(where)
    for option in options:
        _apply(tree, option)
    try:
        return TypeAdapter(SourceConfig).validate_python(tree)
    except ValidationError as error:
        raise TrainingConfigError("\n".join(_told(p, SourceConfig) for p in error.errors())) from error


def _require_extra() -> None:
    """Say at once what is not installed, and not after the last epoch."""
    missing = [name for name in ("yaml", "tensorboard", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingConfigError(
            f"training needs {', '.join(missing)}, which this installation lacks: pip install 'structxlip[train]'"
        )


def _source_of(where: str) -> dict[str, Any]:
    if where.startswith("scenes:"):
        return {"kind": "scenes", "split": where.removeprefix("scenes:")}
    if where.endswith((".tar", ".tar}")) or "://" in where:
        return {"kind": "shards", "path": where}
    return {"kind": "folder" if Path(where).is_dir() else "manifest", "path": where}


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise TrainingConfigError(f"expected key=value, such as optimiser.lr=1e-4, got {override!r}")
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            raise TrainingConfigError(f"{key}: {parent} holds {below!r}, which has nothing below it")
        tree = below
    _require_extra()
    import yaml

    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise TrainingConfigError(f"{key}: {value!r} is no value: {error}") from error


def _told(problem: Mapping[str, Any], root: type = TrainConfig) -> str:
    path = [str(step) for step in problem["loc"]]
    where = ".".join(path) or "the configuration"
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_at(root, path[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.0)
        meant = f"did you mean {nearest[0]!r}? " if nearest else ""
        return f"{where}: unknown key; {meant}known here: {', '.join(known)}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{where}: is missing"
    if isinstance(problem.get("input"), Mapping):  # keys that do not go together: the message names them
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"
    return f"{where}: got {problem.get('input')!r}: {problem['msg']}"


def _keys_at(root: type, path: Sequence[str]) -> list[str]:
    """Return the keys that a level of the configuration has."""
    here: Any = root
    for step in path:
        hint = get_type_hints(here).get(step) if is_dataclass(here) else None
        candidates = [hint, *get_args(hint)] if hint is not None else [here]
        here = next((candidate for candidate in candidates if is_dataclass(candidate)), here)
    return [f.name for f in fields(here)] if is_dataclass(here) else []


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
