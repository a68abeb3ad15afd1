"""Features of the frozen layers of an image tower, computed once and kept on the disk.

Frozen layers give the same features for the same picture in every epoch. They are computed before the first step, for
the colour picture and for its edge map where the same tower sees both, and mirrored too where training mirrors; the
loop then runs the other layers only. Stored as float16, they differ from fresh ones by 1 part in 2,000.

Shapes: `N` records, `F` variants of each (as it is, mirrored), then whatever the last frozen layer gives.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from structxlip.encoder import TwoViewEncoder
from structxlip.errors import UnsupportedModelError
from training.data import PairSource, SampleMaker
from training.data.samples import PictureSample

Layers = Callable[[Tensor], Tensor]
View = Literal["rgb", "edges", "sketches"]


@dataclass(frozen=True)
class SplitTower:
    """An image tower in two parts that share its weights.

    Attributes:
        frozen: The first layers, from normalised pictures `(B, 3, S, S)` on.
        rest: The whole model, whose image tower starts from what `frozen` gives.
    """

    frozen: Layers
    rest: nn.Module


@dataclass(frozen=True)
class FrozenFeatures:
    """The kept features of a source.

    Attributes:
        rgb: float16 `(N, F, …)` of the colour pictures.
        edges: The same of their edge maps; none where these have a branch of their own.
        sketches: float16 `(N, F, V, …)` of drawings; none where no loss wants them or they have a branch of their own.
    """

    rgb: NDArray[np.float16]
    edges: NDArray[np.float16] | None
    sketches: NDArray[np.float16] | None = None

    def of(
        self, view: View, indices: tuple[int, ...], is_mirrored: tuple[bool, ...], drawings: tuple[int, ...] = ()
    ) -> Tensor:
        """Return float32 `(B, …)` of one view of some records; of drawings, those of these numbers."""
        table = {"rgb": self.rgb, "edges": self.edges, "sketches": self.sketches}[view]
        assert table is not None, f"the {view} of this run do not go through the image tower"
        place: list[list[int]] = [list(indices), [int(m) for m in is_mirrored]]
        kept = torch.from_numpy(table[*place, list(drawings)] if view == "sketches" else table[*place])
        is_map = kept.ndim == 4
        return kept.to(torch.float32, memory_format=torch.channels_last if is_map else torch.preserve_format)


def split_image_tower(model: nn.Module, num_frozen: int) -> SplitTower:
    """Cut an image tower after its first `num_frozen` layers.

    Raises:
        UnsupportedModelError: If the tower is neither open_clip's VisionTransformer nor of timm's EfficientNet family.
    """
    tower: Any = model.visual
    if isinstance(tower, VisionTransformer):
        return _split_transformer(model, tower, num_frozen)
    if isinstance(tower, TimmModel) and all(hasattr(tower.trunk, part) for part in ("conv_stem", "bn1", "blocks")):
        return _split_efficientnet(model, tower, num_frozen)
    name = type(tower.trunk if isinstance(tower, TimmModel) else tower).__name__
    raise UnsupportedModelError(
        f"features of the frozen layers of a {name} cannot be kept; leave freezing.cache_folder empty"
    )


def keep_features(
    folder: Path,
    encoder: TwoViewEncoder,
    split: SplitTower,
    source: PairSource,
    maker: SampleMaker,
    *,
    batch_size: int = 32,
    say: Callable[[str], None] = lambda _message: None,
) -> FrozenFeatures:
    """Compute the features of a source, or find those that an earlier run left.

    Args:
        folder: Where they are kept, under a name that says what they depend on.
        encoder: Owns preprocessing and edge detector.
        split: Its image tower.
        source: The records.
        maker: Prepares pictures the way that training does.
        batch_size: Pictures at once.
        say: Told what happens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(encoder, split, source, maker)
    is_shared = encoder.edge_branch is None
    views: list[View] = ["rgb"]
    if is_shared:
        views += ["edges", "sketches"] if maker.draws else ["edges"]
    paths = {view: folder / f"{view}-{key}.npy" for view in views}
    if missing := {view: path for view, path in paths.items() if not path.is_file()}:
        say(f"computing the features of the frozen layers for {len(source)} pictures, once")
        _write(missing, encoder, split, source, maker, batch_size)
    tables = {view: np.load(path, mmap_mode="r") for view, path in paths.items()}
    return FrozenFeatures(tables["rgb"], tables.get("edges"), tables.get("sketches"))


@torch.inference_mode()
def _write(
    paths: dict[View, Path],
    encoder: TwoViewEncoder,
    split: SplitTower,
    source: PairSource,
    maker: SampleMaker,
    batch_size: int,
) -> None:
    variants = (False, True) if maker.augmentation.flip else (False,)
    drafts = {view: path.with_name(f".{path.name}.saving") for view, path in paths.items()}
    tables: dict[str, Any] = {}
    for first in range(0, len(source), batch_size):
        rows = range(first, min(first + batch_size, len(source)))
        pairs = [source.read(index) for index in rows]
        for variant, is_mirrored in enumerate(variants):
            pictures = [maker.seen(pair, is_mirrored=is_mirrored) for pair in pairs]
            for view in paths:
                found = _features_of(view, pictures, encoder, split)
                if view not in tables:
                    shape = (len(source), len(variants), *found.shape[1:])
                    tables[view] = np.lib.format.open_memmap(drafts[view], mode="w+", dtype=np.float16, shape=shape)
                tables[view][first : rows.stop, variant] = found
    for view, path in paths.items():
        tables[view].flush()
        drafts[view].replace(path)


def _features_of(
    view: View, pictures: Sequence[PictureSample], encoder: TwoViewEncoder, split: SplitTower
) -> NDArray[np.float16]:
    seen: list[NDArray[np.uint8]] = [getattr(picture, view) for picture in pictures]
    if view == "sketches":
        seen = [sketch for sketches in seen for sketch in sketches]
    found: NDArray[np.float16] = (
        split.frozen(encoder.preprocessing.normalize(seen).to(encoder.device)).half().cpu().numpy()
    )
    return found.reshape(len(pictures), -1, *found.shape[1:]) if view == "sketches" else found


def _key(encoder: TwoViewEncoder, split: SplitTower, source: PairSource, maker: SampleMaker) -> str:
    """Digest everything that the features depend on: the weights show in what a fixed input becomes."""
    side = encoder.image_size
    probe = torch.linspace(-1, 1, 3 * side * side, device=encoder.device).view(1, 3, side, side)
    with torch.inference_mode():
        seen = split.frozen(probe).float().cpu().numpy()
    parts = {
        "source": source.digest,
        "preprocessing": encoder.preprocessing.config(),
        "edges": encoder.edge_detector.config(),
        "flip": maker.augmentation.flip,
        "shape": list(seen.shape),
        "weights": hashlib.sha256(np.round(seen, 4).tobytes()).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _split_transformer(model: nn.Module, tower: VisionTransformer, num_frozen: int) -> SplitTower:
    blocks = tower.transformer.resblocks

    def frozen(images_B3HW: Tensor) -> Tensor:
        x_BNC = torch.as_tensor(tower._embeds(images_B3HW))
        for block in blocks[:num_frozen]:
            x_BNC = block(x_BNC)
        return x_BNC

    rest_transformer = _with_parts(tower.transformer, resblocks=blocks[num_frozen:])
    rest_tower: Any = _with_parts(tower, transformer=rest_transformer)
    # On the instance, past the class's own method and torch's registry of modules.
    rest_tower.__dict__["_embeds"] = nn.Identity()
    return SplitTower(frozen, _with_parts(model, visual=rest_tower))


def _split_efficientnet(model: nn.Module, tower: TimmModel, num_frozen: int) -> SplitTower:
    trunk: Any = tower.trunk

    def frozen(images_B3HW: Tensor) -> Tensor:
        return torch.as_tensor(trunk.blocks[:num_frozen](trunk.bn1(trunk.conv_stem(images_B3HW))))

    rest_trunk = _with_parts(trunk, conv_stem=nn.Identity(), bn1=nn.Identity(), blocks=trunk.blocks[num_frozen:])
    return SplitTower(frozen, _with_parts(model, visual=_with_parts(tower, trunk=rest_trunk)))


def _with_parts(module: nn.Module, **parts: nn.Module) -> nn.Module:
    """Return a shallow copy of a module that has other children and shares all else, weights included."""
    copied = copy.copy(module)
    copied._modules = {**module._modules, **parts}
    return copied
