from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from structxlip.edges import (
    EdgeDetector,
    LearnedEdges,
    OtsuCanny,
    PercentileCanny,
    ScharrEdges,
    XDoG,
    build_edge_detector,
)
from structxlip.errors import ConfigError, ModelUnavailableError
from tests.support.shared_data import shared_path
from tests.support.tiny_onnx import write_convolution

PLAIN: list[EdgeDetector] = [PercentileCanny(), OtsuCanny(), ScharrEdges(), XDoG()]
every_detector = pytest.mark.parametrize("detector", PLAIN, ids=lambda d: d.kind)
pictures = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


def square(contrast: int = 100, *, base: int = 50, size: int = 64) -> NDArray[np.uint8]:
    picture = np.full((size, size, 3), base, dtype=np.uint8)
    picture[size // 4 : -size // 4, size // 4 : -size // 4] += contrast
    return picture


@every_detector
@settings(max_examples=30, deadline=None)
@given(picture=pictures)
def test_a_map_has_the_pictures_height_and_width_and_is_the_same_every_time(
    detector: EdgeDetector, picture: NDArray[np.uint8]
) -> None:
    edges = detector.detect(picture)
    assert edges.shape == picture.shape[:2]
    assert edges.dtype == np.uint8
    np.testing.assert_array_equal(edges, detector.detect(picture.copy()))


@every_detector
@pytest.mark.parametrize("level", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 64), (600, 600)])
def test_a_picture_of_one_colour_has_no_edges(detector: EdgeDetector, level: int, shape: tuple[int, int]) -> None:
    assert not detector.detect(np.full((*shape, 3), level, dtype=np.uint8)).any()


@every_detector
def test_lines_are_white_where_the_picture_changes_and_black_where_it_does_not(detector: EdgeDetector) -> None:
    edges = detector.detect(square())
    assert edges[30:34, 13:19].max() > 200  # across the left side
    assert not edges[:8].any()
    assert not edges[28:36, 28:36].any()


@every_detector
def test_faint_noise_makes_no_edges(detector: EdgeDetector) -> None:
    noise = np.random.default_rng(0).integers(100, 102, size=(64, 64, 1), dtype=np.uint8)
    assert detector.detect(noise.repeat(3, axis=2)).mean() < 40
    assert not PercentileCanny().detect(noise.repeat(3, axis=2)).any()


@pytest.mark.parametrize("detector", [PercentileCanny(), OtsuCanny()], ids=lambda d: d.kind)
def test_canny_maps_are_black_and_white_and_do_not_depend_on_contrast(detector: EdgeDetector) -> None:
    strong, weak = detector.detect(square(120)), detector.detect(square(30))
    assert set(np.unique(strong)) == {0, 255}
    np.testing.assert_array_equal(strong, weak)


def test_percentile_thresholds_are_those_of_the_full_gradient_histogram() -> None:
    picture = np.random.default_rng(1).integers(0, 256, size=(80, 90, 3), dtype=np.uint8)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    gradient_x = cv2.Sobel(grey, cv2.CV_16S, 1, 0, borderType=cv2.BORDER_REPLICATE)
    gradient_y = cv2.Sobel(grey, cv2.CV_16S, 0, 1, borderType=cv2.BORDER_REPLICATE)
    magnitude = np.abs(gradient_x).astype(int) + np.abs(gradient_y)
    low, high = np.percentile(magnitude, [70, 90], method="inverted_cdf")
    np.testing.assert_array_equal(PercentileCanny().detect(picture), cv2.Canny(gradient_x, gradient_y, low, high))


def test_a_large_pictures_edges_hardly_change_by_counting_one_pixel_in_four(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    picture = cv2.GaussianBlur(rng.integers(0, 256, size=(640, 640, 3), dtype=np.uint8), (0, 0), 3)
    subsampled = PercentileCanny().detect(picture)
    monkeypatch.setattr("structxlip.edges.SUBSAMPLE_FROM_PIXELS", 10**9)
    whole = PercentileCanny().detect(picture)
    assert (subsampled != whole).mean() < 0.002
    assert whole.any()


def test_edge_density_of_photographs_is_steady_across_exposure() -> None:
    photo = next(iter(sorted(shared_path("data/photos/images").glob("ade_*.jpg"))))
    picture = np.asarray(Image.open(photo).convert("RGB").resize((224, 224)))
    densities = [(PercentileCanny().detect((picture * gain).astype(np.uint8)) > 0).mean() for gain in (1.0, 0.6, 0.3)]
    assert min(densities) > 0.02
    assert max(densities) < 1.35 * min(densities)


@every_detector
def test_a_detector_is_made_again_from_its_own_config_in_json(detector: EdgeDetector) -> None:
    assert build_edge_detector(json.loads(json.dumps(detector.config()))) == detector


def test_only_what_differs_from_the_defaults_must_be_given() -> None:
    assert build_edge_detector({"kind": "percentile-canny", "high": 95.0}) == PercentileCanny(high=95.0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "unknown edge detector None; known: percentile-canny, otsu-canny"),
        ({"kind": "canny"}, "unknown edge detector 'canny'"),
        ({"kind": ["scharr"]}, "unknown edge detector"),
        ({"kind": "scharr", "whyte": 90}, "no parameter whyte; known: white, floor"),
        ({"kind": "scharr", "white": 0}, "white must be a percentile"),
        ({"kind": "scharr", "white": "high"}, "scharr"),
        ({"kind": "scharr", "floor": 0}, "floor must be above 0"),
        ({"kind": "percentile-canny", "low": 90, "high": 70}, "low <= high"),
        ({"kind": "percentile-canny", "floor": float("inf")}, "finite"),
        ({"kind": "otsu-canny", "low_ratio": 2}, "low_ratio must be between 0 and 1"),
        ({"kind": "xdog", "ratio": 1}, "ratio above 1"),
        ({"kind": "learned"}, "path"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_edge_detector(config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
    ids=["grey", "four channels", "empty", "floats"],
)
@every_detector
def test_anything_but_an_8_bit_rgb_picture_is_refused(detector: EdgeDetector, picture: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected a uint8 picture"):
        detector.detect(picture)


@pytest.fixture
def kernel() -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(scale=0.3, size=(1, 3, 3, 3)).astype(np.float32)


def test_a_learned_detector_gives_what_its_network_gives(tmp_path: Path, kernel: NDArray[np.float32]) -> None:
    path = write_convolution(tmp_path / "edges.onnx", kernel, size=(20, 30))
    picture = np.random.default_rng(4).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    mean, scale = (104.0, 117.0, 123.0), 0.02
    bgr = (picture[..., ::-1].astype(np.float32) - np.float32(mean)) * np.float32(scale)
    logits = torch.conv2d(torch.from_numpy(bgr.transpose(2, 0, 1)[None].copy()), torch.from_numpy(kernel), padding=1)
    detector = LearnedEdges(str(path), mean=mean, scale=scale, swap_red_blue=True, sigmoid=True)
    found, expected = detector.detect(picture), 255 * torch.sigmoid(logits)[0, 0].numpy()
    assert np.abs(found - expected).max() <= 0.51
    assert found.std() > 5


def test_a_learned_detector_scales_to_its_input_size_and_back(tmp_path: Path, kernel: NDArray[np.float32]) -> None:
    path = write_convolution(tmp_path / "edges.onnx", kernel, size=(16, 16))
    detector = LearnedEdges(str(path), scale=1 / 255, input_size=16)
    assert detector.detect(square(size=40)).shape == (40, 40)


def test_a_learned_detector_is_made_again_from_its_config(tmp_path: Path, kernel: NDArray[np.float32]) -> None:
    path = write_convolution(tmp_path / "edges.onnx", kernel, size=(16, 16))
    detector = LearnedEdges(str(path), mean=(1, 2, 3), input_size=16)
    again = build_edge_detector(json.loads(json.dumps(detector.config())))
    assert again == detector
    np.testing.assert_array_equal(again.detect(square()), detector.detect(square()))


def test_a_learned_detector_may_run_in_many_threads(tmp_path: Path, kernel: NDArray[np.float32]) -> None:
    path = write_convolution(tmp_path / "edges.onnx", kernel, size=(64, 64))
    detector = LearnedEdges(str(path), scale=1 / 255)
    inputs = [square(contrast) for contrast in range(20, 120, 5)]
    expected = [detector.detect(picture) for picture in inputs]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(detector.detect, inputs))
    np.testing.assert_array_equal(found, expected)


def test_a_learned_detector_whose_file_is_missing_broken_or_another_says_so(
    tmp_path: Path, kernel: NDArray[np.float32]
) -> None:
    with pytest.raises(ModelUnavailableError, match=r"none\.onnx cannot be read .*put the ONNX file there"):
        LearnedEdges(os.fspath(tmp_path / "none.onnx"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network at all")
    with pytest.raises(ModelUnavailableError, match="not an ONNX network"):
        LearnedEdges(str(broken))
    path = write_convolution(tmp_path / "edges.onnx", kernel, size=(16, 16))
    with pytest.raises(ModelUnavailableError, match="it is another file"):
        LearnedEdges(str(path), sha256="0" * 64)
