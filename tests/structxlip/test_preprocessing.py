from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from structxlip.errors import ConfigError, UnsupportedModelError
from structxlip.preprocessing import Preprocessing

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def both(resize_mode: str, size: int, interpolation: str = "bicubic", fill: int = 0) -> tuple[Preprocessing, Any]:
    theirs = PreprocessCfg(
        size=size, mean=MEAN, std=STD, interpolation=interpolation, resize_mode=resize_mode, fill_color=fill
    )
    ours = Preprocessing.from_open_clip(vars(theirs))
    return ours, image_transform_v2(theirs, is_train=False)


@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
@pytest.mark.parametrize("shape", [(251, 336), (336, 251), (64, 64), (33, 48), (500, 120), (1, 1), (63, 65)])
@pytest.mark.parametrize("size", [64, 224])
def test_a_picture_becomes_exactly_what_open_clips_own_transform_makes_of_it(
    resize_mode: str, interpolation: str, shape: tuple[int, int], size: int
) -> None:
    ours, theirs = both(resize_mode, size, interpolation, fill=77)
    rgb = picture(*shape)
    found = ours.normalize([ours.resize(rgb)])[0]
    assert torch.equal(found, theirs(Image.fromarray(rgb)))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["squash", "shortest", "longest"]),
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(8, 40),
)
def test_it_agrees_with_open_clip_at_every_size_up_to_the_longest_strip(
    resize_mode: str, height: int, width: int, size: int
) -> None:
    ours, theirs = both(resize_mode, size)
    rgb = picture(height, width)
    resized = ours.resize(rgb)
    assert resized.shape == (size, size, 3)
    if max(height, width) <= 8 * min(height, width):
        assert torch.equal(ours.normalize([resized])[0], theirs(Image.fromarray(rgb)))


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1)])
@pytest.mark.parametrize("resize_mode", ["squash", "shortest", "longest"])
def test_a_strip_one_pixel_thin_costs_no_more_than_any_other_picture(
    resize_mode: Literal["squash", "shortest", "longest"], shape: tuple[int, int]
) -> None:
    ours, _ = both(resize_mode, 224)
    # Scaled as it is, the shorter side to 224, it would have 20 gigapixels.
    assert ours.resize(np.full((*shape, 3), 9, dtype=np.uint8)).shape == (224, 224, 3)


def test_a_strip_is_seen_at_its_middle() -> None:
    strip = np.zeros((10, 1000, 3), dtype=np.uint8)
    strip[:, 490:510] = 200
    ours, _ = both("shortest", 20)
    assert ours.resize(strip)[10, 10, 0] == 200


def test_a_batch_holds_what_each_picture_gives_alone_and_maps_become_three_equal_channels() -> None:
    ours, _ = both("squash", 32)
    rgbs = [ours.resize(picture(40, 50, seed)) for seed in range(5)]
    batch = ours.normalize(rgbs)
    assert batch.dtype == torch.float32
    assert all(torch.equal(batch[i : i + 1], ours.normalize([rgb])) for i, rgb in enumerate(rgbs))
    maps = [rgb[..., 0] for rgb in rgbs]
    assert torch.equal(ours.normalize(maps), ours.normalize([np.repeat(m[..., None], 3, axis=2) for m in maps]))


def test_known_values_come_out() -> None:
    ours = Preprocessing(2, "squash", "bicubic", 0, mean=(0.5, 0.5, 0.0), std=(0.5, 0.25, 1.0))
    pixels = np.array([[[0, 255, 51]] * 2] * 2, dtype=np.uint8)
    assert ours.normalize([pixels])[0, :, 0, 0].tolist() == pytest.approx([-1.0, 2.0, 0.2])


def test_resizing_may_run_in_many_threads() -> None:
    ours, _ = both("shortest", 64)
    rgbs = [picture(100 + seed, 150, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ours.resize, rgbs))
    np.testing.assert_array_equal(found, [ours.resize(rgb) for rgb in rgbs])


def test_a_read_only_picture_is_accepted_and_left_as_it_is() -> None:
    ours, _ = both("shortest", 32)
    rgb = picture(50, 40)
    before = rgb.copy()
    rgb.flags.writeable = False
    ours.resize(rgb[::2, ::-1])
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
    ids=["grey", "four channels", "empty", "floats"],
)
def test_anything_but_an_8_bit_rgb_picture_is_refused(wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected a uint8 picture"):
        both("squash", 32)[0].resize(wrong)


def test_a_model_whose_input_is_not_square_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="only square inputs"):
        Preprocessing.from_open_clip(vars(PreprocessCfg(size=(224, 336))))


@pytest.mark.parametrize(("field", "value"), [("image_size", 0), ("fill", 256), ("std", (1.0, 0.0, 1.0))])
def test_values_out_of_range_are_refused(field: str, value: Any) -> None:
    right = Preprocessing(32, "squash", "bicubic", 0, MEAN, STD)
    with pytest.raises(ConfigError, match=field):
        Preprocessing(**(right.config() | {field: value}))
