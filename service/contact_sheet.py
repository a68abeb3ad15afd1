"""A PNG of several pictures with a line under each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE_SIDE = 200
GAP = 12
LINE_HEIGHT = 18
COLUMNS = 5
PAPER, INK = (250, 250, 248), (40, 40, 40)


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture, shape ``(H, W, 3)``, and what stands under it."""

    rgb: NDArray[np.uint8]
    label: str


def draw_contact_sheet(tiles: Sequence[Tile], *, title: str) -> bytes:
    """Return a PNG with the tiles in rows of five, in reading order."""
    rows = max(1, -(-len(tiles) // COLUMNS))
    columns = min(max(len(tiles), 3), COLUMNS)
    cell_height = TILE_SIDE + LINE_HEIGHT + GAP
    width = GAP + columns * (TILE_SIDE + GAP)
    heading = GAP + 2 * LINE_HEIGHT
    sheet = Image.new("RGB", (width, heading + rows * cell_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(11)
    draw.text((GAP, GAP), _fitted(draw, title, font, width - 2 * GAP), INK, font)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, COLUMNS)
        left, top = GAP + column * (TILE_SIDE + GAP), heading + row * cell_height
        picture = Image.fromarray(tile.rgb)
        picture.thumbnail((TILE_SIDE, TILE_SIDE))
        sheet.paste(picture, (left + (TILE_SIDE - picture.width) // 2, top + (TILE_SIDE - picture.height) // 2))
        draw.text((left, top + TILE_SIDE + 3), _fitted(draw, tile.label, small, TILE_SIDE), INK, small)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _fitted(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    text = " ".join(text.split())
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
