"""The encoder of two views: every picture and every text becomes an appearance vector and a structure vector.

| | appearance | structure |
|---|---|---|
| picture | colour picture through the image tower | edge map through the edge branch |
| text | full text through the text tower | its structural part through the same tower |

Work is split so that a service can spread it: `prepare_*` are light, need no model and may run in many
threads at once; `encode_*` run the model on what they prepared, with its towers (`structxlip.backends`). `embed_*`
are the modules themselves, with gradients: what training uses, and what every backend is compared with.

Shapes: `B` pairs, `L` tokens, `S` side of the model's input, `D` embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional as F

from structxlip.backends.eager import torch_towers
from structxlip.backends.towers import Towers, grey_pictures
from structxlip.calibration import MatchCalibration
from structxlip.captions import CaptionFilter
from structxlip.edge_branch import EdgeBranchConfig, build_edge_branch
from structxlip.edges import EdgeDetector
from structxlip.errors import EncodingError, UnsupportedModelError
from structxlip.length_buckets import split_by_length
from structxlip.mapped_file import MappedFile, use_tensors
from structxlip.preprocessing import Preprocessing
from structxlip.sketch import sketch_to_edges
from structxlip.text_tower import TextTower
from structxlip.tokenizer import TextTokenizer

# So many pictures at most send both views through the `shared` tower as one batch. Two batches of one cost 20 % (bf16)
# to 30 % (f32) more than one batch of two (ViT-B/32, OpenVINO, two busy cores, 2026-11-24); of large batches the gain
# is small and the memory twice as much.
MAX_JOINED_PICTURES = 8


@dataclass(frozen=True)
class PreparedImage:
    """A picture at the model's resolution.

    Attributes:
        rgb: uint8 `(S, S, 3)`.
        edges: Its edge map, uint8 `(S, S)`.
    """

    rgb: NDArray[np.uint8]
    edges: NDArray[np.uint8]


@dataclass(frozen=True)
class PreparedText:
    """A text in the model's tokens.

    Attributes:
        tokens: int64 `(L,)`, the full text.
        structural_tokens: int64 `(L',)`, its structural part.
        structural_text: What the caption filter kept.
        num_tokens: Tokens of the full text before truncation, start and end token included.
        is_truncated: Whether the full text is longer than the model reads.
    """

    tokens: NDArray[np.int64]
    structural_tokens: NDArray[np.int64]
    structural_text: str
    num_tokens: int
    is_truncated: bool


@dataclass(frozen=True)
class ViewEmbeddings:
    """Two unit vectors for each of N items.

    Attributes:
        appearance: float32 `(N, D)`.
        structure: float32 `(N, D)`.
    """

    appearance: NDArray[np.float32]
    structure: NDArray[np.float32]


@dataclass(frozen=True)
class EncoderCard:
    """What an encoder says about itself.

    Attributes:
        name: As it was asked for.
        fingerprint: Vectors may be compared only where it is equal.
        default_structure_weight: Share of the structure score, 0 to 1, when a query does not choose.
        structure_is_trained: Whether the structural view was trained, or comes as it is with a plain model.
        calibration: Tells matches from chance, where it was made.
        details: Anything else worth telling, for the model card.
    """

    name: str = "untrained"
    fingerprint: str = ""
    default_structure_weight: float = 0.0
    structure_is_trained: bool = False
    calibration: MatchCalibration | None = None
    details: Mapping[str, JsonValue] = field(default_factory=dict)


class TwoViewEncoder:
    """An open_clip model with a preprocessing, an edge detector, an edge branch and a caption filter.

    Args:
        model: Any open_clip model: `CLIP`, `CustomTextCLIP` or `CoCa`.
        architecture: open_clip's config of that model.
        preprocessing: From any picture to the model's input.
        edge_detector: Finds the lines of the resized picture.
        caption_filter: Finds the structural part of a text.
        tokenizer: The model's own.
        edge_branch: Which branch encodes edge maps; `cnn` starts with random weights.
        card: Name, fingerprint and defaults.
        device: Where the model runs.

    Raises:
        UnsupportedModelError: If the model's image tower takes another size than `preprocessing` gives.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        architecture: Mapping[str, Any],
        preprocessing: Preprocessing,
        edge_detector: EdgeDetector,
        caption_filter: CaptionFilter,
        tokenizer: TextTokenizer,
        edge_branch: EdgeBranchConfig | None = None,
        card: EncoderCard | None = None,
        device: str = "cpu",
    ) -> None:
        self.architecture = dict(architecture)
        self.preprocessing = preprocessing
        self.edge_detector = edge_detector
        self.caption_filter = caption_filter
        self.tokenizer = tokenizer
        self.edge_branch_config = edge_branch or EdgeBranchConfig()
        self.card = card or EncoderCard()
        self.device = device
        self.dimension = int(architecture["embed_dim"])
        # The layout in which convolutions are fastest on a CPU; to all else it makes no difference.
        self.model = model.to(device).to(memory_format=torch.channels_last).eval()
        branch = build_edge_branch(self.edge_branch_config, dimension=self.dimension)
        self.edge_branch = branch.to(device).to(memory_format=torch.channels_last).eval() if branch else None
        self.text_tower = TextTower(self.model)
        _check_sizes(model, preprocessing, self.text_tower, tokenizer)
        self._towers = torch_towers(self)
        self._weights_file: MappedFile | None = None

    @property
    def name(self) -> str:
        """The name under which it was loaded."""
        return self.card.name

    @property
    def fingerprint(self) -> str:
        """A digest of all that determines its vectors."""
        return self.card.fingerprint

    @property
    def default_structure_weight(self) -> float:
        """The share of the structure score when a query does not choose, 0 to 1."""
        return self.card.default_structure_weight

    @property
    def structure_is_trained(self) -> bool:
        """Whether the structural view was trained."""
        return self.card.structure_is_trained

    @property
    def calibration(self) -> MatchCalibration | None:
        """What tells matches from chance; `None` where the model carries none."""
        return self.card.calibration

    @property
    def image_size(self) -> int:
        """The side of the model's square input, in pixels."""
        return self.preprocessing.image_size

    @property
    def context_length(self) -> int:
        """The most tokens of a text that the model reads."""
        return self.tokenizer.context_length

    def prepare_image(self, rgb: NDArray[np.uint8]) -> PreparedImage:
        """Resize a picture once, for both views, and find its lines at that size.

        Args:
            rgb: uint8 `(H, W, 3)` of any size.

        Raises:
            ValueError: If the array is not such a picture.
        """
        resized = self.preprocessing.resize(rgb)
        return PreparedImage(rgb=resized, edges=self.edge_detector.detect(resized))

    def prepare_sketch(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a drawing on any ground into an edge map, uint8 `(S, S)`, for `encode_edge_maps`.

        Raises:
            EmptySketchError: If it has no strokes.
            ValueError: If the array is not a picture.
        """
        return sketch_to_edges(rgb, self.preprocessing, self.edge_detector)

    def prepare_text(self, text: str) -> PreparedText:
        """Find the structural part of a text and tokenize both."""
        structural_text = self.caption_filter.structural_text(text)
        full = self.tokenizer.encode(text)
        structural = full if structural_text == text else self.tokenizer.encode(structural_text)
        return PreparedText(full.ids, structural.ids, structural_text, full.num_tokens, full.is_truncated)

    @property
    def towers(self) -> Towers:
        """What runs the model in `encode_*`."""
        return self._towers

    def run_on(self, towers: Towers) -> None:
        """Let `encode_*` use these towers, which must compute what the model's own modules do."""
        self._towers = towers

    @property
    def weights_file(self) -> MappedFile | None:
        """The file that the weights are used from in place; `None` where they are in memory of their own."""
        return self._weights_file

    def encode_images(self, images: Sequence[PreparedImage]) -> ViewEmbeddings:
        """Embed both views of prepared pictures."""
        if not images:
            return self._no_embeddings()
        rgb, edges = np.stack([image.rgb for image in images]), self._stack_edges([image.edges for image in images])
        if self.edge_branch is None and len(images) <= MAX_JOINED_PICTURES:
            both = self._towers.images(np.concatenate([rgb, grey_pictures(edges)]))
            return ViewEmbeddings(_finite(both[: len(images)]), _finite(both[len(images) :]))
        return ViewEmbeddings(_finite(self._towers.images(rgb)), _finite(self._towers.edges(edges)))

    def encode_rgb(self, rgb: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed the appearance alone of resized pictures, uint8 `(S, S, 3)`, into unit rows `(N, D)`."""
        return _finite(self._towers.images(np.stack(rgb))) if rgb else self._no_rows()

    def encode_edge_maps(self, edges: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed edge maps, uint8 `(S, S)` with white lines on black, into unit rows `(N, D)`.

        Raises:
            ValueError: If a map has another shape than the model's input.
        """
        if not edges:
            return self._no_rows()
        return _finite(self._towers.edges(self._stack_edges(edges)))

    def encode_texts(self, texts: Sequence[PreparedText]) -> ViewEmbeddings:
        """Embed full texts (appearance) and their structural parts (structure)."""
        if not texts:
            return self._no_embeddings()
        rows = self._encode_rows([text.tokens for text in texts] + [text.structural_tokens for text in texts])
        return ViewEmbeddings(_finite(rows[: len(texts)]), _finite(rows[len(texts) :]))

    def encode_tokens(self, tokens: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Embed token rows, int64 `(L,)` each of its own length, into unit rows `(N, D)`."""
        return _finite(self._encode_rows(tokens)) if tokens else self._no_rows()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return int64 `(B, L)`, `L` the longest text where the tower may be cut, else the context length."""
        return self._pad([self.tokenizer.encode(text).ids for text in texts]).to(self.device)

    def embed_rgb(self, rgb_BHWC: Tensor) -> Tensor:
        """Embed uint8 pictures `(B, S, S, 3)` into unit rows `(B, D)`, with gradients where torch records them."""
        return self.embed_pixels(self.preprocessing.normalize_tensor(rgb_BHWC))

    def embed_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed normalised pictures into unit rows `(B, D)`, with gradients where torch records them."""
        return F.normalize(self._image_features(pixels_BCHW), dim=-1)

    def embed_edges(self, edges_BHW: Tensor) -> Tensor:
        """Embed uint8 edge maps into unit rows `(B, D)`, with gradients where torch records them."""
        if self.edge_branch is not None:
            return torch.as_tensor(self.edge_branch(edges_BHW))
        return self.embed_pixels(self.preprocessing.normalize_tensor(edges_BHW))

    def embed_tokens(self, tokens_BL: Tensor) -> Tensor:
        """Embed tokens from `tokenize` into unit rows `(B, D)`, with gradients where torch records them."""
        return F.normalize(self.text_tower.embed(tokens_BL), dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return every weight: the model's under `model.`, the edge branch's under `edge_branch.`."""
        return {
            f"{part}.{key}": tensor
            for part, module in self._parts().items()
            for key, tensor in module.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy weights in, converted to this encoder's own precision.

        Raises:
            RuntimeError: If a weight is missing, left over, or has another shape.
        """
        nn.ModuleDict(self._parts()).load_state_dict(dict(state), strict=True)
        self._weights_file = None  # which has others now

    def use_weights_of(self, file: MappedFile, state: Mapping[str, Tensor] | None = None) -> None:
        """Use weights that lie in a mapped file, for an encoder whose weights will not change any more.

        Args:
            file: Where they lie.
            state: All of them; one that is not of this encoder's precision or layout is copied. Left out where the
                model has them already.

        Raises:
            RuntimeError: If a weight is missing, left over, or has another shape.
        """
        if state is not None:
            use_tensors(nn.ModuleDict(self._parts()), state)
        self._weights_file = file

    def let_go_of_weights(self) -> None:
        """Give back the memory of weights that lie in a file, until the modules are run again."""
        if self._weights_file is not None:
            self._weights_file.let_go()

    def describe(self) -> dict[str, JsonValue]:
        """Return what a user may want to know about the model, as JSON."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "dimension": self.dimension,
            "image_size": self.image_size,
            "context_length": self.context_length,
            "device": self.device,
            "execution": dict(self._towers.describe()),
            "num_parameters": sum(p.numel() for module in self._parts().values() for p in module.parameters()),
            "image_tower": _tower_name(self.architecture["vision_cfg"]),
            "preprocessing": self.preprocessing.config(),
            "edges": self.edge_detector.config(),
            "edge_branch": asdict(self.edge_branch_config),
            "captions": self.caption_filter.config(),
            "default_structure_weight": self.default_structure_weight,
            "structure_is_trained": self.structure_is_trained,
            **self.card.details,
        }

    def _parts(self) -> dict[str, nn.Module]:
        return {"model": self.model} | ({"edge_branch": self.edge_branch} if self.edge_branch is not None else {})

    def _image_features(self, pixels_BCHW: Tensor) -> Tensor:
        encode_image: Any = self.model.encode_image
        return torch.as_tensor(encode_image(pixels_BCHW))

    def _stack_edges(self, edges: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        side = self.image_size
        for edge_map in edges:
            if edge_map.shape != (side, side) or edge_map.dtype != np.uint8:
                raise ValueError(f"expected uint8 edge maps of {(side, side)}, got {edge_map.dtype} {edge_map.shape}")
        return np.stack(edges)

    def _encode_rows(self, rows: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Embed each different row once, in batches of rows of about one length."""
        numbers: dict[bytes, int] = {}
        number_of = [numbers.setdefault(row.tobytes(), len(numbers)) for row in rows]
        different = [np.frombuffer(row, dtype=np.int64) for row in numbers]
        found = np.empty((len(different), self.dimension), dtype=np.float32)
        for batch in split_by_length([len(row) for row in different], spare=self._towers.spare_tokens):
            found[batch] = self._towers.tokens(self._pad([different[i] for i in batch]).numpy())
        return found[number_of]

    def _pad(self, rows: Sequence[NDArray[np.int64]]) -> Tensor:
        length = None if self.text_tower.is_cuttable else self.context_length
        return self.tokenizer.pad(rows, length=length)

    def _no_rows(self) -> NDArray[np.float32]:
        return np.empty((0, self.dimension), dtype=np.float32)

    def _no_embeddings(self) -> ViewEmbeddings:
        return ViewEmbeddings(self._no_rows(), self._no_rows())


def _finite(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if broken.size:
        raise EncodingError(f"the model gave numbers that are not finite for item {broken[0]} of {len(rows)}")
    return rows


def _tower_name(vision: Mapping[str, Any]) -> str:
    if "timm_model_name" in vision:
        return str(vision["timm_model_name"])
    return f"{vision.get('layers', 12)} layers of width {vision.get('width', 768)}"


def _check_sizes(model: Any, preprocessing: Preprocessing, tower: TextTower, tokenizer: TextTokenizer) -> None:
    size = getattr(model.visual, "image_size", preprocessing.image_size)
    sides = set(size) if isinstance(size, (tuple, list)) else {size}
    if sides != {preprocessing.image_size}:
        raise UnsupportedModelError(
            f"the image tower takes {size} pixels, the preprocessing gives {preprocessing.image_size} squared"
        )
    if tower.context_length < tokenizer.context_length:
        raise UnsupportedModelError(
            f"the text tower has {tower.context_length} positions, the tokenizer fills {tokenizer.context_length}"
        )
