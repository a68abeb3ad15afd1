"""Recall of captions through POST /search against an exact offline computation, on real photographs.

    python -m benchmarks.real_photos --model local-dir:PATH --manifest captions.jsonl

Every picture of the manifest is added through POST /index by `structxlip add --url`, and into a second collection by
`structxlip add --data`. Then the captions of one split search over HTTP among that split's pictures (by a filter),
and the ranks are compared with those of a plain matrix product of vectors embedded here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks import service_process
from benchmarks.results import write_result
from service.images import ImageLimits, decode_image
from structxlip.backends.selection import Execution
from structxlip.models import load_encoder

RANKS = (1, 5, 10)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--caption", default="long", help="name of the caption's field")
    parser.add_argument("--weight", type=float, default=0.0, help="structure weight")
    parser.add_argument("--name", default="real_photos")
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.manifest, arguments.split, arguments.caption, arguments.weight)
    write_result(
        arguments.name,
        figures,
        arguments=vars(arguments) | {"manifest": arguments.manifest.name},
    )


def measure(model: str, manifest: Path, split: str, caption: str, weight: float) -> dict[str, object]:
    """Return counts, seconds and both recalls."""
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    asked = [row for row in rows if row["split"] == split]
    with tempfile.TemporaryDirectory() as folder:
        added_locally = _add(manifest, "--data", f"{folder}/local", "--model", model)
        with service_process.running(model, Path(folder) / "served") as (url, _):
            added_over_http = _add(manifest, "--url", url)
            http_ranks, http_scores = _ranks_over_http(url, asked, split, caption, weight)
            total = httpx.get(f"{url}/images", params={"limit": 1}).json()["total"]
    exact_ranks, exact_scores = _ranks_offline(model, manifest.parent, asked, caption, weight)
    return {
        "num_pictures": len(rows),
        "num_queries": len(asked),
        "structxlip_add_to_folder": added_locally,
        "structxlip_add_over_http": added_over_http,
        "pictures_in_service": total,
        "recall_through_post_search": _recall(http_ranks),
        "recall_offline_exact": _recall(exact_ranks),
        "queries_with_another_rank": int((http_ranks != exact_ranks).sum()),
        "largest_score_difference": float(np.abs(http_scores - exact_scores).max()),
        "structure_weight": weight,
    }


def _add(manifest: Path, *target: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "service", "add", str(manifest), *target]
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "summary": run.stderr.strip().splitlines()[-1],
    }


def _ranks_over_http(
    url: str, rows: list[dict[str, Any]], split: str, caption: str, weight: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    ranks, scores = [], []
    with httpx.Client(base_url=url, timeout=60) as client:
        for row in rows:
            body = {
                "text": row[caption],
                "structure_weight": weight,
                "limit": len(rows),
                "filter": {"field": "split", "eq": split},
            }
            hits = client.post("/search", json=body).json()["hits"]
            own = row["image"].replace("/", ":")
            position = next(place for place, hit in enumerate(hits) if hit["id"] == own)
            ranks.append(position + 1)
            scores.append(hits[position]["score"])
    return np.asarray(ranks), np.asarray(scores)


def _ranks_offline(
    model: str, folder: Path, rows: list[dict[str, Any]], caption: str, weight: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    encoder = load_encoder(model, device="cpu", execution=Execution("auto"))
    appearance, structure = [], []
    for start in range(0, len(rows), 32):
        files = [(folder / row["image"]).read_bytes() for row in rows[start : start + 32]]
        images = encoder.encode_images([encoder.prepare_image(decode_image(file, ImageLimits()).rgb) for file in files])
        appearance.append(images.appearance)
        structure.append(images.structure)
    texts = [encoder.encode_texts([encoder.prepare_text(row[caption])]) for row in rows]
    scores = (1 - weight) * np.concatenate([text.appearance for text in texts]) @ np.concatenate(appearance).T
    scores = scores + weight * np.concatenate([text.structure for text in texts]) @ np.concatenate(structure).T
    own = np.diag(scores)
    return 1 + (scores > own[:, None]).sum(axis=1), own.astype(np.float64)


def _recall(ranks: NDArray[np.int64]) -> dict[str, float]:
    return {f"R@{k}": round(100 * float((ranks <= k).mean()), 2) for k in RANKS}


if __name__ == "__main__":
    main()
