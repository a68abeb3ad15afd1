"""The parts of the page on encoding: towers, and the structural view's own branch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.page_parts import Result, measured, source, table

_EDGE_BRANCH = """### The structural view by `cnn`

`python -m benchmarks.edge_branch`: from a resized picture to a unit vector on one core, with float32 and one thread;
milliseconds a picture, in brackets the least and the most of all rounds. A branch normalises groups (the default) or
batches.
"""


def encoders(results: Mapping[str, Result]) -> str:
    """Return the part on towers."""
    lines = [
        "## Encoding",
        "",
        "`python -m benchmarks.encoders`: ViT-B/32 (or B/16) image tower and 4-layer text tower with random weights.",
        "In brackets: times as fast as torch.",
    ]
    found = [*measured(results, "encoders"), *measured(results, "encoders_b16")]
    return "\n".join([*lines, *(line for each in found for line in _encoding(*each))])


def _encoding(name: str, result: Result) -> list[str]:
    figures = result["figures"]
    known = {"torch_f32": "torch f32", "openvino_f32": "OpenVINO f32", "openvino_bf16": "OpenVINO bf16"}
    # Not every processor has bf16, and what strays from torch gets no number.
    run = next(iter(figures["pictures"].values()))["milliseconds"]
    engines = {key: shown for key, shown in known.items() if key in run}
    lines = ["", f"{'ViT-B/16' if 'b16' in name else 'ViT-B/32'}, {source(name, result)}.", ""]
    rows = []
    for label, group in (("pictures", "pictures"), ("both views with `cnn`", "both_views_cnn")):
        for batch, figure in figures[group].items():
            size = int(batch.removeprefix("batch "))
            rows.append([f"{label}, {batch}", *_rates(figure, engines, size, "torch_f32")])
    lines += [*table(["pictures a second", *engines.values()], rows), ""]
    engines = {"torch_f32_padded": "torch, padded", **engines}
    rows = [
        [name, *_times(figure, engines, "torch_f32_padded")]
        for name, figure in figures["texts"].items()
        if not name.startswith("batch 16")
    ]
    return [*lines, *table(["texts, ms", *engines.values()], rows)]


def _rates(figure: Result, engines: Iterable[str], size: int, base: str) -> list[str]:
    cells = []
    for name in engines:
        rate = f"{1000 * size / figure['milliseconds'][name]:.1f}"
        cells.append(rate if name == base else f"{rate} ({figure[f'times_as_fast_as_{base}'][name]['median']:.1f})")
    return cells


def _times(figure: Result, engines: Iterable[str], base: str) -> list[str]:
    cells = []
    for name in engines:
        time = f"{figure['milliseconds'][name]:.1f}"
        cells.append(time if name == base else f"{time} ({figure[f'times_as_fast_as_{base}'][name]['median']:.1f})")
    return cells


def edge_branch(results: Mapping[str, Result]) -> str:
    """Return the part on the branch for edge maps."""
    present = measured(results, "edge_branch")
    return (
        "\n\n".join([_EDGE_BRANCH.rstrip(), *(_edge_branch(name, result) for name, result in present)])
        if present
        else ""
    )


def _edge_branch(name: str, result: Result) -> str:
    figures = result["figures"]
    times = figures["milliseconds_a_picture"]
    detectors = [key.removeprefix("edge map, ") for key in times if key.startswith("edge map, ")]
    ways = [key for key in times if not key.startswith("edge map") and ", with " not in key]
    maps = " and ".join(f"{times[f'edge map, {detector}']['median']:.2f} ms ({detector})" for detector in detectors)
    told = f"{figures['image_size']} pixels, edge maps {maps} of it; {source(name, result)}."
    rows = [[way, *(_spread(times[f"{way}, with {detector}"]) for detector in detectors)] for way in ways]
    return "\n".join([told, "", *table(["", *(f"with {detector}" for detector in detectors)], rows)])


def _spread(each: Mapping[str, float]) -> str:
    return f"{each['median']:.1f} ({each['min']:.1f} to {each['max']:.1f})"
