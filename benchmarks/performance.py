"""Writes docs/performance.md and its plots from the results beside it: `python -m benchmarks.performance`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import page_encoders, page_limits
from benchmarks.page_parts import BY_HAND, Result, measured, source, table
from benchmarks.peers import page as peers
from benchmarks.results import RESULTS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
PLOTS = DOCS / "images"
_COMPARABLE = 0.97
# More than fits into the memory of the machines that were measured.
_BEYOND = 10_000_000
ENGINES = ("engines_10k", "engines_100k", "engines_1m")
UNDER_IMPORT = ("search_under_import", "search_under_import_text_f32", "search_under_import_text")

_INTRODUCTION = """# Performance

Written by `python -m benchmarks.performance` from the JSON files in [benchmarks/results/](../benchmarks/results), each
of which holds the machine, the versions, the commit and the arguments. Every table names the command that measures it
again.
"""
_ENGINES = """## Finding the nearest neighbours

`python -m benchmarks.engines --num N`: real embeddings (rendered scenes, packaged model), perturbed, two views of 256
numbers each; queries that are stored nowhere, asked with structure weights 0, 0.5 and 1, one at a time. Ours is made
and tuned by a collection on disk, without these queries, and includes the exact scores of its candidates and their
order; its settings are one for each weight. "By hand" it is tuned as FAISS is. FAISS is bare and has for each type the
fastest of all settings that reaches recall@10 = 0.98 on these very queries, with each weight; after a colon stands how
much care a graph was built with (`efConstruction`, 40 by default). The plots show the settings that no other beats, and
as a dot the one that was taken, as a diamond ours by hand; like the growth with size, they are of the results without
the name of another machine.
"""


def main() -> None:
    """Write the page and the plots."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    results = read_results()
    PAGE.write_text(render(results))
    draw(results, PLOTS)
    print(f"wrote {PAGE} and the plots beside it")


def read_results(folder: Path = RESULTS) -> dict[str, Result]:
    """Read every result by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def render(results: Mapping[str, Result]) -> str:
    """Return the page."""
    parts = [
        _INTRODUCTION,
        _engines(results),
        page_limits.filters(results),
        page_encoders.encoders(results),
        page_encoders.edge_branch(results),
        page_limits.quantised(results),
        page_limits.limits(results),
        _service(results),
        peers.section(results),
    ]
    return "\n".join(part.strip() + "\n" for part in parts if part)


def _engines(results: Mapping[str, Result]) -> str:
    lines = [_ENGINES]
    for name, result in [found for base in ENGINES for found in measured(results, base)]:
        figures = result["figures"]
        contestants = figures["contestants"]
        lines += [
            f"**{figures['num']:,} pictures** ({source(name, result)})",
            "",
            *table(
                ["", "queries/s", "recall@10", "of it at w = 0, 0.5, 1", "built in, s", "setting"],
                [
                    [
                        _contestant(key, with_lists=True),
                        f"{each['queries_a_second']:,.0f}",
                        f"{each['recall_at_10']['all']:.3f}",
                        ", ".join(f"{each['recall_at_10'][f'weight {weight}']:.3f}" for weight in (0.0, 0.5, 1.0)),
                        f"{each['build_seconds']:.0f}" if each["build_seconds"] else "",
                        ", ".join(_setting(*pair) for pair in each["parameters"].items()),
                    ]
                    for key, each in contestants.items()
                ],
            ),
            "",
        ]
    lines += ["![Queries a second against recall](images/performance-engines.png)", ""]
    present = [results[name] for name in ENGINES if name in results]
    if len(present) > 1:
        lines += _growth(present)
    return "\n".join(lines)


def _setting(name: str, value: float | Sequence[int]) -> str:
    """Name a parameter and its value, or its values for each weight."""
    return f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {'/'.join(map(str, value))}"


def _growth(results: Sequence[Result]) -> list[str]:
    """Tell how the time of a query grows with the collection, by the power law that fits best."""
    names = _comparable([result["figures"] for result in results])
    nums = [result["figures"]["num"] for result in results]
    rows = []
    for name in names:
        times = [1000 / result["figures"]["contestants"][name]["queries_a_second"] for result in results]
        power = growth(nums, times)
        beyond = times[-1] * (_BEYOND / nums[-1]) ** power
        rows.append([_contestant(name), *(f"{time:.2f}" for time in times), f"{power:.2f}", f"{beyond:.2g}"])
    head = ["ms a query", *(f"{num:,}" for num in nums), "grows with N to the power of", f"so at {_BEYOND:,} (not run)"]
    return [*table(head, rows), "", "![Time of a query against size](images/performance-growth.png)"]


def _comparable(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the contestants that were measured at every size and find about the same share everywhere."""
    names = set.intersection(*(set(each["contestants"]) for each in figures))
    return sorted(
        (
            name
            for name in names
            if not name.endswith(BY_HAND)
            and all(min(each["contestants"][name]["recall_at_10"].values()) > _COMPARABLE for each in figures)
        ),
        key=_order,
    )


def growth(nums: Sequence[int], times: Sequence[float]) -> float:
    """Return the exponent of the power law that fits the times."""
    return float(np.polyfit(np.log(nums), np.log(times), 1)[0])


def _service(results: Mapping[str, Result]) -> str:
    adds, search, restart = (results[name]["figures"] for name in ("add_throughput", "search_overhead", "restart"))
    page, photos = (results[name]["figures"] for name in ("page_latency", "real_photos"))
    rate, ratio = adds["pictures_per_second"]["service"], adds["service_to_bare_encoder"]
    by_text, by_id, ready = search["by_text"], search["by_id"], restart["seconds_to_ready"]
    shown = page["last_key_to_first_result_ms"]
    rows = [
        (
            "`POST /index`, ViT-B/32, both views",
            f"{np.median(rate):.1f} pictures/s; {ratio['median']:.2f} × the bare encoder at batch {adds['batch_size']}",
            "add_throughput",
        ),
        (
            f"`POST /search` by text over {search['num_vectors']:,} × {search['vector_length']} ({search['engine']})",
            f"p50 {by_text['request_ms']['p50']:.1f} ms, p99 {by_text['request_ms']['p99']:.1f}; of it the text "
            f"{by_text['bare_text_encoding_ms']['p50']:.1f}, the collection {by_text['engine_ms']['p50']:.1f}, "
            f"HTTP and waiting {by_text['http_overhead_ms']['p50']:.1f}",
            "search_overhead",
        ),
        (
            "the same by a stored id",
            f"p50 {by_id['request_ms']['p50']:.1f} ms, p99 {by_id['request_ms']['p99']:.1f}; a scan by bare FAISS "
            f"{by_id['bare_faiss_ms']['p50']:.1f}; recall@10 {by_id['recall_at_10']:.3f}",
            "search_overhead",
        ),
        (
            f"start to ready, {restart['num_vectors']:,} × {restart['vector_length']}",
            f"{_range(ready['from_snapshot'])} s from a snapshot, {_range(ready['rebuilt'])} s without one, "
            f"{_range(ready['process_and_model'])} s with no pictures",
            "restart",
        ),
        *(_beside_an_import(name, result) for each in UNDER_IMPORT for name, result in measured(results, each)),
        (
            "last key to first result on the page",
            f"p50 {shown['p50']:.0f} ms, p99 {shown['p99']:.0f}",
            "page_latency",
        ),
        (
            f"{photos['num_pictures']:,} photographs, MobileNetV2-sized model",
            "added and found with the ranks of the exact offline computation "
            f"({photos['queries_with_another_rank']} of {photos['num_queries']} queries differ)",
            "real_photos",
        ),
    ]
    lines = ["## The service", "", "Each row: `python -m benchmarks.NAME` with the name of its last column.", ""]
    lines += table(
        ["", "", "result"], [[what, told, f"{name} ({source(name, results[name])})"] for what, told, name in rows]
    )
    return "\n".join(lines)


def _beside_an_import(name: str, result: Result) -> tuple[str, str, str]:
    ratios, arguments = result["figures"]["ratios"], result["arguments"]
    kinds = [kind for kind in ("text", "picture") if f"by_{kind}" in ratios]
    each = ", ".join(
        f"by {kind} p50 {ratios[f'by_{kind}']['p50']:.2f} × idle, p99 {ratios[f'by_{kind}']['p99']:.2f} ×"
        for kind in kinds
    )
    rate, precision = float(arguments["rate"]), arguments.get("precision", "f32")
    shared = ", on a machine with other work" if result["figures"].get("shared_machine") else ""
    what = f"{rate:g} searches/s by {' and by '.join(kinds)} beside an import, {precision}{shared}"
    return what, f"{each}; the import keeps {ratios['import']:.2f} of its rate", name


def draw(results: Mapping[str, Result], folder: Path) -> None:
    """Draw recall against speed for each size, and time against size."""
    from matplotlib.figure import Figure

    present = [results[name]["figures"] for name in ENGINES if name in results]
    figure = Figure(figsize=(4.2 * len(present), 4.4), layout="constrained")
    for place, figures in enumerate(present):
        axes = figure.add_subplot(1, len(present), place + 1)
        for key in sorted(figures["contestants"], key=_order):
            each = figures["contestants"][key]
            curve, lowest = _frontier(each["curve"]), min(each["recall_at_10"].values())
            style = _style(key)
            if key.endswith(BY_HAND):
                axes.plot(lowest, each["queries_a_second"], marker="D", markersize=8, markerfacecolor="none", **style)
                continue
            if not curve:
                axes.axhline(each["queries_a_second"], color="grey", linestyle=":", label=_contestant(key))
                continue
            recalls, rates = (
                [point["lowest_recall_at_10"] for point in curve],
                [point["queries_a_second"] for point in curve],
            )
            axes.plot(recalls, rates, label=_contestant(key), marker=".", **style)
            axes.plot(lowest, each["queries_a_second"], marker="o", markersize=9, **style)
        axes.set(
            title=f"{figures['num']:,} pictures",
            xlabel="recall@10 of the weight that fares worst",
            ylabel="queries a second" if place == 0 else "",
            yscale="log",
            xlim=(0.8, 1.003),
        )
        axes.grid(alpha=0.3, which="both")
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for handles, labels in drawn for handle, label in zip(handles, labels, strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(folder / "performance-engines.png", dpi=110)
    if len(present) > 1:
        _draw_growth(present, folder / "performance-growth.png")
    for name, result in measured(results, peers.INFINITY):
        peers.draw(result, folder / peers.plot_of(name))


def _frontier(curve: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the settings that no other beats in both recall and speed, least recall first."""
    best: list[Mapping[str, Any]] = []
    for point in sorted(curve, key=lambda point: (-point["lowest_recall_at_10"], -point["queries_a_second"])):
        if not best or point["queries_a_second"] > best[-1]["queries_a_second"]:
            best.append(point)
    return best[::-1]


def _draw_growth(present: Sequence[Mapping[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for key in _comparable(present):
        nums = [each["num"] for each in present]
        times = [1000 / each["contestants"][key]["queries_a_second"] for each in present]
        style = {"color": "grey", "linestyle": ":"} if key == "exact" else _style(key)
        axes.plot(nums, times, marker="o", label=f"{_contestant(key)}: N^{growth(nums, times):.2f}", **style)
    axes.set(xscale="log", yscale="log", xlabel="pictures", ylabel="ms a query")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _style(key: str) -> dict[str, Any]:
    kinds = {"_hnsw32,pq": "brown", "fs": "purple", "pq4": "purple", "hnsw": "blue", "pq": "green", "sq": "orange"}
    colour = next((colour for part, colour in kinds.items() if part in key.lower()), "red")
    return {"color": f"tab:{colour}", "linestyle": "-" if key.startswith("ours") else "--"}


def _contestant(key: str, *, with_lists: bool = False) -> str:
    if key == "exact":
        return "exact scan"
    who, _, what = key.removesuffix(BY_HAND).partition("_")
    if not with_lists:  # their number goes with the size
        what = re.sub(r"^IVF\d+", "IVF", what)
    return f"{'FAISS' if who == 'faiss' else who} {what}{', by hand' if key.endswith(BY_HAND) else ''}"


def _order(key: str) -> tuple[bool, bool, str]:
    return key != "exact", not key.startswith("ours"), key


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
