"""Find copies of a picture that were recoloured, inverted, greyed or blurred.

    python examples/find_look_alikes.py

A copy keeps its lines when its colours change, so it is searched with structure weight 1. Needs a running service, as
`quick_start.py` does.
"""

from __future__ import annotations

from PIL import Image, ImageFilter, ImageOps
from quick_start import SAMPLES, add_samples, client_from_arguments

from structxlip.client import Client

ORIGINAL = "scene-11"


def main(client: Client) -> None:
    """Search with each copy, by appearance and by structure."""
    client.wait_until_ready()
    add_samples(client)
    for name, copy in manipulated(Image.open(SAMPLES / f"{ORIGINAL}.jpg")).items():
        ranks = [rank_of_original(client, copy, weight) for weight in (0.0, 1.0)]
        print(f"{name:<12} rank by appearance {ranks[0]}, by structure {ranks[1]}")


def manipulated(picture: Image.Image) -> dict[str, Image.Image]:
    """Return copies as somebody makes them who does not want to be found."""
    rgb = picture.convert("RGB")
    red, green, blue = rgb.split()
    return {
        "recoloured": Image.merge("RGB", (blue, red, green)),
        "grey": ImageOps.grayscale(rgb),
        "inverted": ImageOps.invert(rgb),
        "blurred": rgb.filter(ImageFilter.GaussianBlur(1.0)),
    }


def rank_of_original(client: Client, copy: Image.Image, structure_weight: float) -> int:
    """Return at which place the original stands among the hits, 1 at best."""
    found = client.search_image(copy, structure_weight=structure_weight, limit=100)
    return [hit.id for hit in found.hits].index(ORIGINAL) + 1


if __name__ == "__main__":
    with client_from_arguments(__doc__) as opened:
        main(opened)
