"""Our service against infinity, an embedding server: equal weights, equal requests, one after the other on one machine.

    python -m benchmarks.peers.install infinity
    python -m benchmarks.peers.infinity

A ViT-B/32 with a 4-layer text tower and random weights is written twice, for open_clip and for Hugging Face; what both
answer to the same texts and pictures is compared first, and a contestant whose smallest cosine to infinity is below
0.999 gets no number. Every request holds one text or one picture and asks the OpenAI-shaped endpoint for one vector;
of ours that is the appearance. Each server runs alone, takes the same closed loops (1 and 16 clients), then open loops
at shares of *infinity's* closed-loop rate (equal load for all) and, of ours, of its own rate; then the poison mix.
No request is sent twice, so that no cache answers. Order changes from round to round.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.hugging_face_clip import write_hugging_face_clip
from benchmarks.peers.install import PEERS, version_of
from benchmarks.peers.load import Outcome, Request, ask_once, closed_loop, open_loop
from benchmarks.peers.processes import server
from benchmarks.server_process import PORT, peak_mebibytes
from benchmarks.reference_model import write_reference_model
from benchmarks.results import write_result
from benchmarks.samples import SAMPLES
from structxlip.backends.openvino_cpu import supports_bf16

MIN_COSINE = 0.999
CLIENTS = (1, 16)
SHARES = (0.5, 0.8, 1.1)
KINDS = ("text", "picture")
# A server that has not answered a good request after so many seconds is taken for dead.
ALIVE_SECONDS = 15.0
WORDS = (
    "a red wooden chair stands left of two small round tables near an old brick house while the black dog sleeps under "
    "tall green trees beside a narrow street with three yellow cars and one striped awning over an open window"
).split()


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=SAMPLES, help="folder of JPEG files")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each loop")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--name", default="peer_infinity")
    arguments = parser.parse_args()
    files = [path.read_bytes() for path in sorted(arguments.pictures.rglob("*.jpg"))]
    with tempfile.TemporaryDirectory() as folder:
        contestants = all_contestants(Path(folder))
        figures = measure(contestants, files, seconds=arguments.seconds, rounds=arguments.rounds)
    figures["infinity"] = {package: version_of("infinity", package) for package in ("infinity-emb", "torch")}
    write_result(arguments.name, figures, arguments=vars(arguments))


@dataclass(frozen=True)
class Contestant:
    """A server.

    Attributes:
        start: Yields its URL and process number.
        body: Of a request for one input, a text or a `data:` URI.
        path: Where the request goes.
    """

    start: Callable[[], Any]
    body: Callable[[str, str], Mapping[str, object]]
    path: str

    def request(self, kind: str, content: str) -> Request:
        """Return the request for a text or a picture."""
        return Request(self.path, json.dumps(self.body(kind, content)).encode())


@dataclass
class _Run:
    """What was seen of one contestant, over all rounds."""

    closed: dict[str, list[Outcome]] = field(default_factory=dict)
    opened: dict[str, list[Outcome]] = field(default_factory=dict)
    peaks: list[int] = field(default_factory=list)
    poison: list[dict[str, object]] = field(default_factory=list)


def all_contestants(folder: Path) -> dict[str, Contestant]:
    """Write the model for both, and return infinity first, then ours at each precision of this machine."""
    model = write_reference_model(folder / "open_clip")
    write_hugging_face_clip(folder / "open_clip", folder / "hugging_face")
    found = {"infinity": _infinity(folder / "hugging_face", folder / "infinity.log"), "ours_f32": ours(model, folder)}
    if supports_bf16():
        found["ours_bf16"] = ours(model, folder, precision="bf16")
    return found


def ours(model: str, folder: Path, **settings: str) -> Contestant:
    """Return our service."""

    @contextmanager
    def start() -> Iterator[tuple[str, int]]:
        with tempfile.TemporaryDirectory(dir=folder) as data:
            command = [sys.executable, "-m", "service", "serve", "--model", model, "--data", data, "--port", PORT]
            environment = {
                "STRUCTXLIP_LOG_LEVEL": "warning",
                **{f"STRUCTXLIP_{name.upper()}": value for name, value in settings.items()},
            }
            with server(command, is_ready="/readyz", log=folder / "ours.log", environment=environment) as running:
                while httpx.get(f"{running[0]}/info").json()["is_changing_backend"]:
                    time.sleep(0.1)
                yield running

    return Contestant(start, lambda _kind, content: {"input": [content]}, "/v1/embeddings")


def _infinity(model: Path, log: Path) -> Contestant:
    command = [str(PEERS / "infinity" / "bin" / "infinity_emb"), "v2", "--model-id", str(model), "--port", PORT]
    command += ["--served-model-name", "clip", "--no-vector-disk-cache", "--device", "cpu"]
    environment = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(os.cpu_count())}
    modalities = {"text": "text", "picture": "image"}
    return Contestant(
        lambda: server(command, is_ready="/health", log=log, environment=environment),
        lambda kind, content: {"model": "clip", "input": [content], "modality": modalities[kind]},
        "/embeddings",
    )


def measure(
    contestants: Mapping[str, Contestant], files: Sequence[bytes], *, seconds: float, rounds: int
) -> dict[str, Any]:
    """Return agreement, rates and latencies, memory and what the poison did, of each contestant.

    The first contestant is the one that the others are compared with.
    """
    baseline, *_ = contestants
    inputs = _Inputs(files)
    vectors = {name: _vectors(each, files) for name, each in contestants.items()}
    cosines = {name: _smallest_cosine(found, vectors[baseline]) for name, found in vectors.items()}
    kept = {name: each for name, each in contestants.items() if min(cosines[name].values()) >= MIN_COSINE}
    runs = {name: _Run() for name in kept}
    rates: dict[str, float] = {}
    for turn in range(rounds):
        order = list(kept) if turn % 2 == 0 else [baseline, *reversed([name for name in kept if name != baseline])]
        for name in order:
            own = _run_one(kept[name], inputs, runs[name], seconds=seconds, offered=rates if rates else None)
            if name == baseline:
                rates = own
    return {
        "smallest_cosine": cosines,
        "contestants": {name: _summary(run) for name, run in runs.items()},
        "times_the_baseline": {
            name: _ratios(runs[name], runs[baseline]) for name in kept if name != baseline
        },
    }


class _Inputs:
    """Endless different texts and pictures."""

    def __init__(self, files: Sequence[bytes]) -> None:
        self._files = files
        self._numbers = itertools.count()
        self._chance = random.Random(0)

    def requests(self, contestant: Contestant, kind: str) -> Iterator[Request]:
        while True:
            yield contestant.request(kind, self._text() if kind == "text" else self._picture())

    def _text(self) -> str:
        return " ".join([*self._chance.sample(WORDS, 9), str(next(self._numbers) % 1000)])

    def _picture(self) -> str:
        number = next(self._numbers)
        # Decoders ignore what follows a JPEG's end; hashes do not.
        return data_uri(self._files[number % len(self._files)] + str(number).encode())


def data_uri(file: bytes) -> str:
    """Return a JPEG file as a `data:` URI."""
    return "data:image/jpeg;base64," + base64.b64encode(file).decode()


def _run_one(
    contestant: Contestant, inputs: _Inputs, run: _Run, *, seconds: float, offered: dict[str, float] | None
) -> dict[str, float]:
    """Load one server and poison it at the end; return its rates with most clients, by kind."""
    with contestant.start() as (url, process_number):
        own: dict[str, float] = {}
        for kind in KINDS:
            stream = inputs.requests(contestant, kind)
            closed_loop(url, itertools.islice(stream, 64), num_clients=16, seconds=seconds)  # warm up
            for num_clients in CLIENTS:
                outcome = closed_loop(url, stream, num_clients=num_clients, seconds=seconds)
                run.closed.setdefault(f"{kind}, {num_clients} at a time", []).append(outcome)
                own[kind] = outcome.per_second
            loads = {"its own": own[kind]} | ({"the baseline's": offered[kind]} if offered else {})
            for whose, rate in loads.items():
                for share in SHARES:
                    outcome = open_loop(url, stream, rate=share * rate, seconds=seconds)
                    run.opened.setdefault(f"{kind}, {share:.0%} of {whose} rate", []).append(outcome)
        run.peaks.append(peak_mebibytes(process_number))
        run.poison.append(_poison(contestant, inputs, url, process_number))
    return own


def _poison(contestant: Contestant, inputs: _Inputs, url: str, process_number: int) -> dict[str, object]:
    """Send one bad picture of each kind, each followed by good ones; say what became of the server."""
    good = inputs.requests(contestant, "picture")
    found: dict[str, object] = {}
    for name, file in poison().items():
        status, taken = ask_once(url, contestant.request("picture", data_uri(file)), timeout=30.0)
        answers = [ask_once(url, next(good), timeout=ALIVE_SECONDS) for _ in range(3)]
        found[name] = {
            "answered": status or "nothing",
            "seconds": round(taken, 2),
            "good_requests_answered_afterwards": sum(answer[0] == httpx.codes.OK for answer in answers),
        }
    found["peak_mebibytes"] = peak_mebibytes(process_number)
    return found


def poison() -> dict[str, bytes]:
    """Return files that are no good pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "JPEG")
    bomb = io.BytesIO()
    Image.new("RGB", (12_000, 12_000)).save(bomb, "PNG")
    return {
        "not a picture": b"hello, this is no picture",
        "truncated JPEG": whole.getvalue()[: len(whole.getvalue()) // 2],
        "PNG of 144 megapixels": bomb.getvalue(),
    }


def _vectors(contestant: Contestant, files: Sequence[bytes]) -> dict[str, NDArray[np.float64]]:
    texts = [" ".join(WORDS[start : start + 9]) for start in range(0, len(WORDS) - 9, 4)]
    pictures = [data_uri(file) for file in files[:16]]
    with contestant.start() as (url, _):
        return {
            kind: np.array(
                [
                    json.loads(answer)["data"][0]["embedding"]
                    for answer in closed_loop(
                        url, [contestant.request(kind, content) for content in contents], num_clients=1, keep=True
                    ).answers
                ]
            )
            for kind, contents in (("text", texts), ("picture", pictures))
        }


def _smallest_cosine(
    found: Mapping[str, NDArray[np.float64]], expected: Mapping[str, NDArray[np.float64]]
) -> dict[str, float]:
    return {
        kind: round(
            float(
                np.min(
                    (found[kind] * expected[kind]).sum(axis=1)
                    / np.linalg.norm(found[kind], axis=1)
                    / np.linalg.norm(expected[kind], axis=1)
                )
            ),
            5,
        )
        for kind in KINDS
    }


def _summary(run: _Run) -> dict[str, object]:
    return {
        "closed_loop": {name: [outcome.figures() for outcome in outcomes] for name, outcomes in run.closed.items()},
        "open_loop": {name: [outcome.figures() for outcome in outcomes] for name, outcomes in run.opened.items()},
        "peak_mebibytes_under_load": run.peaks,
        "poison": run.poison,
    }


def _ratios(run: _Run, baseline: _Run) -> dict[str, object]:
    """Return medians over the rounds: rates (more is better), latencies and memory (less is)."""
    found: dict[str, object] = {
        name: {
            "rate": _ratio([o.per_second for o in outcomes], [o.per_second for o in baseline.closed[name]]),
            "p99": _ratio(_p99(outcomes), _p99(baseline.closed[name])),
        }
        for name, outcomes in run.closed.items()
    }
    for kind, share in itertools.product(KINDS, SHARES):
        same = run.opened.get(f"{kind}, {share:.0%} of the baseline's rate")
        if same:
            theirs = baseline.opened[f"{kind}, {share:.0%} of its own rate"]
            found[f"{kind}, offered {share:.0%} of the baseline's rate"] = {"p99": _ratio(_p99(same), _p99(theirs))}
    found["peak_memory"] = _ratio(run.peaks, baseline.peaks)
    return found


def _p99(outcomes: Sequence[Outcome]) -> list[float]:
    return [float(np.quantile(outcome.seconds, 0.99)) for outcome in outcomes]


def _ratio(values: Sequence[float], against: Sequence[float]) -> float:
    return round(float(np.median(values) / np.median(against)), 3)


if __name__ == "__main__":
    main()
