"""Edge maps: white lines (255) on black (0), at the model's own resolution.

Every detector is a frozen value that turns an RGB picture into one 8-bit map of the same height and width, is
deterministic, and can be written to JSON and read back: `build_edge_detector(detector.config()) == detector`.

Shapes: `H W` pixels. Pictures are uint8 `(H, W, 3)`, maps uint8 `(H, W)`.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from structxlip.errors import ConfigError, ModelUnavailableError

Picture: TypeAlias = NDArray[np.uint8]
EdgeMap: TypeAlias = NDArray[np.uint8]

# From this size on, one pixel in four is enough for a percentile (method.md, section 5).
SUBSAMPLE_FROM_PIXELS = 512 * 512
MAX_SOBEL_L1 = 2 * 4 * 255


class EdgeDetector(Protocol):
    """Finds the lines of a picture."""

    def detect(self, rgb: Picture) -> EdgeMap:
        """Return the edge map of an RGB picture, the same height and width."""

    def config(self) -> dict[str, JsonValue]:
        """Return what `build_edge_detector` needs to make an equal detector."""


@dataclass(frozen=True)
class PercentileCanny:
    """Canny with thresholds at two percentiles of the picture's own gradient magnitude.

    Relative thresholds keep the edge density constant across exposure and contrast, where fixed ones fail.

    Args:
        low: Percentile of the lower (hysteresis) threshold, 0 to 100.
        high: Percentile of the upper threshold, `low` to 100.
        floor: Least upper threshold, in units of the 3×3 Sobel L1 magnitude: a step of one grey level gives
            4. Without it the noise of an almost flat picture would become lines.
    """

    kind: ClassVar[str] = "percentile-canny"
    low: float = 70.0
    high: float = 90.0
    floor: float = 16.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 100:
            raise ConfigError(f"percentiles must satisfy 0 <= low <= high <= 100, got {self.low} and {self.high}")
        _require_at_least("floor", self.floor, 0)

    def detect(self, rgb: Picture) -> EdgeMap:
        """Return thin binary lines; a picture without contrast gives an empty map."""
        gradient_x, gradient_y = _sobel(_grey(rgb))
        low, high = _percentiles(_thin_out(_l1(gradient_x, gradient_y)), (self.low, self.high))
        return _canny(gradient_x, gradient_y, max(low, self.floor / 2), max(high, self.floor))

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class OtsuCanny:
    """Canny whose upper threshold parts the gradient magnitudes best in two classes (Otsu 1979).

    Args:
        low_ratio: The lower threshold as a share of the upper one, 0 to 1.
        floor: As in `PercentileCanny`.
    """

    kind: ClassVar[str] = "otsu-canny"
    low_ratio: float = 0.5
    floor: float = 16.0

    def __post_init__(self) -> None:
        if not 0 <= self.low_ratio <= 1:
            raise ConfigError(f"low_ratio must be between 0 and 1, got {self.low_ratio}")
        _require_at_least("floor", self.floor, 0)

    def detect(self, rgb: Picture) -> EdgeMap:
        """Return thin binary lines; a picture without contrast gives an empty map."""
        gradient_x, gradient_y = _sobel(_grey(rgb))
        magnitude = _l1(gradient_x, gradient_y)
        # OpenCV's Otsu wants 8 bits: a step of 128 grey levels or more counts as the strongest.
        halved = cv2.convertScaleAbs(magnitude, alpha=0.5)
        threshold = 2 * cv2.threshold(halved, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
        high = max(threshold, self.floor)
        return _canny(gradient_x, gradient_y, high * self.low_ratio, high)

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class ScharrEdges:
    """Gradient magnitude by Scharr's 3×3 operator, scaled so that a high percentile is white: a soft map.

    Args:
        white: Percentile of the magnitude that becomes 255, above 0 and up to 100.
        floor: Least magnitude that may become 255, in Scharr units: a step of one grey level gives 16.
    """

    kind: ClassVar[str] = "scharr"
    white: float = 99.0
    floor: float = 64.0

    def __post_init__(self) -> None:
        if not 0 < self.white <= 100:
            raise ConfigError(f"white must be a percentile above 0 and up to 100, got {self.white}")
        if self.floor <= 0:
            raise ConfigError(f"floor must be above 0, got {self.floor}")

    def detect(self, rgb: Picture) -> EdgeMap:
        """Return a soft map; a picture without contrast gives an empty one."""
        grey = _grey(rgb)
        magnitude = cv2.magnitude(cv2.Scharr(grey, cv2.CV_32F, 1, 0), cv2.Scharr(grey, cv2.CV_32F, 0, 1))
        white = max(float(np.percentile(_thin_out(magnitude), self.white)), self.floor)
        return _as_map(cv2.convertScaleAbs(magnitude, alpha=255 / white))

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class XDoG:
    """Extended difference of Gaussians: looks like line art.

    With ``D = p (G_σ − G_kσ)`` of the grey picture in 0..1, the ink is ``−tanh(φ (D + ε))`` where ``D < −ε``,
    else 0. Winnemöller, Kyprianidis, Olsen 2012 (doi:10.1016/j.cag.2012.03.004), without their luminance
    term, which fills dark areas with ink: an area without contrast is no edge, however dark.

    Args:
        sigma: Width of the narrower Gaussian, in pixels.
        ratio: Width of the wider one over the narrower, above 1.
        sharpness: `p`, the gain of the difference.
        threshold: `ε`, the difference that starts to count as a line.
        steepness: `φ`, how fast a line turns white.
    """

    kind: ClassVar[str] = "xdog"
    sigma: float = 1.0
    ratio: float = 1.6
    sharpness: float = 20.0
    threshold: float = 0.15
    steepness: float = 2.0

    def __post_init__(self) -> None:
        if self.sigma <= 0 or self.ratio <= 1 or self.sharpness <= 0 or self.steepness <= 0:
            raise ConfigError(
                "sigma, sharpness and steepness must be above 0 and ratio above 1, "
                f"got {self.sigma}, {self.sharpness}, {self.steepness} and {self.ratio}"
            )
        _require_at_least("threshold", self.threshold, 0)

    def detect(self, rgb: Picture) -> EdgeMap:
        """Return soft lines; a picture without contrast gives an empty map."""
        grey = _grey(rgb).astype(np.float32) / 255
        narrow = cv2.GaussianBlur(grey, (0, 0), self.sigma)
        wide = cv2.GaussianBlur(grey, (0, 0), self.sigma * self.ratio)
        depth = self.sharpness * (wide - narrow) - self.threshold
        ink = np.tanh(self.steepness * np.maximum(depth, 0))
        return _as_map(np.rint(255 * ink))

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters."""
        return _config_of(self)


@dataclass(frozen=True)
class LearnedEdges:
    """A learned detector (such as HED) in an ONNX file, run by OpenCV on the CPU.

    The network takes one picture ``scale · (picture − mean)`` of shape `(1, 3, H, W)`. Its last output,
    `(1, 1, H', W')`, is read as the strength of the edge, 0 to 1, and resized to the picture's size.

    Args:
        path: The ONNX file.
        mean: Subtracted from each channel, in the network's channel order and in grey levels 0 to 255.
        scale: Multiplies what is left.
        swap_red_blue: Whether the network was trained on pictures in the order blue, green, red.
        sigmoid: Whether the output is a logit that still needs the logistic function.
        input_size: Side of the square that the network takes; without it, the picture's own size.
        sha256: Of the file. Found when left out; checked when given, because other weights draw other lines.
    """

    kind: ClassVar[str] = "learned"
    path: str
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    swap_red_blue: bool = False
    sigmoid: bool = False
    input_size: int | None = None
    sha256: str = ""
    # A network of OpenCV keeps buffers between calls: each thread has its own.
    _of_thread: threading.local = field(
        default_factory=threading.local, init=False, repr=False, compare=False, hash=False
    )

    def __post_init__(self) -> None:
        if len(self.mean) != 3:
            raise ConfigError(f"mean must have three numbers, got {self.mean}")
        if self.input_size is not None:
            _require_at_least("input_size", self.input_size, 1)
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "sha256", self._checked_digest())
        self._network()

    def detect(self, rgb: Picture) -> EdgeMap:
        """Return a soft map, the network's answer times 255."""
        height, width = _checked(rgb).shape[:2]
        size = (self.input_size, self.input_size) if self.input_size else (width, height)
        network = self._network()
        network.setInput(cv2.dnn.blobFromImage(rgb, self.scale, size, self.mean, swapRB=self.swap_red_blue, crop=False))
        strength: NDArray[Any] = self._as_plane(network.forward())
        if self.sigmoid:
            strength = 1 / (1 + np.exp(-strength))
        if strength.shape != (height, width):
            strength = cv2.resize(strength, (width, height), interpolation=cv2.INTER_LINEAR)
        return _as_map(np.rint(255 * np.clip(strength, 0, 1)))

    def config(self) -> dict[str, JsonValue]:
        """Return the kind and the parameters, the file's digest among them."""
        return _config_of(self)

    def _checked_digest(self) -> str:
        try:
            with Path(self.path).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelUnavailableError(
                f"the edge model {self.path} cannot be read ({error.strerror}); put the ONNX file there or "
                "change `path` in the edge detector's configuration"
            ) from error
        if self.sha256 not in ("", found):
            raise ModelUnavailableError(
                f"the edge model {self.path} has SHA-256 {found}, expected {self.sha256}: it is another file"
            )
        return found

    def _network(self) -> Any:
        network = getattr(self._of_thread, "network", None)
        if network is None:
            try:
                network = cv2.dnn.readNetFromONNX(self.path)
            except cv2.error as error:
                raise ModelUnavailableError(
                    f"the edge model {self.path} is not an ONNX network that OpenCV {cv2.__version__} can "
                    f"run: {error.err}"
                ) from error
            self._of_thread.network = network
        return network

    def _as_plane(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        plane = np.squeeze(output)
        if plane.ndim != 2:
            raise ModelUnavailableError(
                f"the edge model {self.path} answered with shape {output.shape}, expected (1, 1, height, width)"
            )
        return plane


_DETECTORS: dict[str, type[PercentileCanny | OtsuCanny | ScharrEdges | XDoG | LearnedEdges]] = {
    detector.kind: detector for detector in (PercentileCanny, OtsuCanny, ScharrEdges, XDoG, LearnedEdges)
}


def build_edge_detector(config: Mapping[str, JsonValue]) -> EdgeDetector:
    """Make the detector that a configuration describes: its `kind`, and what differs from its defaults.

    Raises:
        ConfigError: If the kind or a parameter is unknown, or a value is out of range.
        ModelUnavailableError: If a learned detector's file cannot be used.
    """
    parameters: dict[str, Any] = dict(config)
    kind = parameters.pop("kind", None)
    if not isinstance(kind, str) or kind not in _DETECTORS:
        raise ConfigError(f"unknown edge detector {kind!r}; known: {', '.join(_DETECTORS)}")
    detector = _DETECTORS[kind]
    known = list(inspect.signature(detector).parameters)
    if unknown := sorted(set(parameters) - set(known)):
        raise ConfigError(f"edge detector {kind} has no parameter {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        return detector(**parameters)
    except TypeError as error:
        raise ConfigError(f"edge detector {kind}: {error}") from error


def _config_of(detector: Any) -> dict[str, JsonValue]:
    values = {f.name: getattr(detector, f.name) for f in fields(detector) if f.init}
    return {"kind": detector.kind} | {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
    }


def _require_at_least(name: str, value: float, least: float) -> None:
    if not value >= least or math.isinf(value):
        raise ConfigError(f"{name} must be a finite number of at least {least}, got {value}")


def _checked(rgb: Picture) -> Picture:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"expected a uint8 picture of shape (height, width, 3), got {rgb.dtype} {rgb.shape}")
    return rgb


def _grey(rgb: Picture) -> NDArray[np.uint8]:
    return _as_map(cv2.cvtColor(_checked(rgb), cv2.COLOR_RGB2GRAY))


def _sobel(grey: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    # Replicated borders: a constant picture has no gradient at its rim either.
    gradient_x, gradient_y = cv2.spatialGradient(grey, borderType=cv2.BORDER_REPLICATE)
    return gradient_x.astype(np.int16, copy=False), gradient_y.astype(np.int16, copy=False)


def _l1(gradient_x: NDArray[np.int16], gradient_y: NDArray[np.int16]) -> NDArray[np.int16]:
    # The norm that cv2.Canny itself compares with its thresholds; at most MAX_SOBEL_L1.
    return np.abs(gradient_x) + np.abs(gradient_y)


def _thin_out(plane: NDArray[Any]) -> NDArray[Any]:
    return plane[::2, ::2] if plane.size >= SUBSAMPLE_FROM_PIXELS else plane


def _percentiles(magnitude: NDArray[np.int16], percents: tuple[float, ...]) -> list[float]:
    """Return the least magnitudes that at least so many percent of the pixels do not exceed."""
    cumulated = np.cumsum(np.bincount(magnitude.ravel(), minlength=MAX_SOBEL_L1 + 1))
    return [float(np.searchsorted(cumulated, percent / 100 * cumulated[-1])) for percent in percents]


def _canny(gradient_x: NDArray[np.int16], gradient_y: NDArray[np.int16], low: float, high: float) -> EdgeMap:
    return _as_map(cv2.Canny(gradient_x, gradient_y, low, high))


def _as_map(plane: Any) -> NDArray[np.uint8]:
    return np.asarray(plane, dtype=np.uint8)
