"""Files of pictures, good and bad, made by program: what a service for untrusted pictures must meet."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin

ORIENTATION = 0x0112


@dataclass(frozen=True)
class GoodPicture:
    """A file that must be taken.

    Attributes:
        name: Says what is odd about it; its ending may lie.
        data: The file.
        media_type: What it is.
        size: Width and height, upright.
        rgb: What it shows, shape ``(H, W, 3)``, before the file's own losses; None when the kind does not keep it.
    """

    name: str
    data: bytes
    media_type: str
    size: tuple[int, int]
    rgb: NDArray[np.uint8]


@dataclass(frozen=True)
class BadPicture:
    """A file that must be refused, with the problem type that says why."""

    name: str
    data: bytes
    problem_type: str


def scene(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Draw four flat quarters of different colours: easy to recognise after any loss, turn or scale."""
    colours = np.random.default_rng(seed).permutation(
        np.array([[220, 30, 40], [30, 160, 60], [40, 60, 210], [230, 210, 60], [120, 120, 120]], np.uint8)
    )[:4]
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2] = colours[0]
    rgb[: height // 2, width // 2 :] = colours[1]
    rgb[height // 2 :, : width // 2] = colours[2]
    rgb[height // 2 :, width // 2 :] = colours[3]
    return rgb


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return the file of a picture."""
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(rgb: NDArray[np.uint8], **options: object) -> bytes:
    """Return a JPEG of high quality."""
    return encoded(Image.fromarray(rgb), "JPEG", **{"quality": 92, **options})


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """Return one PNG chunk with its right checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png_file(width: int, height: int, *, bits: int, colour_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Return a PNG from filtered rows, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows, 9))
        + png_chunk(b"IEND", b"")
    )


def bomb_png(side: int = 12_000) -> bytes:
    """Return a PNG of ``side`` squared grey pixels that are all zero: 144 megapixels in 140 KB."""
    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", packed) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def rotated_jpeg(rgb: NDArray[np.uint8], orientation: int) -> bytes:
    """Return a JPEG that is stored turned, with the EXIF orientation that puts it upright."""
    stored = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, 1),
        7: np.rot90(rgb, 2).transpose(1, 0, 2),
        8: np.rot90(rgb, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return jpeg(np.ascontiguousarray(stored), exif=exif.tobytes())


def rgb_16_bit_png(rgb: NDArray[np.uint8]) -> bytes:
    """Return a PNG with 16 bits a channel."""
    samples = (rgb.astype(np.uint32) * 257).astype(">u2")
    rows = b"".join(b"\x00" + samples[row].tobytes() for row in range(rgb.shape[0]))
    return png_file(rgb.shape[1], rgb.shape[0], bits=16, colour_type=2, rows=rows)


def without_segment(data: bytes, marker: int) -> bytes:
    """Return a JPEG without the header segments of one marker."""
    kept, position = bytearray(data[:2]), 2
    while data[position + 1] != 0xDA:
        length = 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] != marker:
            kept += data[position : position + length]
        position += length
    return bytes(kept) + data[position:]


def _grey(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(rgb).convert("L"))


def _as_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=2)


def _with_hole(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make the first quarter transparent: the RGBA pixels, and what they show on white."""
    height, width = rgb.shape[:2]
    alpha = np.full((height, width, 1), 255, np.uint8)
    alpha[: height // 2, : width // 2] = 0
    shown = rgb.copy()
    shown[: height // 2, : width // 2] = 255
    return np.concatenate([rgb, alpha], axis=2), shown


def _good_kinds() -> dict[str, Callable[[NDArray[np.uint8]], tuple[bytes, str, NDArray[np.uint8]]]]:
    """One maker for each kind of file: from a scene to the file, its media type and what it shows."""

    def image(rgb: NDArray[np.uint8]) -> Image.Image:
        return Image.fromarray(rgb)

    def other(rgb: NDArray[np.uint8]) -> Image.Image:
        return image(255 - rgb)

    def alpha_png(rgb: NDArray[np.uint8]) -> tuple[bytes, str, NDArray[np.uint8]]:
        rgba, shown = _with_hole(rgb)
        return encoded(Image.fromarray(rgba), "PNG"), "image/png", shown

    def alpha_webp(rgb: NDArray[np.uint8]) -> tuple[bytes, str, NDArray[np.uint8]]:
        rgba, shown = _with_hole(rgb)
        return encoded(Image.fromarray(rgba), "WEBP", lossless=True), "image/webp", shown

    def grey_alpha_png(rgb: NDArray[np.uint8]) -> tuple[bytes, str, NDArray[np.uint8]]:
        rgba, shown = _with_hole(_as_rgb(_grey(rgb)))
        return encoded(Image.fromarray(rgba).convert("LA"), "PNG"), "image/png", shown

    def transparent_palette(kind: str) -> Callable[[NDArray[np.uint8]], tuple[bytes, str, NDArray[np.uint8]]]:
        def make(rgb: NDArray[np.uint8]) -> tuple[bytes, str, NDArray[np.uint8]]:
            picture = image(rgb).quantize(16)
            index = picture.getpixel((0, 0))
            shown = rgb.copy()
            shown[(rgb == rgb[0, 0]).all(axis=2)] = 255
            return encoded(picture, kind, transparency=index), f"image/{kind.lower()}", shown

        return make

    def orientation(value: int) -> Callable[[NDArray[np.uint8]], tuple[bytes, str, NDArray[np.uint8]]]:
        return lambda rgb: (rotated_jpeg(rgb, value), "image/jpeg", rgb)

    def text_png(rgb: NDArray[np.uint8]) -> tuple[bytes, str, NDArray[np.uint8]]:
        notes = PngImagePlugin.PngInfo()
        notes.add_text("Comment", "hello", zip=True)
        return encoded(image(rgb), "PNG", pnginfo=notes), "image/png", rgb

    def tiff(compression: str) -> Callable[[NDArray[np.uint8]], tuple[bytes, str, NDArray[np.uint8]]]:
        return lambda rgb: (encoded(image(rgb), "TIFF", compression=compression), "image/tiff", rgb)

    def bilevel(rgb: NDArray[np.uint8]) -> tuple[bytes, str, NDArray[np.uint8]]:
        grey = np.where(_grey(rgb) > 110, 255, 0).astype(np.uint8)
        return encoded(Image.fromarray(grey).convert("1"), "PNG"), "image/png", _as_rgb(grey)

    return {
        "plain.jpg": lambda rgb: (jpeg(rgb), "image/jpeg", rgb),
        "progressive.jpg": lambda rgb: (jpeg(rgb, progressive=True), "image/jpeg", rgb),
        "grey.jpg": lambda rgb: (encoded(image(rgb).convert("L"), "JPEG"), "image/jpeg", _as_rgb(_grey(rgb))),
        "cmyk.jpg": lambda rgb: (encoded(image(rgb).convert("CMYK"), "JPEG"), "image/jpeg", rgb),
        "cmyk-not-inverted.jpg": lambda rgb: (
            without_segment(encoded(image(255 - rgb).convert("RGB").convert("CMYK"), "JPEG"), 0xEE),
            "image/jpeg",
            _cmyk_inverted(255 - rgb),
        ),
        "exif-3.jpg": orientation(3),
        "exif-6.jpg": orientation(6),
        "exif-8.jpg": orientation(8),
        "zip-behind.jpg": lambda rgb: (jpeg(rgb) + b"PK\x03\x04" + bytes(200), "image/jpeg", rgb),
        "html-behind.jpg": lambda rgb: (jpeg(rgb) + b"<html><script>alert(1)</script>", "image/jpeg", rgb),
        "garbage-profile.jpg": lambda rgb: (jpeg(rgb, icc_profile=b"not a profile" * 50), "image/jpeg", rgb),
        "plain.png": lambda rgb: (encoded(image(rgb), "PNG"), "image/png", rgb),
        "a-png-named.jpg": lambda rgb: (encoded(image(rgb), "PNG"), "image/png", rgb),
        "palette.png": lambda rgb: (encoded(image(rgb).quantize(16), "PNG"), "image/png", rgb),
        "palette-transparent.png": transparent_palette("PNG"),
        "alpha.png": alpha_png,
        "grey-alpha.png": grey_alpha_png,
        "bilevel.png": bilevel,
        "grey-16.png": lambda rgb: (
            encoded(Image.fromarray(_grey(rgb).astype(np.uint16) * 257), "PNG"),
            "image/png",
            _as_rgb(_grey(rgb)),
        ),
        "rgb-16.png": lambda rgb: (rgb_16_bit_png(rgb), "image/png", rgb),
        "text.png": text_png,
        "animated.png": lambda rgb: (
            encoded(image(rgb), "PNG", save_all=True, append_images=[other(rgb)]),
            "image/png",
            rgb,
        ),
        "plain.webp": lambda rgb: (encoded(image(rgb), "WEBP", quality=90), "image/webp", rgb),
        "alpha.webp": alpha_webp,
        "animated.webp": lambda rgb: (
            encoded(image(rgb), "WEBP", save_all=True, append_images=[other(rgb)], lossless=True),
            "image/webp",
            rgb,
        ),
        "plain.gif": lambda rgb: (encoded(image(rgb), "GIF"), "image/gif", rgb),
        "transparent.gif": transparent_palette("GIF"),
        "animated.gif": lambda rgb: (
            encoded(image(rgb), "GIF", save_all=True, append_images=[other(rgb)]),
            "image/gif",
            rgb,
        ),
        "plain.bmp": lambda rgb: (encoded(image(rgb), "BMP"), "image/bmp", rgb),
        "plain.tiff": tiff("raw"),
        "deflate.tiff": tiff("tiff_adobe_deflate"),
        "lzw.tiff": tiff("tiff_lzw"),
        "grey-16.tiff": lambda rgb: (
            encoded(Image.fromarray(_grey(rgb).astype(np.uint16) * 257), "TIFF"),
            "image/tiff",
            _as_rgb(_grey(rgb)),
        ),
        "two-pages.tiff": lambda rgb: (
            encoded(image(rgb), "TIFF", save_all=True, append_images=[other(rgb)]),
            "image/tiff",
            rgb,
        ),
    }


def _cmyk_inverted(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a reader shows that takes Pillow's (inverted) CMYK samples as they are stored."""
    stored = 255 - np.asarray(Image.fromarray(rgb).convert("CMYK"))
    return np.asarray(Image.fromarray(stored, "CMYK").convert("RGB"))


def good_pictures(n: int, seed: int = 0) -> list[GoodPicture]:
    """Make ``n`` different pictures, going round all kinds of files."""
    kinds = list(_good_kinds().items())
    pictures = []
    for number in range(n):
        name, make = kinds[number % len(kinds)]
        random = np.random.default_rng((seed, number))
        width, height = (int(side) for side in random.integers(40, 120, 2))
        data, media_type, rgb = make(scene(width, height, seed=seed * 100_003 + number))
        pictures.append(GoodPicture(f"{number}-{name}", data, media_type, (width, height), rgb))
    return pictures


def num_good_kinds() -> int:
    """How many kinds of good files there are: `good_pictures` of so many has each once."""
    return len(_good_kinds())


def bad_pictures() -> list[BadPicture]:
    """Make one file for each thing that can be wrong."""
    rgb = np.random.default_rng(7).integers(0, 256, (96, 128, 3), np.uint8)
    picture = Image.fromarray(rgb)
    whole_jpeg, whole_png = jpeg(rgb), encoded(picture, "PNG")
    unreadable, unsupported = "/problems/image-unreadable", "/problems/image-unsupported"
    too_many, too_small = "/problems/image-too-many-pixels", "/problems/image-too-small"
    cut = [
        BadPicture(f"truncated.{kind.lower()}", data[: len(data) * 6 // 10], unreadable)
        for kind, data in (
            ("JPEG", whole_jpeg),
            ("PNG", whole_png),
            ("WEBP", encoded(picture, "WEBP")),
            ("GIF", encoded(picture, "GIF")),
            ("BMP", encoded(picture, "BMP")),
            ("TIFF", encoded(picture, "TIFF")),
        )
    ]
    wrong_checksum = bytearray(whole_png)
    wrong_checksum[-20] ^= 0x55
    return [
        *cut,
        BadPicture("empty.jpg", b"", "/problems/image-empty"),
        BadPicture("text-named.jpg", b"this is no picture at all, whatever its name says\n", unsupported),
        BadPicture("page.html.png", b"<!DOCTYPE html><html><body>no</body></html>", unsupported),
        BadPicture("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', unsupported),
        BadPicture("paper.pdf", b"%PDF-1.7\n1 0 obj\n", unsupported),
        BadPicture("photo.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", unsupported),
        BadPicture("zeros.bin", bytes(5000), unsupported),
        BadPicture("bomb.png", bomb_png(), too_many),
        BadPicture("huge-header.png", huge_header_png(), too_many),
        BadPicture("huge-header.jpg", huge_header_jpeg(whole_jpeg), too_many),
        BadPicture("huge-canvas.webp", huge_canvas_webp(), too_many),
        BadPicture("huge-screen.gif", huge_screen_gif(), too_many),
        BadPicture("huge-header.bmp", huge_header_bmp(), too_many),
        BadPicture("huge-header.tiff", huge_tiff(), too_many),
        BadPicture("huge-tile.tiff", huge_tile_tiff(), too_many),
        BadPicture("many-scans.jpg", many_scans_jpeg(), too_many),
        BadPicture("text-bomb.png", text_bomb_png(), unreadable),
        BadPicture("1x1.png", encoded(Image.new("RGB", (1, 1)), "PNG"), too_small),
        BadPicture("1x1.gif", encoded(Image.new("P", (1, 1)), "GIF"), too_small),
        BadPicture("500x3.jpg", encoded(Image.new("RGB", (500, 3)), "JPEG"), too_small),
        BadPicture("checksum.png", bytes(wrong_checksum), unreadable),
        BadPicture("only-the-signature.png", whole_png[:8], unreadable),
        BadPicture("only-the-signature.jpg", whole_jpeg[:3], unreadable),
        BadPicture("only-the-signature.webp", b"RIFF\x00\x00\x00\x00WEBP", unreadable),
        BadPicture("float.tiff", encoded(Image.new("F", (20, 20), 0.5), "TIFF"), unsupported),
        BadPicture("int32.tiff", encoded(Image.new("I", (20, 20), 70_000), "TIFF"), unsupported),
    ]


def huge_header_png() -> bytes:
    """Return a PNG of a few bytes that says it is 30,000 pixels a side."""
    return png_file(30_000, 30_000, bits=8, colour_type=2, rows=b"\x00" * 100)


def huge_header_jpeg(data: bytes) -> bytes:
    """Return a JPEG whose frame header says 65,000 pixels a side."""
    position = data.index(b"\xff\xc0")
    return data[: position + 5] + struct.pack(">HH", 65_000, 65_000) + data[position + 9 :]


def huge_canvas_webp() -> bytes:
    """Return an extended WebP whose canvas is 16,384 pixels a side."""
    canvas = b"\x02\x00\x00\x00" + (16_383).to_bytes(3, "little") * 2
    chunk = b"VP8X" + struct.pack("<I", len(canvas)) + canvas
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def huge_screen_gif() -> bytes:
    """Return a GIF whose logical screen is 65,535 pixels a side, with a frame of a few pixels."""
    data = encoded(Image.new("P", (20, 20)), "GIF")
    return data[:6] + struct.pack("<HH", 65_535, 65_535) + data[10:]


def huge_header_bmp() -> bytes:
    """Return a BMP that says it is 40,000 pixels a side."""
    data = encoded(Image.new("RGB", (20, 20)), "BMP")
    return data[:18] + struct.pack("<ii", 40_000, 40_000) + data[26:]


def huge_tiff() -> bytes:
    """Return a TIFF that says it is 50,000 pixels a side."""
    return _tiff({256: 50_000, 257: 50_000})


def huge_tile_tiff() -> bytes:
    """Return a TIFF of 64 pixels a side in one deflated tile of 30,000: the decoder would hold the tile."""
    return _tiff({256: 64, 257: 64, 259: 8, 322: 30_000, 323: 30_000})


def _tiff(longs: dict[int, int]) -> bytes:
    """Return a little-endian grey TIFF with these tags and a strip (or tile) of zeros."""
    strip = zlib.compress(bytes(4096)) if longs.get(259) == 8 else bytes(4096)
    tags = {258: 8, 259: 1, 262: 1, 277: 1, **longs}
    offset_tag, count_tag = (324, 325) if 322 in longs else (273, 279)
    tags |= {offset_tag: 8, count_tag: len(strip)}
    if 322 not in longs:
        tags[278] = longs[257]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\x00" + struct.pack("<I", 8 + len(strip)) + strip + directory


def many_scans_jpeg(num_scans: int = 3000) -> bytes:
    """Return a progressive JPEG of nine megapixels that repeats its last scan: each costs a pass over everything."""
    data = encoded(Image.new("L", (3000, 3000), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    return data[:last] + scan * num_scans + b"\xff\xd9"


def text_bomb_png() -> bytes:
    """Return a PNG with a compressed text of 200 MB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    rows = (b"\x00" + bytes(20)) * 20
    chunk = png_chunk(b"zTXt", b"Comment\x00\x00" + packed)
    return png_file(20, 20, bits=8, colour_type=0, rows=rows, extra=chunk)


def oriented_tiff(rgb: NDArray[np.uint8], orientation: int) -> bytes:
    """Return a TIFF with an orientation tag; the pixels are stored as ``rgb``."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    return encoded(Image.fromarray(rgb), "TIFF", tiffinfo=tags)
