"""Untrusted bytes → a bounded array of pixels, or a `Problem` that says what is wrong with them.

The order is what keeps it bounded: size in bytes, kind by content (never by name), dimensions from the
header, and only then pixels. Pillow decodes, one frame, at full or (JPEG) reduced scale; every way in which
it can fail becomes a problem, and a file that was cut off is refused rather than shown half grey.

Colour profiles are not applied: pixels are taken as sRGB, as the models' training pictures were.
"""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image, ImageChops
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from service.problems import (
    ImageEmpty,
    ImageTooLarge,
    ImageTooManyPixels,
    ImageTooSmall,
    ImageUnreadable,
    ImageUnsupported,
    Problem,
)

logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

Pixels = NDArray[np.uint8]

SUPPORTED_KINDS: Final = "JPEG, PNG, WebP, GIF, BMP or TIFF"

MAX_MISFIT_PIXELS: Final = 1 / 8

ORIENTATION_TAG: Final = 0x0112
TILE_WIDTH_TAG: Final = 322
TILE_LENGTH_TAG: Final = 323

# What EXIF's orientation 2..8 needs to stand upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's plugins are opened by their classes: `Image.open` warns about large pictures before we can refuse
# them, and would try plugins that we do not want.
_PLUGINS: Final[dict[str, type[ImageFile]]] = {
    "image/jpeg": JpegImageFile,
    "image/png": PngImageFile,
    "image/webp": WebPImageFile,
    "image/gif": GifImageFile,
    "image/bmp": BmpImageFile,
    "image/tiff": TiffImageFile,
}

_BMP_HEADER_SIZES: Final = frozenset(struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124))

# A marker of a JPEG: not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_JPEG_STANDALONE: Final = frozenset({0x01, 0xD8})
_JPEG_START_OF_SCAN: Final = 0xDA
_JPEG_END: Final = 0xD9

_PILLOW_MODULES: Final = re.compile(r"PIL\.")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How large, and how small, a picture may be.

    Attributes:
        max_bytes: Of the file.
        max_pixels: Width times height, of the picture and of anything the decoder must hold to get at it.
        min_side_pixels: A picture with a shorter side shows nothing that could be searched for.
        max_jpeg_scans: A progressive JPEG repeats the work for the whole picture in each scan. Usual files
            have ten; a picture of ``max_pixels`` may have so many, a smaller one more in proportion.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    min_side_pixels: int = 8
    max_jpeg_scans: int = 20


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself before it is decoded; its sides as stored, before EXIF orientation."""

    media_type: str
    width: int
    height: int

    @property
    def num_pixels(self) -> int:
        """Pixels of a full decode."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture ready for the model.

    Attributes:
        rgb: Shape ``(H, W, 3)``, contiguous; smaller than ``height`` × ``width`` when it was decoded at
            reduced scale.
        width: Of the original in pixels, after EXIF orientation.
        height: Of the original in pixels, after EXIF orientation.
        media_type: Found from the content.
        content_hash: SHA-256 of the file, hexadecimal.
    """

    rgb: Pixels
    width: int
    height: int
    media_type: str
    content_hash: str


def inspect_image(data: bytes, limits: ImageLimits) -> ImageHeader:
    """Read a file's header and check it against the limits; no pixel is decoded.

    Raises:
        ImageProblem: If the file is empty, too large in bytes or pixels, too small, unreadable or
            unsupported.
    """
    with _opened(data, limits) as (_, header):
        return header


def decode_image(data: bytes, limits: ImageLimits, *, min_side: int | None = None) -> DecodedImage:
    """Decode the first frame of a file to upright RGB on white.

    Args:
        data: The file.
        limits: What it may need.
        min_side: When only so many pixels a side are needed, a JPEG may be decoded at 1/2, 1/4 or 1/8 scale,
            but never to a shorter side than ``2 * min_side``, so that a later resize to ``min_side`` still
            averages true pixels.

    Raises:
        ImageProblem: As `inspect_image`, and if the pixels are damaged or cut off.
    """
    with _opened(data, limits) as (opened, header):
        if isinstance(opened, PngImageFile):
            _verify_png(data)
        scale = 1
        if isinstance(opened, JpegImageFile) and min_side is not None:
            scale = _reduce_scale(opened, min_side)
        opened.load()
        orientation = _orientation(opened)
        picture = _cropped(_to_rgb(opened), (round(header.width / scale), round(header.height / scale)))
        rgb = np.ascontiguousarray(_upright(picture, orientation))
    is_turned = orientation >= 5 and header.media_type != "image/tiff"
    width, height = (header.height, header.width) if is_turned else (header.width, header.height)
    if header.media_type == "image/tiff":
        # Pillow turns a TIFF itself while loading; it is never decoded at reduced scale.
        height, width = rgb.shape[:2]
    return DecodedImage(rgb, width, height, header.media_type, hashlib.sha256(data).hexdigest())


def make_thumbnail(rgb: Pixels, max_side: int) -> bytes:
    """Return a JPEG that fits into ``max_side`` × ``max_side``; a smaller picture keeps its size.

    Args:
        rgb: Shape ``(H, W, 3)``.
        max_side: In pixels.
    """
    picture = Image.fromarray(rgb)
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _encoded(picture, "JPEG", quality=85, optimize=True)


def encode_png(pixels: Pixels) -> bytes:
    """Return the PNG of a grey picture of shape ``(H, W)`` or a colour picture of shape ``(H, W, 3)``."""
    return _encoded(Image.fromarray(pixels), "PNG")


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@contextmanager
def _opened(data: bytes, limits: ImageLimits) -> Iterator[tuple[ImageFile, ImageHeader]]:
    """Open a file within its limits, and turn whatever Pillow raises inside the block into a problem."""
    if not data:
        raise ImageEmpty("The file has 0 bytes; send the whole picture.")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"The file has {len(data)} bytes; at most {limits.max_bytes} are accepted. Send a smaller one."
        )
    media_type = _sniff(data)
    _silence_pillow()
    try:
        if media_type == "image/webp":
            _check_webp_canvas(data, limits)
        with _PLUGINS[media_type](BytesIO(data)) as opened:
            header = ImageHeader(media_type, *opened.size)
            _check_dimensions(header.width, header.height, limits)
            if isinstance(opened, TiffImageFile):
                _check_tiff_tile(opened, limits)
            elif isinstance(opened, JpegImageFile):
                _check_jpeg_scans(data, header, limits)
            yield opened, header
    except Problem:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("more", limits) from error
    except Exception as error:
        # Pillow raises nearly anything on damaged files: OSError, SyntaxError, ValueError, struct.error,
        # EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError, zlib.error … None of them is
        # our caller's to see.
        logger.info("image_unreadable", media_type=media_type, error=f"{type(error).__name__}: {error}"[:300])
        raise ImageUnreadable(
            f"The file begins as {media_type} but is damaged or cut off; send the whole, undamaged picture."
        ) from error


def _silence_pillow() -> None:
    """Keep Pillow's warnings about odd metadata from whoever watches this process's warnings.

    `warnings.catch_warnings` is not for threads (the filters of one would be restored over another's), so the
    filter stays once it is there; it concerns Pillow's own modules only.
    """
    if not any(entry[0] == "ignore" and entry[3] == _PILLOW_MODULES for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES.pattern)


def _sniff(data: bytes) -> str:
    head = data[:32]
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "image/tiff"
    # Two letters prove little: a BMP also names its own header's size.
    if head.startswith(b"BM") and head[14:18] in _BMP_HEADER_SIZES:
        return "image/bmp"
    raise ImageUnsupported(
        f"The content is {_guess_kind(head)}, not {SUPPORTED_KINDS} (the file's name does not count)."
    )


def _guess_kind(head: bytes) -> str:
    """Name what the content looks like, for the error message."""
    if head[4:8] == b"ftyp":
        return f"an ISO media file of brand {head[8:12].decode('ascii', 'replace')!r} (HEIC, AVIF or a film)"
    for kind, magics in _KNOWN_KINDS.items():
        if head.startswith(magics):
            return kind
    if head.lstrip().lower().startswith((b"<svg", b"<?xml", b"<!doctype", b"<html")):
        return "SVG, XML or HTML"
    if all(byte in _TEXT_BYTES for byte in head):
        return "text"
    return "of no known kind"


_KNOWN_KINDS: Final[dict[str, tuple[bytes, ...]]] = {
    "PDF": (b"%PDF",),
    "a ZIP archive": (b"PK\x03\x04", b"PK\x05\x06"),
    "a gzip file": (b"\x1f\x8b",),
    "a Photoshop document": (b"8BPS",),
    "an icon": (b"\x00\x00\x01\x00",),
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\xff\x0a", b"\x00\x00\x00\x0cJXL "),
    "a WebM or Matroska film": (b"\x1a\x45\xdf\xa3",),
}

_TEXT_BYTES: Final = frozenset(b"\t\n\r" + bytes(range(32, 127)))


def _check_dimensions(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{width} × {height} = {width * height}", limits)
    if min(width, height) < limits.min_side_pixels:
        raise ImageTooSmall(
            f"The picture has {width} × {height} pixels; at least {limits.min_side_pixels} a side are needed."
        )


def _too_many_pixels(received: str, limits: ImageLimits) -> ImageTooManyPixels:
    return ImageTooManyPixels(
        f"The picture needs {received} pixels; at most {limits.max_pixels} are accepted. Send a smaller one."
    )


def _check_webp_canvas(data: bytes, limits: ImageLimits) -> None:
    """Refuse a large canvas before Pillow opens the file: its WebP decoder allocates it on opening."""
    width, height = _webp_canvas(data)
    if width * height > limits.max_pixels:
        raise _too_many_pixels(f"{width} × {height} = {width * height}", limits)


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Read the canvas size of a WebP file (RFC 9649, sections 2.5 to 2.7).

    Raises:
        ValueError: If the first chunk is none that gives a size.
    """
    if len(data) < 30:
        raise ValueError("cut off in the header")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise ValueError(f"no canvas size in a first chunk {chunk!r}")


def _check_jpeg_scans(data: bytes, header: ImageHeader, limits: ImageLimits) -> None:
    num_scans = _count_jpeg_scans(data)
    if num_scans * header.num_pixels > limits.max_jpeg_scans * limits.max_pixels:
        raise ImageTooManyPixels(
            f"The picture's {num_scans} scans of {header.num_pixels} pixels are more work than is accepted; "
            "save it as a baseline JPEG."
        )


def _count_jpeg_scans(data: bytes) -> int:
    """Count the scans up to the end marker; what is appended after it (a film, an archive) is not read."""
    num_scans, position = 0, 0
    while (marker := _JPEG_MARKER.search(data, position)) is not None:
        code, position = data[marker.end() - 1], marker.end()
        if code == _JPEG_END:
            break
        num_scans += code == _JPEG_START_OF_SCAN
        if code not in _JPEG_STANDALONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return num_scans


def _check_tiff_tile(opened: TiffImageFile, limits: ImageLimits) -> None:
    """Refuse a TIFF whose tile is larger than its picture may be: the decoder holds whole tiles."""
    tile_width, tile_length = opened.tag_v2.get(TILE_WIDTH_TAG, 0), opened.tag_v2.get(TILE_LENGTH_TAG, 0)
    if tile_width * tile_length > limits.max_pixels:
        raise _too_many_pixels(f"tiles of {tile_width} × {tile_length} = {tile_width * tile_length}", limits)


def _verify_png(data: bytes) -> None:
    """Check every checksum; once verified, a file cannot be decoded, so it is opened again for this."""
    with PngImageFile(BytesIO(data)) as opened:
        opened.verify()


def _reduce_scale(opened: JpegImageFile, min_side: int) -> int:
    """Let the JPEG decoder leave out frequencies that a resize to ``min_side`` would average away.

    A side that is no multiple of the scale cannot be halved exactly: the picture is stretched by the misfit,
    which may be an eighth of a pixel of the later, small picture and no more.

    Returns:
        The scale, of 8, 4, 2 and 1, that the decoder will use.
    """
    width, height = opened.size
    short = min(width, height)
    for scale in (8, 4, 2):
        misfit = max(abs(round(side / scale) * scale - side) for side in (width, height))
        if round(short / scale) >= 2 * min_side and misfit * min_side / short <= MAX_MISFIT_PIXELS:
            opened.draft(None, (width // scale, height // scale))
            return scale
    return 1


def _cropped(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Leave out the last row and column where the decoder filled up less than half of a reduced pixel."""
    if picture.width <= size[0] and picture.height <= size[1]:
        return picture
    return picture.crop((0, 0, min(size[0], picture.width), min(size[1], picture.height)))


def _orientation(opened: ImageFile) -> int:
    try:
        orientation = opened.getexif().get(ORIENTATION_TAG, 1)
    except Exception as error:  # noqa: BLE001
        # Garbage in the metadata of a picture whose pixels are fine: as with no metadata, it stands as it is
        # stored.
        logger.debug("exif_unreadable", error=f"{type(error).__name__}: {error}"[:300])
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(rgb: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return rgb if method is None else rgb.transpose(method)


def _to_rgb(opened: ImageFile) -> Image.Image:
    """Convert any mode that our kinds of files have to 8-bit RGB, transparent parts on white."""
    if opened.mode == "RGB" and not opened.has_transparency_data:
        return opened
    if opened.mode.startswith("I;16"):
        return _from_16_bit(opened).convert("RGB")
    if opened.mode in {"I", "F"}:
        raise ImageUnsupported(
            "The picture has 32-bit samples, which do not say what is white; save it with 8 or 16 bits."
        )
    if opened.mode == "LAB":
        raise ImageUnsupported("The picture is in the Lab colour space; save it as RGB.")
    if opened.mode == "CMYK" and isinstance(opened, JpegImageFile) and "adobe" not in opened.info:
        # Pillow takes every CMYK JPEG as Adobe's, which are stored inverted; without Adobe's marker they are
        # not.
        return ImageChops.invert(opened).convert("RGB")
    if opened.has_transparency_data:
        return _on_white(opened.convert("RGBA"))
    return opened.convert("RGB")


def _from_16_bit(opened: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255, rounded; Pillow's own conversion clips at 255."""
    samples = np.asarray(opened).astype(np.uint32)
    return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white
