"""Pictures per second through POST /index against the bare encoder at the same batch size.

    python -m benchmarks.add_throughput --model local-dir:PATH --pictures FOLDER

The bare encoder gets pictures that are already decoded, resized and edge-mapped, and does nothing but the forward
pass of both views; the service starts from the files, over a socket, and ends with a durable, searchable picture.
`bare_pipeline` is the same work as the service's without HTTP, storage or overlap: decode, prepare, encode in a loop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import httpx

from benchmarks import service_process
from benchmarks.results import alternate, spread, write_result
from service.images import ImageLimits, decode_image
from structxlip.backends.selection import Execution
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--num", type=int, default=384, help="pictures a round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--name", default="add_throughput")
    arguments = parser.parse_args()
    files = [path.read_bytes() for path in sorted(arguments.pictures.rglob("*.jpg"))[: arguments.num]]
    figures = measure(arguments.model, files, arguments.num, arguments.batch_size, arguments.rounds, arguments.clients)
    write_result(
        arguments.name,
        figures,
        arguments=vars(arguments) | {"pictures": arguments.pictures.name},
    )


def measure(
    model: str, files: Sequence[bytes], num: int, batch_size: int, rounds: int, num_clients: int
) -> dict[str, object]:
    """Return pictures per second of the three, and the ratios of each round."""
    encoder = load_encoder(model, device="cpu", execution=Execution("auto"))
    prepared = [encoder.prepare_image(decode_image(data, ImageLimits()).rgb) for data in files]
    rounds_done = iter(range(1_000_000))

    def bare_encoder() -> float:
        started = time.perf_counter()
        for batch in _batched(list(islice(cycle(prepared), num)), batch_size):
            encoder.encode_images(batch)
        return num / (time.perf_counter() - started)

    with (
        tempfile.TemporaryDirectory() as folder,
        service_process.running(model, Path(folder), max_batch_size=batch_size) as (url, _),
    ):
        _send(url, _distinct(files, batch_size, "warm-up"), num_clients, batch_size)
        bare_encoder()
        speeds = alternate(
            rounds,
            bare_encoder=bare_encoder,
            bare_pipeline=lambda: _pipeline(encoder, files, num, batch_size),
            service=lambda: _send(url, _distinct(files, num, str(next(rounds_done))), num_clients, batch_size),
        )
    return {
        "pictures_per_second": {name: [round(value, 2) for value in values] for name, values in speeds.items()},
        "service_to_bare_encoder": _ratio(speeds["service"], speeds["bare_encoder"]),
        "service_to_bare_pipeline": _ratio(speeds["service"], speeds["bare_pipeline"]),
        "batch_size": batch_size,
        "image_size": encoder.image_size,
    }


def _pipeline(encoder: TwoViewEncoder, files: Sequence[bytes], num: int, batch_size: int) -> float:
    started = time.perf_counter()
    for batch in _batched(list(islice(cycle(files), num)), batch_size):
        decoded = [decode_image(data, ImageLimits(), min_side=encoder.image_size) for data in batch]
        encoder.encode_images([encoder.prepare_image(picture.rgb) for picture in decoded])
    return num / (time.perf_counter() - started)


def _distinct(files: Sequence[bytes], num: int, label: str) -> list[bytes]:
    """Return ``num`` files of distinct content: bytes after a JPEG's end are ignored by decoders, not by hashes."""
    return [data + f"{label}-{number}".encode() for number, data in enumerate(islice(cycle(files), num))]


def _send(url: str, files: Sequence[bytes], num_clients: int, per_request: int) -> float:
    requests = list(_batched(list(files), per_request))

    def send(batch: Sequence[bytes]) -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            answer = client.post("/index", files=[("files", ("a.jpg", data)) for data in batch])
            statuses = {item["status"] for item in answer.json()["items"]}
            assert statuses == {"created"}, json.dumps(answer.json())[:500]

    started = time.perf_counter()
    with ThreadPoolExecutor(num_clients) as pool:
        list(pool.map(send, requests))
    return len(files) / (time.perf_counter() - started)


def _batched(items: Sequence[object], size: int) -> list[list[object]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], digits=3)


if __name__ == "__main__":
    main()
