"""The section of docs/performance.md about other servers, and its plot: delays against load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page_parts import Result, measured, source, table

INFINITY, CLIP_RETRIEVAL = "peer_infinity", "peer_clip_retrieval"

_NAMES = {"infinity": "infinity", "ours_f32": "ours, f32", "ours_bf16": "ours, bf16"}
_BAD = {"not a picture": "file that is no picture"}
_COLOURS = {"infinity": "tab:red", "ours_f32": "tab:blue", "ours_bf16": "tab:green"}


def section(results: Mapping[str, Result]) -> str:
    """Return the section, of those peers that were measured."""
    parts = [line for name, result in measured(results, INFINITY) for line in _infinity(name, result)]
    parts += [line for name, result in measured(results, CLIP_RETRIEVAL) for line in _clip_retrieval(name, result)]
    return "\n".join(["## Beside other servers", "", *parts]) if parts else ""


def plot_of(name: str) -> str:
    """Return the file name of a result's plot."""
    return f"performance-load{name.removeprefix(INFINITY).replace('_', '-')}.png"


def _infinity(result_name: str, result: Result) -> list[str]:
    figures = result["figures"]
    contestants, versions = figures["contestants"], figures["infinity"]
    names = list(contestants)
    worst = min(min(cosines.values()) for name, cosines in figures["smallest_cosine"].items() if name in contestants)
    lines = [
        f"`python -m benchmarks.peers.infinity`: infinity {versions['infinity-emb']} (torch {versions['torch']}) and our",
        "service with the same ViT-B/32 (random weights, 4-layer text tower), over loopback, one text or picture a",
        f"request, smallest cosine between their answers {worst:.5f} ({source(result_name, result)}). In brackets: times",
        "infinity's rate.",
        "",
    ]
    rows = []
    for loop in contestants[names[0]]["closed_loop"]:
        base = _rate(contestants[names[0]]["closed_loop"][loop])
        cells = []
        for name in names:
            outcomes = contestants[name]["closed_loop"][loop]
            told = f"{_rate(outcomes):.0f}" + (f" ({_rate(outcomes) / base:.1f})" if name != names[0] else "")
            cells.append(f"{told}, {_delays(outcomes)}")
        rows.append([loop, *cells])
    lines += [*table(["requests/s, p50 / p99 ms", *(_NAMES.get(name, name) for name in names)], rows), ""]
    lines += ["The same load for all, as a share of infinity's own rate; requests come at chance times:", ""]
    rows = []
    for loop in (name for name in contestants[names[0]]["open_loop"] if name.endswith("of its own rate")):
        load = loop.replace("its own", "the baseline's")
        cells = [_delays(contestants[names[0]]["open_loop"][loop])]
        cells += [
            _delays(contestants[name]["open_loop"].get(load, contestants[name]["open_loop"][loop]))
            for name in names[1:]
        ]
        rows.append([loop.replace("its own", "infinity's"), *cells])
    lines += [*table(["p50 / p99 ms", *(_NAMES.get(name, name) for name in names)], rows), ""]
    rows = [
        ["peak memory, MiB", *(str(max(contestants[name]["peak_mebibytes_under_load"])) for name in names)],
        *(
            [f"after one {_BAD.get(kind, kind)}", *(_fate([run[kind] for run in contestants[name]["poison"]]) for name in names)]
            for kind in contestants[names[0]]["poison"][0]
            if kind != "peak_mebibytes"
        ),
    ]
    lines += [*table(["", *(_NAMES.get(name, name) for name in names)], rows), ""]
    return [*lines, f"![Delays against load](images/{plot_of(result_name)})", ""]


def _clip_retrieval(result_name: str, result: Result) -> list[str]:
    figures = result["figures"]
    versions = figures["clip_retrieval"]
    hand = ", ".join(f"{name} {value}" for name, value in figures["tuned_by_hand"]["parameter"].items())
    lines = [
        f"`python -m benchmarks.peers.clip_retrieval`: the search back end of clip-retrieval"
        f" {versions['clip-retrieval']} and ours, over the same",
        f"{figures['as_it_comes']['num_vectors']:,} × {figures['as_it_comes']['vector_length']} vectors, queries by "
        f"vector and by stored id, ten hits ({source(result_name, result)}).",
        "Its index as its own command tunes it, and set by hand to the least work that reaches our recall.",
        "",
    ]
    rows = []
    for label, key in (("as it comes", "as_it_comes"), (f"by hand ({hand})", "tuned_by_hand")):
        contestants = figures[key]["contestants"]
        for loop, outcomes in contestants["ours"]["closed_loop"].items():
            theirs = contestants["clip-retrieval"]["closed_loop"][loop]
            rows.append(
                [
                    f"{label}, {loop}",
                    f"{_rate(theirs):.0f}, {_delays(theirs)}; {contestants['clip-retrieval']['recall_at_10']:.3f}",
                    f"{_rate(outcomes):.0f} ({_rate(outcomes) / _rate(theirs):.1f}), {_delays(outcomes)}; "
                    f"{contestants['ours']['recall_at_10']:.3f}",
                ]
            )
    return [*lines, *table(["requests/s, p50 / p99 ms; recall@10", "clip-retrieval", "ours"], rows), ""]


def draw(result: Result, path: Path) -> None:
    """Draw the 99th percentile of delays against the requests that come in a second."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    contestants = result["figures"]["contestants"]
    first, *_ = contestants
    figure = Figure(figsize=(9, 4), layout="constrained")
    for place, kind in enumerate(("text", "picture")):
        axes = figure.add_subplot(1, 2, place + 1)
        for name, each in contestants.items():
            points = sorted(
                (float(np.median([o["per_second"] for o in outcomes])), _quantile(outcomes, "p99"))
                for loop, outcomes in each["open_loop"].items()
                if loop.startswith(f"{kind},") and (name != first or loop.endswith("of its own rate"))
            )
            rates, delays = zip(*points, strict=True)
            axes.plot(rates, delays, marker="o", label=_NAMES.get(name, name), color=_COLOURS.get(name))
        axes.set(
            title=f"one {kind} a request",
            xlabel="requests a second",
            ylabel="p99, ms" if place == 0 else "",
            xscale="log",
            yscale="log",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _rate(outcomes: Sequence[Mapping[str, Any]]) -> float:
    return float(np.median([outcome["per_second"] for outcome in outcomes]))


def _quantile(outcomes: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.median([outcome["milliseconds"][name] for outcome in outcomes if outcome["milliseconds"]]))


def _delays(outcomes: Sequence[Mapping[str, Any]]) -> str:
    told = f"{_quantile(outcomes, 'p50'):.0f} / {_quantile(outcomes, 'p99'):.0f}"
    lost = sum(outcome["refused"] + outcome["failed"] for outcome in outcomes)
    return told + (f" ({lost} lost)" if lost else "")


def _fate(runs: Sequence[Mapping[str, Any]]) -> str:
    run = max(runs, key=lambda each: float(each["seconds"]))
    answered = f"{run['answered']} in {run['seconds']:.2f} s" if run["answered"] != "nothing" else "no answer"
    alive = min(int(each["good_requests_answered_afterwards"]) for each in runs)
    return f"{answered}; {alive} of 3 good requests answered afterwards"
