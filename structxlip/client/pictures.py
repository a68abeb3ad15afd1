"""Pictures in the forms that a caller may have them in, as the bytes of a file."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]
else:
    # Pillow is imported when one of its pictures, or an array, is sent.
    Picture = Any

# What PNG stores as it is; everything else (CMYK, YCbCr, Lab, floats) becomes RGB first.
PNG_MODES = {"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"}
FAST_COMPRESSION = 1


def picture_bytes(picture: Picture) -> bytes:
    """Return the file of a picture.

    Args:
        picture: A path; the bytes of a file, or a file opened for reading them; a Pillow picture, turned upright by its
            EXIF orientation; or an array of shape ``(H, W)`` or ``(H, W, 1)`` (grey), ``(H, W, 3)`` (RGB) or
            ``(H, W, 4)`` (RGBA), of ``uint8`` or ``bool``. Pillow pictures and arrays become PNG, without loss.

    Raises:
        OSError: If a file cannot be read.
        TypeError: If it is none of these.
        ValueError: If an array has another shape or type.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | os.PathLike):
        return Path(picture).read_bytes()
    if isinstance(picture, np.ndarray):
        return _png(_from_array(picture))
    if hasattr(picture, "read"):
        return _read(picture)
    if hasattr(picture, "save") and hasattr(picture, "mode"):
        return _png(picture)
    raise TypeError(
        f"expected a path, bytes, a file opened for reading bytes, a Pillow picture or an array; "
        f"received {type(picture).__name__}"
    )


def picture_name(picture: Picture) -> str:
    """Return a file name to send a picture under; the service looks at the content alone."""
    if isinstance(picture, str | os.PathLike):
        return Path(picture).name
    return "picture"


def _read(file: Any) -> bytes:
    data: object = file.read()
    if not isinstance(data, bytes):
        raise TypeError("expected a file opened for reading bytes, as by open(path, 'rb'); received one of text")
    return data


def _from_array(array: NDArray[Any]) -> Image.Image:
    from PIL import Image

    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not is_picture or array.size == 0:
        raise ValueError(
            "expected an array of uint8 or bool and shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); "
            f"received {array.dtype} and shape {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _png(picture: Image.Image) -> bytes:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode not in PNG_MODES:
        upright = upright.convert("RGB")
    file = BytesIO()
    upright.save(file, "PNG", compress_level=FAST_COMPRESSION)
    return file.getvalue()
