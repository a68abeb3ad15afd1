"""Time from start to ready with many stored vectors, from a snapshot and without one.

    python -m benchmarks.restart --model local-dir:PATH

`process_and_model` is the same start with an empty collection: Python, torch and the model, no index.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks import service_process
from benchmarks.results import write_result
from benchmarks.stored_vectors import fill_collection
from structxlip.models import load_encoder


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="restart")
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.num, arguments.rounds)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(model: str, num: int, rounds: int) -> dict[str, object]:
    """Return seconds to ready of each round."""
    encoder = load_encoder(model, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill_collection(data, num=num, dimension=encoder.dimension, fingerprint=encoder.fingerprint)
        seconds: dict[str, list[float]] = {"process_and_model": [], "from_snapshot": [], "rebuilt": []}
        for number in range(rounds):
            seconds["process_and_model"].append(_start(model, Path(folder) / f"empty{number}"))
            seconds["from_snapshot"].append(_start(model, data))
            shutil.rmtree(data / "snapshots")
            seconds["rebuilt"].append(_start(model, data))
    return {
        "num_vectors": num,
        "vector_length": 2 * encoder.dimension,
        "seconds_to_ready": {name: [round(value, 2) for value in values] for name, values in seconds.items()},
    }


def _start(model: str, data: Path) -> float:
    with service_process.running(model, data) as (_, seconds):
        return seconds


if __name__ == "__main__":
    main()
