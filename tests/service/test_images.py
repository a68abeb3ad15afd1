"""Untrusted bytes: good files decode to what they show, bad ones get their own problem, and nothing else."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.images import (
    ImageLimits,
    _count_jpeg_scans,
    decode_image,
    encode_png,
    inspect_image,
    make_thumbnail,
)
from service.problems import (
    ImageProblem,
    ImageTooLarge,
    ImageTooManyPixels,
    ImageTooSmall,
    ImageUnreadable,
)
from tests.support.pictures import (
    BadPicture,
    GoodPicture,
    bad_pictures,
    encoded,
    good_pictures,
    jpeg,
    num_good_kinds,
    oriented_tiff,
    rotated_jpeg,
    scene,
)

LIMITS = ImageLimits()
GOOD = good_pictures(num_good_kinds(), seed=1)
BAD = bad_pictures()


@pytest.mark.parametrize("picture", GOOD, ids=lambda picture: picture.name)
def test_a_good_file_decodes_to_what_it_shows(picture: GoodPicture) -> None:
    decoded = decode_image(picture.data, LIMITS)
    assert decoded.media_type == picture.media_type
    assert (decoded.width, decoded.height) == picture.size
    assert decoded.content_hash == hashlib.sha256(picture.data).hexdigest()
    assert decoded.rgb.dtype == np.uint8
    assert decoded.rgb.shape == picture.rgb.shape
    assert decoded.rgb.flags.c_contiguous
    # The largest loss is JPEG's and WebP's, at the borders of the four quarters.
    assert np.abs(decoded.rgb.astype(int) - picture.rgb.astype(int)).mean() < 8


@pytest.mark.parametrize("picture", GOOD, ids=lambda picture: picture.name)
def test_the_header_of_a_good_file_says_its_kind_and_number_of_pixels(picture: GoodPicture) -> None:
    header = inspect_image(picture.data, LIMITS)
    assert header.media_type == picture.media_type
    assert header.num_pixels == picture.size[0] * picture.size[1]


@pytest.mark.parametrize("picture", BAD, ids=lambda picture: picture.name)
def test_a_bad_file_gets_its_own_problem(picture: BadPicture) -> None:
    with pytest.raises(ImageProblem) as raised:
        decode_image(picture.data, LIMITS)
    assert raised.value.type == picture.problem_type
    assert "PIL" not in raised.value.detail


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_ends_upright(orientation: int) -> None:
    rgb = scene(64, 48, seed=5)
    decoded = decode_image(rotated_jpeg(rgb, orientation), LIMITS)
    assert (decoded.width, decoded.height) == (64, 48)
    assert np.abs(decoded.rgb.astype(int) - rgb.astype(int)).mean() < 8


@pytest.mark.parametrize(("orientation", "size"), [(1, (64, 48)), (3, (64, 48)), (6, (48, 64)), (8, (48, 64))])
def test_a_tiff_is_turned_once_and_reports_its_upright_size(orientation: int, size: tuple[int, int]) -> None:
    rgb = scene(64, 48, seed=5)
    decoded = decode_image(oriented_tiff(rgb, orientation), LIMITS)
    expected = {1: rgb, 3: rgb[::-1, ::-1], 6: np.rot90(rgb, -1), 8: np.rot90(rgb, 1)}[orientation]
    assert (decoded.width, decoded.height) == size
    assert np.array_equal(decoded.rgb, expected)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    decoded = decode_image(encoded(Image.fromarray(ramp), "PNG"), LIMITS)
    expected = np.round(ramp.astype(np.float64) * 255 / 65535).astype(int)
    assert np.array_equal(decoded.rgb[..., 0], expected)


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    rgba = np.full((20, 20, 4), (0, 0, 0, 128), np.uint8)
    decoded = decode_image(encoded(Image.fromarray(rgba), "PNG"), LIMITS)
    assert np.abs(decoded.rgb.astype(int) - 127).max() <= 1


def test_the_file_may_have_its_limit_of_bytes_and_not_one_more() -> None:
    data = jpeg(scene(40, 40, seed=1))
    decode_image(data, ImageLimits(max_bytes=len(data)))
    with pytest.raises(ImageTooLarge):
        inspect_image(data, ImageLimits(max_bytes=len(data) - 1))


def test_the_picture_may_have_its_limit_of_pixels_and_not_one_more() -> None:
    data = jpeg(scene(40, 30, seed=1))
    decode_image(data, ImageLimits(max_pixels=1200))
    with pytest.raises(ImageTooManyPixels, match="40 × 30 = 1200"):
        inspect_image(data, ImageLimits(max_pixels=1199))


def test_a_side_may_have_its_least_pixels_and_not_one_fewer() -> None:
    decode_image(encoded(Image.new("RGB", (8, 8)), "PNG"), LIMITS)
    with pytest.raises(ImageTooSmall, match="7 × 8"):
        decode_image(encoded(Image.new("RGB", (7, 8)), "PNG"), LIMITS)


def test_a_bomb_is_refused_without_its_pixels_being_held() -> None:
    bomb = next(picture for picture in BAD if picture.name == "bomb.png")
    tracemalloc.start()
    try:
        with pytest.raises(ImageTooManyPixels):
            decode_image(bomb.data, LIMITS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5_000_000


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_file_cut_anywhere_is_refused_or_complete(kind: str, progressive: bool) -> None:
    rgb = np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)
    options = {"progressive": True} if progressive and kind == "JPEG" else {}
    data = encoded(Image.fromarray(rgb), kind, **options)
    whole = decode_image(data, LIMITS).rgb
    num_refused = 0
    for length in range(1, len(data), 7):
        try:
            decoded = decode_image(data[:length], LIMITS)
        except ImageProblem:
            num_refused += 1
        else:
            assert np.array_equal(decoded.rgb, whole), f"{length} of {len(data)} bytes gave another picture"
    assert num_refused > 20


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (1201, 1999), (640, 480), (300, 5000)])
@pytest.mark.parametrize("min_side", [64, 224])
def test_a_jpeg_decoded_at_reduced_scale_stays_faithful(width: int, height: int, min_side: int) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), np.uint8)
    picture = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    data = encoded(picture, "JPEG", quality=92)
    full, reduced = decode_image(data, LIMITS), decode_image(data, LIMITS, min_side=min_side)
    assert (reduced.width, reduced.height) == (width, height) == (full.width, full.height)
    assert min(reduced.rgb.shape[:2]) >= min(2 * min_side, width, height)
    small = (min_side, min_side)
    from_full = np.asarray(Image.fromarray(full.rgb).resize(small, Image.Resampling.BICUBIC)).astype(int)
    from_reduced = np.asarray(Image.fromarray(reduced.rgb).resize(small, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(from_full - from_reduced).mean() < 2.0


def test_a_large_jpeg_really_is_decoded_at_reduced_scale() -> None:
    decoded = decode_image(jpeg(scene(1600, 1200, seed=1)), LIMITS, min_side=64)
    assert decoded.rgb.shape == (150, 200, 3)


def test_scans_are_counted_and_what_follows_the_end_is_not() -> None:
    rgb = scene(64, 64, seed=1)
    baseline, progressive = jpeg(rgb), jpeg(rgb, progressive=True)
    assert _count_jpeg_scans(baseline) == 1
    assert _count_jpeg_scans(progressive) == 10
    assert _count_jpeg_scans(baseline + b"\xff\xda\x00\x02" * 1000) == 1


def test_a_thumbnail_in_the_metadata_is_not_counted_as_a_scan() -> None:
    rgb = scene(64, 64, seed=1)
    exif = Image.Exif()
    exif[0x010E] = jpeg(scene(16, 16, seed=2)).decode("latin-1")
    assert _count_jpeg_scans(jpeg(rgb, exif=exif.tobytes())) == 1


def test_damaged_metadata_does_not_cost_the_picture() -> None:
    rgb = scene(64, 48, seed=5)
    good = rotated_jpeg(rgb, 6)
    position = good.index(b"Exif\x00\x00") + 6
    damaged = good[:position] + b"MM\x00\x2a\xff\xff\xff\xff" + good[position + 8 :]
    decoded = decode_image(damaged, LIMITS)
    assert (decoded.width, decoded.height) == (48, 64)  # as stored: its orientation is lost


def cause_of_failure(data: bytes) -> BaseException | None:
    try:
        decode_image(data, LIMITS)
    except ImageProblem as problem:
        return problem.__cause__
    return None


def test_pillow_does_not_warn_even_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in [*GOOD, *BAD]:
            cause = cause_of_failure(picture.data)
            assert not isinstance(cause, Warning), picture.name


def test_the_global_settings_of_pillow_stay_as_they_are() -> None:
    from PIL import ImageFile

    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for picture in BAD:
        with pytest.raises(ImageProblem):
            decode_image(picture.data, LIMITS)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_many_threads_decode_the_same_as_one() -> None:
    expected = {picture.name: decode_image(picture.data, LIMITS).rgb for picture in GOOD}
    wrong: list[str] = []

    def decode_all() -> None:
        for picture in GOOD:
            if not np.array_equal(decode_image(picture.data, LIMITS).rgb, expected[picture.name]):
                wrong.append(picture.name)

    threads = [threading.Thread(target=decode_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_running_out_of_memory_is_a_problem_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.PngImagePlugin import PngImageFile

    def fail(self: PngImageFile) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(ImageUnreadable):
        decode_image(encoded(Image.new("RGB", (20, 20)), "PNG"), LIMITS)


SMALL = [picture.data for picture in good_pictures(num_good_kinds(), seed=9) if sys.getsizeof(picture.data) < 60_000]


@settings(max_examples=800, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_a_picture_or_a_problem_and_nothing_else(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(SMALL)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Most of what matters stands at the beginning.
        end = data.draw(st.sampled_from([64, 512, len(mutated)]))
        position = data.draw(st.integers(0, min(end, len(mutated)) - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(mutated)))
        mutated[start:start] = data.draw(st.binary(max_size=40))
    limits = ImageLimits(max_pixels=1_000_000)
    try:
        decoded = decode_image(bytes(mutated), limits, min_side=16)
    except ImageProblem:
        return
    assert decoded.rgb.ndim == 3
    assert decoded.rgb.shape[2] == 3
    assert decoded.rgb.shape[0] * decoded.rgb.shape[1] <= limits.max_pixels


@settings(max_examples=300, deadline=None)
@given(
    magic=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"II*\x00",
            b"MM\x00*",
            b"RIFF\x00\x00\x00\x00WEBPVP8X",
        ]
    ),
    rest=st.binary(max_size=300),
)
def test_random_bytes_are_a_problem(magic: bytes, rest: bytes) -> None:
    with pytest.raises(ImageProblem):
        decode_image(magic + rest, LIMITS)


def test_a_thumbnail_fits_its_box_and_keeps_the_shape() -> None:
    thumbnail = Image.open(io.BytesIO(make_thumbnail(scene(400, 100, seed=1), 64)))
    assert thumbnail.format == "JPEG"
    assert thumbnail.size == (64, 16)


def test_a_thumbnail_of_a_small_picture_keeps_its_size() -> None:
    assert Image.open(io.BytesIO(make_thumbnail(scene(40, 20, seed=1), 64))).size == (40, 20)


def test_png_keeps_grey_and_colour_exactly() -> None:
    rgb = scene(30, 20, seed=1)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(rgb)))), rgb)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(rgb[..., 0].copy())))), rgb[..., 0])
