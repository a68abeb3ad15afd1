"""Every measurement of the service in turn: `python -m benchmarks.run`, or `make bench`.

Without `--model`, a ViT-B/32 with random weights is measured on the packaged sample pictures: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import add_throughput, filters, restart, roofline, search_overhead
from benchmarks.engines import real_vectors
from benchmarks.reference_model import write_reference_model
from benchmarks.results import write_result
from benchmarks.samples import SAMPLES


def main() -> None:
    """Measure everything and write one result each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: a ViT-B/32 with random weights")
    parser.add_argument("--pictures", type=Path, default=SAMPLES)
    parser.add_argument("--num-pictures", type=int, default=384)
    parser.add_argument("--num-vectors", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--suffix", default="", help="added to the names of the results")
    arguments = parser.parse_args()
    noted = vars(arguments) | {
        "model": arguments.model or "ViT-B-32 with random weights",
        "pictures": arguments.pictures.name,
    }
    files = [path.read_bytes() for path in sorted(arguments.pictures.rglob("*.jpg"))[: arguments.num_pictures]]
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_reference_model(Path(folder) / "model")
        figures = add_throughput.measure(
            model, files, num=arguments.num_pictures, batch_size=32, rounds=arguments.rounds, num_clients=3
        )
        write_result(f"add_throughput{arguments.suffix}", figures, arguments=noted)
        figures = search_overhead.measure(model, arguments.num_vectors, arguments.queries)
        write_result(f"search_overhead{arguments.suffix}", figures, arguments=noted)
        figures = restart.measure(model, arguments.num_vectors, arguments.rounds)
        write_result(f"restart{arguments.suffix}", figures, arguments=noted)
    figures = filters.measure(real_vectors("scenes-tiny", None, 2000), num=arguments.num_vectors)
    write_result(f"filters{arguments.suffix}", figures, arguments=noted)
    write_result(f"roofline{arguments.suffix}", roofline.measure(), arguments=noted)


if __name__ == "__main__":
    main()
