"""The sample pictures that come with the service, as a client adds them."""

from __future__ import annotations

import json
from pathlib import Path

import service
from structxlip.client import NewPicture

SAMPLES = Path(service.__file__).parent / "samples"


def sample_pictures(number: int) -> list[NewPicture]:
    """Return the first ``number`` of the 60 samples with their captions and metadata."""
    lines = (SAMPLES / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[:number]
    rows = [json.loads(line) for line in lines]
    return [NewPicture(SAMPLES / row["file"], row["id"], row["metadata"], row["caption"]) for row in rows]
