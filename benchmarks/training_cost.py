"""What the structural losses cost in training: time and memory of a step with all losses against plain fine-tuning.

    python -m benchmarks.training_cost training/configs/photos_mini.yaml
    python -m benchmarks.training_cost training/configs/photos_mini.yaml --architecture ViT-B-16 --steps 3

With `--architecture`, a model of that shape with random weights learns as a whole, as the paper's do: what a step costs
does not depend on the weights.

Each variant runs in a process of its own, in turn, so that its peak memory is its own and the machine's drift meets all
of them. The same batches, in the same order, with the same batch size. Processor seconds are what a quiet core would
take about as long for; wall-clock seconds are given beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip

from benchmarks.results import write_result
from training.allocation import keep_freed_memory

WHOLE = [
    "model.start=scratch",
    "model.preprocessing={image_size: 224, resize_mode: squash, interpolation: bicubic, fill: 0, "
    "mean: [0.48, 0.46, 0.41], std: [0.27, 0.26, 0.28]}",
    "freezing={mode: none}",
    "regime.batch_size=16",
]
PLAIN = ["loss.structure=0", "loss.consistency=0", "loss.local=0", "loss.sketch=0"]
# The paper's losses; drawings are another view of every picture, and cost what a view costs.
ALL = ["loss.sketch=0"]
VARIANTS = {
    "plain": PLAIN,
    "all, shared": [*ALL, "model.edge_branch={kind: shared}"],
    "all, cnn": [*ALL, "model.edge_branch={kind: cnn}"],
    "plain, padded texts": [*PLAIN, "regime.pack_texts=false"],
    "all, shared, padded texts": [*ALL, "model.edge_branch={kind: shared}", "regime.pack_texts=false"],
}


def main() -> None:
    """Measure, or with `--variant` be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value, for all variants")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--architecture", help="open_clip's name of a model that learns as a whole, such as ViT-B-16")
    parser.add_argument("--name", default="training_cost")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant:
        overrides = [*arguments.overrides, *VARIANTS[arguments.variant]]
        print(json.dumps(measure_steps(arguments.config, overrides, arguments.steps)))
        return
    overrides = [*_whole_model(arguments.architecture), *arguments.overrides]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name in VARIANTS:
            found[name].append(_in_a_process(name, arguments, overrides))
            print(name, found[name][-1], file=sys.stderr, flush=True)
    figures = {name: {what: min(run[what] for run in runs) for what in runs[0]} for name, runs in found.items()}
    write_result(arguments.name, {**figures, "over plain": _ratios(figures)}, arguments=vars(arguments))


def measure_steps(config_path: Path, overrides: list[str], num_steps: int) -> dict[str, float]:
    """Take steps on the first batches of an epoch; the data are prepared before the clock starts."""
    from training.config import load_config
    from training.loop import epoch_batches, prepare, take_step

    with tempfile.TemporaryDirectory() as folder:
        run = prepare(load_config(config_path, [*overrides, f"saving.run_folder={folder}"]))
        batches = []
        for batch in epoch_batches(run):
            batches.append(batch)
            if len(batches) > num_steps:
                break
        take_step(run, batches[0])
        processor, wall = [], []
        for batch in batches[1:]:
            begun = time.process_time(), time.perf_counter()
            take_step(run, batch)
            processor.append(time.process_time() - begun[0])
            wall.append(time.perf_counter() - begun[1])
    return {
        "processor_seconds_a_step": round(statistics.median(processor), 4),
        "wall_seconds_a_step": round(statistics.median(wall), 4),
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _whole_model(architecture: str | None) -> list[str]:
    if architecture is None:
        return []
    return [*WHOLE, f"model.architecture={json.dumps(open_clip.get_model_config(architecture))}"]


def _in_a_process(name: str, arguments: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.training_cost", str(arguments.config), *overrides]
    told = subprocess.run(
        [*command, "--steps", str(arguments.steps), "--variant", name],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    found: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    return found


def _ratios(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    plain = figures["plain"]
    return {
        name: {what: round(value / plain[what], 2) for what, value in found.items()}
        for name, found in figures.items()
        if name != "plain"
    }


if __name__ == "__main__":
    keep_freed_memory()
    main()
