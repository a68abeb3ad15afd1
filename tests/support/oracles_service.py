"""Slow twins for the service's tests."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def decode_reference(data: bytes) -> NDArray[np.uint8]:
    """Decode an ordinary picture the plain way."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB"))
