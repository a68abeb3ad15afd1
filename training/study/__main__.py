"""Runs a study, or goes on with it: `python -m training.study CONFIG`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from training.allocation import keep_freed_memory
from training.study.plan import RunKey, StudyConfig, load_study, planned, train_config
from training.study.plots import write_differences
from training.study.pool import open_pool
from training.study.results import append, read, tuned_rates
from training.study.runs import run_once
from training.study.tables import markdown


def main() -> None:
    """Run what is missing, in order, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--parts", default="", help="only these parts of the study, with commas between")
    parser.add_argument("--until", default="", help="start no run after this time of day, UTC, as HH:MM")
    parser.add_argument("--log", type=Path, help="also write one line for each run here")
    parser.add_argument("--folder", type=Path, default=Path("runs/study"), help="where features are kept")
    parser.add_argument("--tables-only", action="store_true")
    arguments = parser.parse_args()
    study = load_study(arguments.config)

    def say(message: str) -> None:
        print(message, flush=True)
        if arguments.log:
            with arguments.log.open("a", encoding="utf-8") as file:
                file.write(message + "\n")

    if not arguments.tables_only:
        parts = arguments.parts.split(",") if arguments.parts else list(study.parts)
        run_missing(study, parts, arguments.folder, _deadline(arguments.until), say)
    write_tables(study)


def run_missing(
    study: StudyConfig, parts: list[str], folder: Path, is_over: Callable[[], bool], say: Callable[[str], None]
) -> int:
    """Make the runs that have no result yet, and return how many were made.

    Args:
        study: Which runs.
        parts: Which parts of it.
        folder: Where features are kept.
        is_over: Asked before each run.
        say: Told of each run.
    """
    path = Path(study.results)
    results = read(path)
    done = {result.key for result in results}
    pool = open_pool(train_config(study, study.reference), folder)
    num_made = 0
    # Planned before the first run, where no result decides: the base may be edited while the study runs.
    plans = {name: list(planned(study, name, {})) for name in parts if not study.parts[name].tuned_by}
    for name in parts:
        part = study.parts[name]
        for key, config in plans.get(name) or planned(study, name, tuned_rates(results, part.tuned_by)):
            if _without_rate(study, key) in {_without_rate(study, known) for known in done}:
                continue
            known_elsewhere = next((known for known in results if replace(known.key, part=name) == key), None)
            if known_elsewhere is not None:
                # The same run under another part's name, such as the trial whose learning rate was chosen.
                results.append(replace(known_elsewhere, key=key))
                append(path, results[-1])
                done.add(key)
                continue
            if is_over():
                say("the time is up: the same command goes on from here")
                return num_made
            begun = time.monotonic()
            result = run_once(
                key, config, pool.divided(part, key.fold), pool, is_trained=key.arm not in study.untrained
            )
            append(path, result)
            results.append(result)
            done.add(key)
            num_made += 1
            seen = result.metrics
            say(
                f"{datetime.now(UTC):%H:%M:%S} {key.told()}: R@1 {seen['appearance']['text_to_image']['r1']:.1f} "
                f"fused {seen['fused']['text_to_image']['r1']:.1f} (w {result.structure_weight:g}), "
                f"val {result.validation:.2f} at epoch {result.epoch}, short {result.forgetting.get('r1', 0):.1f}; "
                f"cpu {result.seconds['training']:.0f} of {result.seconds['all']:.0f} s, "
                f"wall {time.monotonic() - begun:.0f} s"
            )
    return num_made


def write_tables(study: StudyConfig) -> None:
    """Write Markdown and plots beside the results."""
    path = Path(study.results)
    results = read(path)
    path.with_suffix(".md").write_text(markdown(study, results), encoding="utf-8")
    for part in study.parts:
        if not study.parts[part].learning_rates:
            write_differences(path.with_name(f"{path.stem}_{part}.png"), study, results, part)


def _without_rate(study: StudyConfig, key: RunKey) -> RunKey:
    """An arm without steps is one run, whatever the rate."""
    return key if key.arm not in study.untrained else RunKey(key.part, key.arm, 0, key.fold, 0.0)


def _deadline(text: str) -> Callable[[], bool]:
    if not text:
        return lambda: False
    hour, minute = (int(number) for number in text.split(":"))
    now = datetime.now(UTC)
    end = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    seconds = (end - now).total_seconds() % 86_400
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


if __name__ == "__main__":
    keep_freed_memory()
    main()
