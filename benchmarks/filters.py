"""Searches with a filter: ours against FAISS tuned by hand with selectors, and against a scan of what matches.

    python -m benchmarks.filters --num 100000

Vectors and queries are those of `benchmarks.engines`. Each stored picture has a rank drawn at random, and the filters
`rank < share * num` keep 1, 10 and 50 % of them.

Ours is a collection on disk with each engine and a filter in use: what a search does when it knows what matches
(candidates, exact scores, order), by a copy of what matches, or in lists of it, where the collection has made either;
`…_before_the_copy` is the same without, as it is when a filter is new. `matching` is finding what matches in the
catalogue, `copying` making the copy or the lists, `search` a whole search with such a filter and the records of its
hits, `first_search` one with a filter never used before. `…_by_hand` is ours with settings that are tuned as those of
FAISS are, where it has any.
FAISS is bare and is given its selector ready made: each index type with a bitmap and with a batch of ids, and of all
its settings the fastest that reaches the recall on these very queries, with each of the three weights. `exact_selected`
scans with a bitmap over everything, `exact_gathered` copies what matches and multiplies it.
"""

from __future__ import annotations

import argparse
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, product
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import (
    Rows,
    faiss_settings,
    filled_index,
    num_lists,
    perturbed,
    rate_in_use,
    real_vectors,
    weighted,
)
from benchmarks.page_parts import BY_HAND
from benchmarks.results import alternate, write_result
from benchmarks.stored_vectors import engines_over
from index.allowed import Allowed
from index.catalogue import Matrix, Numbers
from index.effort import STRUCTURE_WEIGHTS, Effort
from index.engine import Engine, EngineKind
from index.engine_ivf import Selector
from index.engine_tuning import (
    NUM_NEIGHBOURS,
    Ladder,
    ladders_among_tenth_of,
    ladders_of,
    recall,
    tenth_scores,
)
from index.filters import Filter, parse_filter
from index.local import LocalCollection
from index.search import SearchRequest, rank_among

SHARES = (0.01, 0.1, 0.5)
OURS = ("flat", "hnsw", "ivf_sq8", "ivf_pq4")
THEIRS = (
    "IVF{lists},Flat",
    "IVF{lists},SQ8",
    "IVF{lists}_HNSW32,PQ{half}x4fs,RFlat",
    "HNSW32,Flat",
    "HNSW32,Flat:120",
)
# A filter reads more lists, or walks further, than a search without one.
_MORE_HNSW = (768, 1024, 1536, 2048, 4096)
_MORE_PROBES = (384, 512, 1024)
_MOST_LISTS_BY_HAND = 64
Search = Callable[[NDArray[np.float32]], Numbers]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256, help="dimensions of a view")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--ours", nargs="+", default=OURS)
    parser.add_argument("--faiss", nargs="+", default=THEIRS)
    parser.add_argument("--name", default="filters")
    arguments = parser.parse_args()
    figures = measure(
        real_vectors("scenes-tiny", None, 2000),
        num=arguments.num,
        width=arguments.width,
        num_queries=arguments.queries,
        rounds=arguments.rounds,
        target=arguments.recall,
        ours=arguments.ours,
        theirs=arguments.faiss,
    )
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(
    real: Matrix,
    *,
    num: int,
    width: int = 256,
    num_queries: int = 60,
    rounds: int = 3,
    target: float = 0.98,
    ours: Sequence[str] = OURS,
    theirs: Sequence[str] = THEIRS,
) -> dict[str, Any]:
    """Return queries a second and recall of each contestant for each share, and what finding matches takes."""
    stored = perturbed(real, num, width, seed=1)
    asked = perturbed(real, num_queries, width, seed=2)
    queries = np.concatenate([weighted(asked, weight) for weight in STRUCTURE_WEIGHTS])
    ranks = np.random.default_rng(3).permutation(num)
    indices = {spec: filled_index(spec.format(lists=num_lists(num), half=width), stored) for spec in theirs}
    exact = faiss.IndexFlatIP(stored.shape[1])
    exact.add(stored)
    metadata = [{"rank": int(rank)} for rank in ranks]
    with engines_over(stored, metadata, ours, target) as made:
        collections = {kind: collection for kind, (collection, _) in made.items()}
        shares = {}
        for share in SHARES:
            print(f"{share:.0%} of {num:,} match", file=sys.stderr, flush=True)
            trial = _Trial.of(stored, np.flatnonzero(ranks < share * num), queries, target)
            contestants: dict[str, Search] = {
                "exact_selected": _selecting(exact, trial, "", {}),
                "exact_gathered": _gathering(trial),
            }
            chosen, copying = {}, {}
            for spec, index in indices.items():
                contestants[f"faiss_{spec}"], chosen[f"faiss_{spec}"] = _tuned_by_hand(spec, index, trial)
            condition = parse_filter({"field": "rank", "lt": share * num})
            for kind, collection in collections.items():
                copying[kind] = _use(collection, condition, queries)
                contestants[f"ours_{kind}"] = _ours(collection, _kept(collection, condition))
                if copying[kind] is not None:
                    contestants[f"ours_{kind}_before_the_copy"] = _ours(collection, Allowed(trial.allowed + 1))
                if by_hand := _ours_by_hand(collection, condition, trial):
                    contestants[f"ours_{kind}{BY_HAND}"], chosen[f"ours_{kind}{BY_HAND}"] = by_hand
            shares[str(share)] = {
                "num_matching": len(trial.allowed),
                "contestants": _compared(contestants, chosen, trial, rounds),
                "ours": {
                    kind: {"copying_ms": copying[kind], **_parts(each, condition, queries)}
                    for kind, each in collections.items()
                },
            }
        parameters = {kind: dict(each.status().search_parameters) for kind, each in collections.items()}
    return {
        "threads": faiss.omp_get_max_threads(),
        "num": num,
        "width": stored.shape[1],
        "parameters": parameters,
        "shares": shares,
    }


@dataclass(frozen=True, slots=True)
class _Trial:
    stored: Matrix
    allowed: Numbers
    queries: Matrix
    tenths: NDArray[np.float32]
    target: float
    bitmap: Selector
    batch: Any

    @staticmethod
    def of(stored: Matrix, allowed: Numbers, queries: Matrix, target: float) -> _Trial:
        tenths = tenth_scores(queries, Rows(stored[allowed]))
        return _Trial(stored, allowed, queries, tenths, target, Selector(allowed), faiss.IDSelectorBatch(allowed))

    def recalls(self, search: Search) -> list[float]:
        """Return the recall of each structure weight against the exact answer among what is allowed."""
        return [self.recall(search, place) for place in range(len(STRUCTURE_WEIGHTS))]

    def recall(self, search: Search, place: int) -> float:
        """Return the recall of one of the structure weights."""
        part = self.part(place)
        found = [search(query) for query in self.queries[part]]
        assert all(self.bitmap.lets_through(numbers).all() for numbers in found), "found what the filter leaves out"
        return recall(self.queries[part], self.tenths[part], found, Rows(self.stored))

    def part(self, place: int) -> slice:
        """Return where the queries of a structure weight are."""
        size = len(self.queries) // len(STRUCTURE_WEIGHTS)
        return slice(place * size, (place + 1) * size)


def _use(collection: LocalCollection, condition: Filter, queries: Matrix) -> float | None:
    """Use a filter until it has what the collection makes of it; return the milliseconds of that, if it is anything."""
    maintenance, allowed = collection._maintenance, _kept(collection, condition)
    with collection._live.view() as view:
        cost = maintenance._cost_of_copy(view.engine, len(allowed))
    for query in islice(cycle(queries), cost.num_uses if cost else 1):
        collection.search(query, limit=NUM_NEIGHBOURS, filter=condition)
    # What the background does within half a second.
    seconds = _seconds(maintenance._copy_when_due)
    while cost and not _kept(collection, condition).num_copied_bytes:
        seconds = max(seconds, _seconds(maintenance._copy_when_due))
    return round(1000 * seconds, 3) if cost else None


def _ours(collection: LocalCollection, allowed: Allowed, settings: Mapping[Ladder, Effort] | None = None) -> Search:
    """Return what a search does with a filter that is in use; numbers begin at 0, as FAISS has them."""
    efforts = {ladder.name: effort for ladder, effort in (settings or {}).items()}

    def search(query: NDArray[np.float32]) -> Numbers:
        request = SearchRequest(query, NUM_NEIGHBOURS, None, None, None)
        with collection._live.view() as view:
            before = {name: getattr(view.engine, name) for name in efforts}
            vars(view.engine).update(efforts)
            ranked = rank_among(allowed, request, view.engine, view.reader, collection._policy)
            vars(view.engine).update(before)
        return ranked.numbers - 1

    return search


def _ladders(engine: Engine) -> tuple[Ladder, ...]:
    return (*ladders_of(engine), *ladders_among_tenth_of(engine)) if engine.kind is EngineKind.IVF_PQ4 else ()


def _ours_by_hand(collection: LocalCollection, condition: Filter, trial: _Trial) -> tuple[Search, str] | None:
    """Return ours as fast as any setting of its lists reaches the recall, for each structure weight; and what it is."""
    allowed = _kept(collection, condition)
    with collection._live.view() as view:
        ladders = _ladders(view.engine)
    if not ladders or allowed.lists is None:
        return None

    def tried(nprobe: Effort, refine: Effort) -> Search:
        # The same for all of the vectors and a tenth: what lies between is the same too.
        return _ours(collection, allowed, dict(zip(ladders, (nprobe, refine, nprobe, refine), strict=True)))

    chosen = []
    for place in range(len(STRUCTURE_WEIGHTS)):
        best = (0.0, 0, 0)
        for nprobe in (value for value in ladders[0].values if value <= _MOST_LISTS_BY_HAND):
            refines = ladders[1].values
            fewest = bisect_left(
                refines,
                trial.target,
                key=lambda refine, nprobe=nprobe, place=place: trial.recall(
                    tried(Effort.even(nprobe), Effort.even(refine)), place
                ),
            )
            if fewest < len(refines):
                search = tried(Effort.even(nprobe), Effort.even(refines[fewest]))
                best = max(best, (_rate(search, trial.queries[trial.part(place)]), nprobe, refines[fewest]))
        chosen.append(best)
    if not all(rate for rate, *_ in chosen):
        return None
    first, second, third = chosen
    nprobe, refine = (Effort((first[at], second[at], third[at])) for at in (1, 2))
    return tried(nprobe, refine), f"nprobe {nprobe.values}, refine {refine.values}"


def _kept(collection: LocalCollection, condition: Filter) -> Allowed:
    with collection._live.view() as view:
        return collection._filters.allowed(condition, view.reader)


def _parts(collection: LocalCollection, condition: Filter, queries: Matrix) -> dict[str, Any]:
    """Return median milliseconds of finding what matches, and of whole searches."""
    with collection._live.view() as view:
        matching = [_seconds(lambda: view.reader.matching(condition)) for _ in range(15)]
    whole = [
        _seconds(lambda query=query: collection.search(query, limit=NUM_NEIGHBOURS, filter=condition))
        for query in queries
    ]
    first = []
    for query in queries[:15]:
        collection._filters.forget_before(collection.status().sequence + 1)
        first.append(_seconds(lambda query=query: collection.search(query, limit=NUM_NEIGHBOURS, filter=condition)))
    return {
        "matching_ms": _median_ms(matching),
        "search_ms": _median_ms(whole),
        "first_search_ms": _median_ms(first),
    }


def _median_ms(seconds: Sequence[float]) -> float:
    return round(float(np.median(seconds)) * 1000, 3)


def _compared(
    contestants: dict[str, Search], chosen: dict[str, str], trial: _Trial, rounds: int
) -> dict[str, dict[str, Any]]:
    rates = alternate(
        rounds, **{name: lambda search=each: rate_in_use(search, trial.queries) for name, each in contestants.items()}
    )
    found = {}
    for name, search in contestants.items():
        by_weight = trial.recalls(search)
        found[name] = {
            "queries_a_second": round(float(np.median(rates[name])), 1),
            "rounds": [round(rate, 1) for rate in rates[name]],
            "recall_at_10": round(float(np.mean(by_weight)), 4),
            "lowest_recall_at_10": round(min(by_weight), 4),
            "setting": chosen.get(name, ""),
        }
    return found


def _tuned_by_hand(spec: str, index: Any, trial: _Trial) -> tuple[Search, str]:
    """Return the fastest of all settings and both selectors that reaches the recall, else the most thorough one."""
    most, best = None, None
    for options in _settings(spec):
        told = " ".join(map(str, options.values()))
        for batch in (False, True):
            if batch and (best is None or best[1] != f"{told}, bitmap"):
                continue
            search = _selecting(index, trial, spec, options, batch=batch)
            most = (search, f"{told}, {'batch' if batch else 'bitmap'}", _rate(search, trial.queries))
            if (best is None or most[2] > best[2]) and min(trial.recalls(search)) >= trial.target:
                best = most
        # Slower and slower from here on, where there is one parameter.
        if best is not None and most is not None and len(options) == 1 and most[2] < 0.7 * best[2]:
            break
    kept = best or most
    assert kept is not None
    return kept[:2]


def _settings(spec: str) -> list[dict[str, int]]:
    """List the parameters to try, cheapest first."""
    settings = [
        {name: int(value) for name, _, value in (part.partition("=") for part in setting.split(","))}
        for setting in faiss_settings(spec)
    ]
    if spec.startswith("HNSW"):
        return settings + [{"efSearch": value} for value in _MORE_HNSW]
    factors = [{"k_factor_rf": factor} for factor in (4, 16, 64)] if "RFlat" in spec else [{}]
    places = [{"quantizer_efSearch": 2048}] if "_HNSW" in spec else [{}]
    more = product(_MORE_PROBES, factors, places)
    return settings + [{"nprobe": value, **factor, **place} for value, factor, place in more]


def _parameters(spec: str, selector: Any, options: Mapping[str, int]) -> Any:
    """Return a selector and settings as FAISS takes them for an index of this kind; none for an exact scan."""
    if not spec:
        return faiss.SearchParameters(sel=selector)
    if spec.startswith("HNSW"):
        return faiss.SearchParametersHNSW(sel=selector, **options)
    centres = {}
    if "quantizer_efSearch" in options:  # given at once: FAISS keeps no reference to what is set later
        centres["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=options["quantizer_efSearch"])
    lists = faiss.SearchParametersIVF(sel=selector, nprobe=options["nprobe"], **centres)
    if "RFlat" not in spec:
        return lists
    return faiss.IndexRefineSearchParameters(k_factor=options["k_factor_rf"], base_index_params=lists)


def _selecting(index: Any, trial: _Trial, spec: str, options: Mapping[str, int], *, batch: bool = False) -> Search:
    selector = trial.batch if batch else trial.bitmap.faiss
    parameters = _parameters(spec, selector, options)

    def search(query: NDArray[np.float32]) -> Numbers:
        found: Numbers = index.search(query[None], NUM_NEIGHBOURS, params=parameters)[1][0]
        return found[found >= 0]

    return search


def _gathering(trial: _Trial) -> Search:
    def search(query: NDArray[np.float32]) -> Numbers:
        scores = trial.stored[trial.allowed] @ query
        k = min(NUM_NEIGHBOURS, len(scores))
        best = np.argpartition(-scores, k - 1)[:k]
        return trial.allowed[best[np.argsort(-scores[best])]]

    return search


def _rate(search: Search, queries: Matrix) -> float:
    return len(queries) / _seconds(lambda: [search(query) for query in queries])


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
