"""Add the sample pictures to a running service and find some of them by words.

    structxlip serve &
    python examples/quick_start.py

`--url` names another service, `--api-key` the key that it wants.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from structxlip.client import Client, Hit, NewPicture

SAMPLES = Path(__file__).parents[1] / "service" / "samples"
QUERIES = (
    "a yellow snowman inside an orange square frame, above two purple umbrellas in a row",
    "five black and turquoise spotted balloons and a turquoise rocket over dark green water with waves",
)


def main(client: Client) -> None:
    """Add the samples, then search them."""
    client.wait_until_ready()
    print("added:", dict(add_samples(client)))
    for query in QUERIES:
        found = client.search(query, limit=3)
        print(f"\n{query!r}, structure weight {found.structure_weight}")
        print_hits(found.hits)
    hills = client.search("a tall thing", filter={"field": "background", "eq": "hills"}, limit=3)
    print("\n'a tall thing', before hills only")
    print_hits(hills.hits)


def add_samples(client: Client) -> Counter[str]:
    """Add the samples with their captions and metadata; return how many were created, unchanged …."""
    rows = [json.loads(line) for line in (SAMPLES / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    pictures = [NewPicture(SAMPLES / row["file"], row["id"], row["metadata"], row["caption"]) for row in rows]
    return Counter(result.raise_if_failed().status for result in client.add_many(pictures, skip_unchanged=True))


def print_hits(hits: tuple[Hit, ...]) -> None:
    """Print one line a hit: `score = (1 - w) * appearance + w * structure`."""
    for hit in hits:
        print(
            f"  {hit.id:<10} score {hit.score:.3f}  appearance {hit.scores.appearance:.3f}"
            f"  structure {hit.scores.structure:.3f}  {(hit.caption or '')[:60]}…"
        )


def client_from_arguments(description: str | None) -> Client:
    """Read `--url` and `--api-key`."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    return Client(arguments.url, api_key=arguments.api_key)


if __name__ == "__main__":
    with client_from_arguments(__doc__) as opened:
        main(opened)
