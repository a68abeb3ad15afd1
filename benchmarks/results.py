"""Writes a measurement with everything needed to judge it: machine, versions, commit, arguments."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "open_clip_torch",
    "openvino",
    "nncf",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "fastapi",
    "uvicorn",
    "opencv-python-headless",
)


def write_result(name: str, figures: Mapping[str, Any], *, arguments: Mapping[str, Any]) -> Path:
    """Write ``results/NAME.json`` and print the figures."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "benchmark": name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": versions(),
        "commit": commit(),
        "arguments": {key: _shown(value) for key, value in arguments.items()},
        "figures": figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"wrote {path}", file=sys.stderr)
    return path


def _shown(value: object) -> str:
    """Show an argument; of a path on this machine only the last part."""
    text = str(value)
    return text.rpartition("/")[2] if "/" in text else text


def describe_machine() -> dict[str, Any]:
    """Return processor, its matrix instructions, cores, memory, and the mean of runnable tasks over the last minute."""
    return {
        "processor": _processor(),
        "matrix_instructions": _matrix_instructions(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of what was measured with."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit that was measured; ``+`` where the tree had changes."""
    root = Path(__file__).parents[1]
    run = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    return (run.stdout.strip() or "unknown") + ("+" if changed.stdout.strip() else "")


def summarise_milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return quantiles in milliseconds."""
    values = np.asarray(seconds) * 1000
    return {
        "p50": round(float(np.quantile(values, 0.5)), 3),
        "p95": round(float(np.quantile(values, 0.95)), 3),
        "p99": round(float(np.quantile(values, 0.99)), 3),
        "mean": round(float(values.mean()), 3),
        "count": len(values),
    }


def spread(values: Sequence[float], *, digits: int) -> dict[str, float]:
    """Return the median of all rounds, their smallest and their largest."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def alternate(rounds: int, **measures: Callable[[], float]) -> dict[str, list[float]]:
    """Measure several things in turn, round by round, so that the machine's drift meets all of them."""
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def _processor() -> str:
    return next(iter(_cpuinfo("model name")), platform.processor() or "unknown")


def _matrix_instructions() -> list[str]:
    """Return the widest instructions for products in float32, and those for bf16."""
    flags = next(iter(_cpuinfo("flags")), "").split()
    widest = next((flag for flag in ("avx512f", "avx2") if flag in flags), "")
    return [flag for flag in (widest, "avx512_bf16", "amx_bf16") if flag in flags]


def _cpuinfo(key: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]
