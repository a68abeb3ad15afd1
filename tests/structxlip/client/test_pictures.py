from __future__ import annotations

from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from PIL import Image

from structxlip.client import picture_bytes
from structxlip.client.pictures import picture_name
from tests.support.pictures import ORIENTATION, jpeg, scene

SHAPES = st.sampled_from([(7, 5), (7, 5, 1), (7, 5, 3), (7, 5, 4)])


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def test_a_file_is_sent_byte_for_byte_however_it_is_given(tmp_path: Path) -> None:
    data = jpeg(scene(40, 30, seed=1))
    path = tmp_path / "a b.jpg"
    path.write_bytes(data)
    with path.open("rb") as file:
        given = [path, str(path), data, bytearray(data), memoryview(data), BytesIO(data), file]
        assert [picture_bytes(form) for form in given] == [data] * len(given)  # type: ignore[arg-type]
    assert (picture_name(path), picture_name(data)) == ("a b.jpg", "picture")


@given(SHAPES.flatmap(lambda shape: np_st.arrays(np.uint8, shape)))
def test_an_array_comes_back_from_its_file(array: np.ndarray) -> None:
    assert np.array_equal(np.asarray(opened(picture_bytes(array))).reshape(array.shape), array)


def test_a_mask_is_black_and_white_and_a_view_is_what_it_shows() -> None:
    mask = np.eye(4, dtype=bool)
    assert np.array_equal(np.asarray(opened(picture_bytes(mask))), mask * np.uint8(255))
    rgb = scene(20, 10, seed=2)
    assert np.array_equal(np.asarray(opened(picture_bytes(rgb[:, ::-1]))), rgb[:, ::-1])


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)],
    ids=str,
)
def test_an_array_that_is_no_picture_is_refused_with_what_would_be(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected an array of uint8 or bool .*; received"):
        picture_bytes(array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "LAB", "HSV", "F"])
def test_every_kind_of_pillow_picture_becomes_a_file(mode: str) -> None:
    picture = Image.new(mode, (6, 4))
    assert opened(picture_bytes(picture)).size == (6, 4)


def test_a_pillow_picture_is_sent_as_a_viewer_shows_it() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = BytesIO()
    Image.fromarray(scene(40, 30, seed=3)).save(file, "JPEG", exif=exif)
    sent = opened(picture_bytes(Image.open(file)))
    assert sent.size == (30, 40)
    assert sent.getexif().get(ORIENTATION, 1) == 1


def test_what_is_no_picture_is_a_type_error() -> None:
    for wrong in (None, 3, ["a.jpg"], StringIO("text")):
        with pytest.raises(TypeError, match="expected"):
            picture_bytes(wrong)  # type: ignore[arg-type]
