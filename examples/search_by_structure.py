"""Say how much the structure of a picture should count, and search with a drawing.

    python examples/search_by_structure.py

The first part moves the structure weight from 0 (colours, things) to 1 (lines, shapes, places) for one query: the
collection is not indexed again, and the service embeds the text once. The second part draws a few strokes and searches
with them. Needs a running service, as `quick_start.py` does.
"""

from __future__ import annotations

from PIL import Image, ImageDraw
from quick_start import add_samples, client_from_arguments, print_hits

from structxlip.client import Client, SearchResult

QUERY = "a yellow snowman inside an orange square frame, above two purple umbrellas in a row"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(client: Client) -> None:
    """Slide the weight for a text, then search with a sketch."""
    client.wait_until_ready()
    add_samples(client)
    print(repr(QUERY))
    for weight in WEIGHTS:
        found = client.search(QUERY, structure_weight=weight, limit=3)
        print(f" structure weight {weight}: {', '.join(hit.id for hit in found.hits)}")
    print(f"\nthe structural view read: {found.structural_text!r}")
    print("\na sketch of a snowman in a frame above two umbrellas")
    print_hits(search_with_sketch(client, draw_sketch()).hits)


def draw_sketch() -> Image.Image:
    """Draw black strokes on white paper."""
    paper = Image.new("L", (224, 224), 255)
    pen = ImageDraw.Draw(paper)
    pen.rectangle((62, 12, 162, 112), outline=0, width=3)
    pen.rectangle((74, 24, 150, 100), outline=0, width=3)
    pen.ellipse((100, 32, 124, 56), outline=0, width=3)
    pen.ellipse((92, 54, 132, 94), outline=0, width=3)
    for left in (48, 128):
        pen.arc((left, 140, left + 56, 196), 180, 360, fill=0, width=3)
        pen.line((left, 168, left + 56, 168), fill=0, width=3)
        pen.line((left + 28, 168, left + 28, 208), fill=0, width=3)
    return paper


def search_with_sketch(client: Client, sketch: Image.Image) -> SearchResult:
    """Find pictures whose lines lie like the strokes: of a sketch, the structure alone counts."""
    return client.search(sketch=sketch, limit=3)


if __name__ == "__main__":
    with client_from_arguments(__doc__) as opened:
        main(opened)
