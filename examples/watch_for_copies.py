"""Be told when somebody adds a copy of a picture that you watch for.

    python examples/watch_for_copies.py

Pictures on a watch list are not found by searches; every picture that is added afterwards is held against them, and the
answer says which it resembles. Needs a running service, as `quick_start.py` does.
"""

from __future__ import annotations

from find_look_alikes import ORIGINAL, manipulated
from PIL import Image
from quick_start import SAMPLES, client_from_arguments

from structxlip.client import AddResult, Client

WATCHLIST = "example"


def main(client: Client) -> None:
    """Watch for one picture, add copies of it and another picture, and clean up."""
    client.wait_until_ready()
    original = SAMPLES / f"{ORIGINAL}.jpg"
    client.watchlists.add(WATCHLIST, [original])
    try:
        candidates = {**manipulated(Image.open(original)), "another": Image.open(SAMPLES / "scene-30.jpg")}
        for name, picture in candidates.items():
            added = client.add(picture, id=f"watch-example-{name}")
            client.images.delete(f"watch-example-{name}")
            print(f"{name:<12} {told(added)}")
    finally:
        client.watchlists.delete(WATCHLIST)


def told(added: AddResult) -> str:
    """Say what a picture resembles."""
    if not added.resembles:
        return "resembles nothing that is watched for"
    return ", ".join(f"resembles a picture of {each.watchlist!r}, score {each.score:.3f}" for each in added.resembles)


if __name__ == "__main__":
    with client_from_arguments(__doc__) as opened:
        main(opened)
