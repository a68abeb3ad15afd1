"""How long a search takes while pictures are being added, against the same search on an idle service.

    python -m benchmarks.search_under_import                     # a ViT-B/32 with random weights
    python -m benchmarks.search_under_import --kinds text --rate 20 --precision bf16
    python -m benchmarks.search_under_import --shared-machine    # keep the ratios only: the machine has other work

Four phases, in this order, repeated each round: searches alone, searches during an import, the import alone, and
searches alone again (the two idle phases are pooled, so that drift of the machine meets both sides). Searches by words
and by a picture come one at a time in turn at a fixed rate, and each is new to the service, so that no cache answers.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks import service_process
from benchmarks.quiet import no_collections
from benchmarks.reference_model import write_reference_model
from benchmarks.results import summarise_milliseconds, write_result
from benchmarks.samples import SAMPLES

PER_REQUEST = 32
KINDS = ("text", "picture")


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: a ViT-B/32 with random weights")
    parser.add_argument("--pictures", type=Path, default=SAMPLES)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase")
    parser.add_argument("--rate", type=float, default=2.0, help="searches a second, of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what is searched by")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shared-machine", action="store_true", help="keep ratios only, no absolute times")
    parser.add_argument("--name", default="search_under_import")
    arguments = parser.parse_args()
    files = [path.read_bytes() for path in sorted(arguments.pictures.rglob("*.jpg"))[:200]]
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_reference_model(Path(folder) / "model")
        figures = measure(
            model,
            files,
            seconds=arguments.seconds,
            rate=arguments.rate,
            rounds=arguments.rounds,
            kinds=arguments.kinds,
            precision=arguments.precision,
        )
    if arguments.shared_machine:
        figures = {"shared_machine": True, "ratios": figures["ratios"], "searches": figures["searches"]}
    noted = vars(arguments) | {"model": arguments.model or "random ViT-B/32, 4-layer text tower"}
    write_result(arguments.name, figures, arguments=noted)


@dataclass
class _Phase:
    """What was seen in one kind of phase."""

    seconds_by: dict[str, list[float]] = field(default_factory=dict)
    num_added: int = 0
    seconds: float = 0.0

    @property
    def pictures_per_second(self) -> float:
        return self.num_added / self.seconds


@dataclass(frozen=True)
class _Searching:
    """What is searched by, and how often a second each."""

    kinds: Sequence[str]
    rate: float


def measure(
    model: str,
    files: Sequence[bytes],
    *,
    seconds: float,
    rate: float,
    rounds: int,
    kinds: Sequence[str] = KINDS,
    precision: str = "f32",
) -> dict[str, Any]:
    """Return latencies and rates of each phase, and the ratios between them."""
    idle, both, import_alone = _Phase(), _Phase(), _Phase()
    numbers, searching = itertools.count(), _Searching(kinds, rate)
    with (
        tempfile.TemporaryDirectory() as folder,
        service_process.running(model, Path(folder), precision=precision) as (url, _),
    ):
        with _importing(url, files, numbers, _Phase()):
            time.sleep(min(seconds, 3.0))  # warm up, and something to find
        # A backend prepares itself for each new length of a text.
        _search(url, files, numbers, _Phase(), min(seconds, 6.0), searching)
        for _ in range(rounds):
            _search(url, files, numbers, idle, seconds / 2, searching)
            with _importing(url, files, numbers, both):
                time.sleep(1.0)
                _search(url, files, numbers, both, seconds, searching)
            with _importing(url, files, numbers, import_alone):
                time.sleep(seconds)
            _search(url, files, numbers, idle, seconds / 2, searching)
    alone = {kind: summarise_milliseconds(idle.seconds_by[kind]) for kind in kinds}
    amid = {kind: summarise_milliseconds(both.seconds_by[kind]) for kind in kinds}
    return {
        "searches": {f"by_{kind}": amid[kind]["count"] for kind in kinds},
        "milliseconds": {f"by_{kind}": {"idle": alone[kind], "during_import": amid[kind]} for kind in kinds},
        "pictures_per_second": {
            "import_alone": round(import_alone.pictures_per_second, 2),
            "import_with_searches": round(both.pictures_per_second, 2),
        },
        "ratios": {
            **{
                f"by_{kind}": {q: round(amid[kind][q] / alone[kind][q], 2) for q in ("p50", "p95", "p99")}
                for kind in kinds
            },
            "import": round(both.pictures_per_second / import_alone.pictures_per_second, 2),
        },
    }


@contextmanager
def _importing(url: str, files: Sequence[bytes], numbers: Iterator[int], phase: _Phase) -> Iterator[None]:
    """Add pictures from two clients as fast as they are taken, until the block ends."""
    stopping = threading.Event()

    def add() -> None:
        with httpx.Client(base_url=url, timeout=300) as client:
            while not stopping.is_set():
                batch = [_different(files, numbers) for _ in range(PER_REQUEST)]
                answer = client.post("/index", files=[("files", ("a.jpg", data)) for data in batch])
                if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    time.sleep(0.2)
                    continue
                assert {item["status"] for item in answer.json()["items"]} == {"created"}, answer.text[:500]
                phase.num_added += PER_REQUEST

    threads = [threading.Thread(target=add) for _ in range(2)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        phase.seconds += time.perf_counter() - started


def _search(
    url: str, files: Sequence[bytes], numbers: Iterator[int], phase: _Phase, seconds: float, searching: _Searching
) -> None:
    """Search at a fixed rate, by each kind in turn."""
    started = time.perf_counter()
    with no_collections(), httpx.Client(base_url=url, timeout=120) as client:
        for turn, kind in enumerate(itertools.cycle(searching.kinds)):
            due = started + turn / (len(searching.kinds) * searching.rate)
            if due - started >= seconds:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            if kind == "picture":
                body = {"image": base64.b64encode(_different(files, numbers)).decode()}
            else:
                body = {"text": f"a round table left of {next(numbers)} chairs"}
            phase.seconds_by.setdefault(kind, []).append(_timed_search(client, body))


def _timed_search(client: httpx.Client, body: dict[str, str]) -> float:
    started = time.perf_counter()
    answer = client.post("/search", json=body)
    taken = time.perf_counter() - started
    answer.raise_for_status()
    return taken


def _different(files: Sequence[bytes], numbers: Iterator[int]) -> bytes:
    """Return a file of content that was never sent: decoders ignore what follows a JPEG's end, hashes do not."""
    number = next(numbers)
    return files[number % len(files)] + f"{number}".encode()


if __name__ == "__main__":
    main()
