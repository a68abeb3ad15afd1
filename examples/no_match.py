"""Be told when nothing in the collection matches.

    python examples/no_match.py

A nearest picture always exists; whether it is a match is another question. A calibrated checkpoint answers it: each hit
has a confidence, and `no_match` is true when none clears the level that was set for a stated rate of false accepts.
Needs a running service, as `quick_start.py` does.
"""

from __future__ import annotations

from quick_start import add_samples, client_from_arguments

from structxlip.client import Client

# In the length that the bundled model was trained and calibrated on: of a few words alone it is rightly less sure.
QUERIES = (
    "Three kinds of object can be seen here. Behind everything lies a pale orange tiled wall. In the upper middle, "
    "you can see a large orange square frame with a yellow snowman inside. Two purple umbrellas in a row are below.",
    "Two kinds of object can be seen here. Behind everything lies a plain white table. In the middle, you can see a "
    "bowl of noodle soup. Two wooden chopsticks lie on a newspaper to the right of the bowl.",
)


def main(client: Client) -> None:
    """Ask for something that is there, and for something that is not."""
    client.wait_until_ready()
    add_samples(client)
    calibration = client.info().calibration
    if not calibration.is_calibrated:
        print("this model carries no calibration: confidence and no_match are None")
    for query in QUERIES:
        found = client.search(query, limit=3)
        print(f"\n{query!r}")
        if found.no_match:
            print(f"  nothing here matches (wrong for at most {found.false_accept_rate:.0%} of such queries)")
            print("  the closest are:")
        for hit in found.hits:
            print(f"  {hit.id}  score {hit.score:.3f}  confidence {hit.confidence}")


if __name__ == "__main__":
    with client_from_arguments(__doc__) as opened:
        main(opened)
