"""Parts of the page of measurements: searches with a filter, the machine's limits, towers in int8."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.page_parts import BY_HAND, Result, measured, source, table

FILTERS = ("filters", "filters_1m")
QUANTISED = {
    "quantised": "ViT-B/32, random weights",
    "quantised_scenes": "scenes-tiny",
    "quantised_photos": "a MobileNetV2 on photographs",
}
GATHERED = "exact_gathered"
_FILTERS = """## Searches with a filter

`python -m benchmarks.filters`: vectors and queries as above, and filters that keep 1, 10 and 50 % of the pictures.
Ours is the collection's own search when it knows what matches: candidates, exact scores, order. FAISS is bare, its
selector ready made, and has the fastest of all settings and kinds of selector that reaches recall@10 = 0.98 on these
very queries. In brackets: times the rate of the fastest FAISS. One row is no FAISS: NumPy copies what matches and
multiplies it, on threads that go on spinning for the next product. A filter in use has a copy of what matches
([decision 35](decisions/0035-filters-in-use-get-a-copy-in-half-precision.md)) or lists of it
([decision 43](decisions/0043-filters-in-use-get-lists-of-their-own.md)); a new filter has neither. Ours tunes itself,
and once more on these very queries, as FAISS is. The last rows: finding what matches, in SQLite, and the whole search
with a filter that is in use, and the first one with it. Measured on 2026-11-25, each search found what matches anew.
"""
_LIMITS = """## Limits of the machine

`python -m benchmarks.roofline`: the best rate of matrix products (torch, OpenVINO) and of reading memory that was
measured here, and what share of them the image tower of a ViT-B/32 and a scan reach. Only matrix products count as
work of the tower.
"""
_INT8 = """## int8

`python -m benchmarks.quantised`: towers quantised after training; int8 is no option of the service
([decision 29](decisions/0029-no-int8-yet.md)). What is not int8 runs in bf16. Recall of captions with both views.
"""


def filters(results: Mapping[str, Result]) -> str:
    """Return the part on searches with a filter."""
    present = [each for name in FILTERS for each in measured(results, name)]
    lines = [_FILTERS] if present else []
    for name, result in present:
        figures = result["figures"]
        shares = figures["shares"]
        lines += [f"**{figures['num']:,} pictures** ({source(name, result)})", ""]
        best = {
            share: max(
                each["queries_a_second"]
                for key, each in found["contestants"].items()
                if not key.startswith(("ours", GATHERED)) and each["lowest_recall_at_10"] >= 0.98
            )
            for share, found in shares.items()
        }
        contestants = dict.fromkeys(key for found in shares.values() for key in found["contestants"])
        rows = [
            [
                _contestant(key),
                *(_rate(found["contestants"].get(key), best[share], key) for share, found in shares.items()),
            ]
            for key in sorted(contestants, key=lambda key: key.startswith("ours"))
        ]
        rows += _times(shares)
        head = ["queries a second, lowest recall@10", *(f"{float(share):.0%} match" for share in shares)]
        lines += [*table(head, rows), ""]
    return "\n".join(lines)


def limits(results: Mapping[str, Result]) -> str:
    """Return the part on the machine's limits."""
    present = measured(results, "roofline")
    return "\n\n".join([_LIMITS.rstrip(), *(_limits(name, result) for name, result in present)]) if present else ""


def _limits(name: str, result: Result) -> str:
    figures = result["figures"]
    products, tower, scan = figures["products"], figures["tower"], figures["scan"]
    lines = [f"{source(name, result)}.", ""]
    rows = [
        [
            shape,
            *(
                f"{rates[library]:,.0f}"
                for rates in (products["gflops_a_second"][precision][shape] for precision in products["limits"])
                for library in ("torch", "openvino")
            ),
        ]
        for shape in products["gflops_a_second"]["f32"]
    ]
    head = [
        "GFLOP/s",
        *(f"{library} {precision}" for precision in products["limits"] for library in ("torch", "OpenVINO")),
    ]
    lines += [*table(head, rows), ""]
    rows = [
        [
            name.replace("_", " ").replace("openvino", "OpenVINO"),
            f"{each['milliseconds']:.0f}",
            f"{each['gflops_a_second']:,.0f}",
            f"{each['share_of_limit']:.0%}",
            ", ".join(f"{kind} {share:.0%}" for kind, share in list(each.get("share_of_time", {}).items())[:5]),
        ]
        for name, each in tower["backends"].items()
    ]
    head = [f"image tower, batch {tower['batch']}", "ms", "GFLOP/s", "of the limit", "its time goes to"]
    lines += [*table(head, rows), ""]
    rows = [
        [name, f"{each['milliseconds']:.1f}", f"{each['queries_a_second']:.0f}", f"{each['share_of_bandwidth']:.0%}"]
        for name, each in scan["searches"].items()
    ]
    head = [
        f"scan of {scan['num']:,} × {scan['width']}",
        "ms",
        "queries/s",
        f"bytes stored through the time, of {scan['limit']:.1f} GB/s",
    ]
    return "\n".join([*lines, *table(head, rows)])


def quantised(results: Mapping[str, Result]) -> str:
    """Return the part on int8."""
    present = {name: label for name, label in QUANTISED.items() if name in results}
    if not present:
        return ""
    lines, rows = [_INT8], []
    for name, label in present.items():
        for form, each in results[name]["figures"]["forms"].items():
            cosine, times = each["cosine"], each["picture_milliseconds"]
            recall = list(each["recall"].values())[-1]
            rows.append(
                [
                    label if form == "torch_f32" else "",
                    form.replace("_", " ").replace("openvino", "OpenVINO"),
                    *(f"{cosine[kind]['smallest']:.4f}" for kind in ("pictures", "edge_maps", "texts")),
                    "" if "random" in label else f"{recall['R@1']:.1f}",
                    f"{times['batch 1']:.1f}",
                    f"{times['batch 32']:.0f}",
                ]
            )
    head = ["", "", "smallest cosine: pictures", "edge maps", "texts", "R@1", "ms, batch 1", "ms, batch 32"]
    return "\n".join([*lines, *table(head, rows)])


def _rate(figures: Result | None, best: float, key: str) -> str:
    if figures is None:
        return ""
    rate = figures["queries_a_second"]
    told = f"{rate:,.0f}, {figures['lowest_recall_at_10']:.3f}"
    return f"{told} ({rate / best:.2f})" if key.startswith("ours") else told


def _times(shares: Result) -> list[list[str]]:
    """Return rows of milliseconds; finding what matches is the same with every engine."""
    kinds = ", ".join(next(iter(shares.values()))["ours"])
    rows = []
    for label, key in (
        ("finding what matches, ms", "matching_ms"),
        (f"whole search, ms: {kinds}", "search_ms"),
        ("the first with this filter", "first_search_ms"),
    ):
        of_share = [list(found["ours"].values())[: 1 if key == "matching_ms" else None] for found in shares.values()]
        if all(key in each for found in of_share for each in found):  # the first was not measured before 2026-11-29
            rows.append([label, *(", ".join(f"{each[key]:.1f}" for each in found) for found in of_share)])
    return rows


def _contestant(key: str) -> str:
    if key.startswith("exact"):
        return {"exact_selected": "FAISS flat, bitmap", GATHERED: "matching rows copied and multiplied, NumPy"}[key]
    who, _, what = key.partition("_")
    what = what.replace("_before_the_copy", ", new filter").replace(BY_HAND, ", tuned as FAISS")
    return f"{'FAISS' if who == 'faiss' else who} {what.replace('{lists}', '').replace('{half}', '')}"
