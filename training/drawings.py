"""The edge map of a picture file, with its regions drawn over it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from structxlip.edges import build_edge_detector
from structxlip.regions import ColourAndContourRegions
from training.data.records import DataError
from training.data.sources import READ_ERRORS, decode_picture

REGION_COLOUR = (90, 200, 90)


def write_edge_map(picture: Path, target: Path, *, size: int, detector: str, max_regions: int) -> list[str]:
    """Write the edge map at a square size, with region boxes over it, and return what was found, line by line.

    Raises:
        DataError: If the picture cannot be read or the map not written.
        ConfigError: If the detector is unknown.
    """
    try:
        rgb = decode_picture(picture.read_bytes())
    except READ_ERRORS as error:
        raise DataError(f"{picture} cannot be read as a picture: {error}") from error
    square: NDArray[np.uint8] = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC))
    edges = build_edge_detector({"kind": detector}).detect(square)
    drawn = np.repeat(edges[:, :, None], 3, axis=2)
    told = [f"{target}: {size} × {size} pixels, {100 * float((edges > 0).mean()):.1f} % of them on lines"]
    if max_regions:
        boxes, valid = ColourAndContourRegions(max_regions=max_regions).propose(square, edges)
        for box in boxes[valid]:
            left, top, right, bottom = (round(float(value) * (size - 1)) for value in box)
            cv2.rectangle(drawn, (left, top), (right, bottom), REGION_COLOUR, 1)
            told.append("  region " + " ".join(f"{value:.3f}" for value in box))
    try:
        Image.fromarray(drawn).save(target)
    except (OSError, ValueError) as error:
        raise DataError(f"{target} cannot be written: {error}") from error
    return told
