"""POST /search over many stored vectors against the bare engine, one request at a time.

    python -m benchmarks.search_overhead --model local-dir:PATH

Two kinds of query. `by_id` searches with a stored picture's vectors, so that no model runs; `by_text` adds the text
encoder, timed bare too. Each request is followed by the same query to a copy of the collection in this process, with no
HTTP (`engine`: candidates, exact scores, records), and to a bare `faiss.IndexFlatIP`; `http_overhead_ms` is what a
request takes beyond the engine, `over_bare_faiss_ms` what it takes beyond the scan alone: the same work with `--engine
flat`, while a large collection has an engine that does less, and `recall_at_10` says what it finds of the scan's. The
client is `http.client` on one connection; parsing its answer is not counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import service_process
from benchmarks.results import summarise_milliseconds, write_result
from benchmarks.stored_vectors import fill_collection
from index.engine import EngineKind
from index.local import LocalCollection
from index.settings import LocalSettings
from service.search.queries import TwoViewQuery
from structxlip.backends.selection import Execution
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder

WEIGHT = 0.5
LIMIT = 10
WARM_UP = 20

WORDS = [
    "red",
    "blue",
    "round",
    "square",
    "table",
    "chair",
    "tree",
    "house",
    "dog",
    "street",
    "lamp",
    "car",
    "left",
    "right",
    "two",
    "three",
    "striped",
    "small",
]


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--num", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--engine", choices=["auto", "flat", "hnsw"], default="auto")
    parser.add_argument("--name", default="search_overhead")
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.num, arguments.queries, arguments.engine)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(
    model: str, num: int, num_queries: int, engine_kind: Literal["auto", "flat", "hnsw"] = "auto"
) -> dict[str, Any]:
    """Return quantiles of each part and of the overhead, query by query."""
    encoder = load_encoder(model, device="cpu", execution=Execution("auto"))
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        data, copy = Path(folder) / "data", Path(folder) / "copy"
        fill_collection(data, num=num, dimension=encoder.dimension, fingerprint=encoder.fingerprint)
        shutil.copytree(data, copy)
        with (
            closing(
                LocalCollection.open(
                    copy,
                    dimension=encoder.dimension,
                    fingerprint=encoder.fingerprint,
                    settings=LocalSettings(engine=engine_kind),
                )
            ) as engine,
            service_process.running(model, data, engine=engine_kind) as (url, _),
            closing(_connect(url)) as connection,
        ):
            kind = engine.status().engine
            against = _Baselines(engine, _bare_index(engine, encoder.dimension, num), is_exact=kind == EngineKind.FLAT)
            by_id = _measure_ids(connection, against, chance.integers(0, num, num_queries))
            texts = [" ".join(chance.choice(WORDS, 8)) for _ in range(num_queries)]
            by_text = _measure_texts(connection, against, encoder, texts)
    return {
        "num_vectors": num,
        "vector_length": 2 * encoder.dimension,
        "engine": kind,
        "by_id": by_id,
        "by_text": by_text,
    }


@dataclass
class _Baselines:
    """The same search without HTTP: of our engine, and of FAISS alone; seconds of each query."""

    engine: LocalCollection
    faiss_index: faiss.IndexFlatIP
    is_exact: bool
    engine_seconds: list[float] = field(default_factory=list)
    faiss_seconds: list[float] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)

    def search(self, vector: NDArray[np.float32], expected: list[float]) -> None:
        """Search with both; check that our engine found the same scores, and how many of the scan's there are."""
        started = time.perf_counter()
        hits = self.engine.search(vector, limit=LIMIT).items
        self.engine_seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
        scores, _ = self.faiss_index.search(vector[None], LIMIT)
        self.faiss_seconds.append(time.perf_counter() - started)
        np.testing.assert_allclose(expected, [hit.score for hit in hits], atol=1e-4)
        if self.is_exact:
            np.testing.assert_allclose(expected, scores[0], atol=1e-4)
        self.recalls.append(float(np.mean(np.asarray(expected) >= scores[0, -1] - 1e-4)))


def _measure_ids(connection: HTTPConnection, against: _Baselines, numbers: NDArray[np.int64]) -> dict[str, object]:
    http, lookup = [], []
    for number in [*numbers[:WARM_UP], *numbers]:
        started = time.perf_counter()
        vectors = against.engine.vectors(f"v{number}")
        lookup.append(time.perf_counter() - started)
        assert vectors is not None
        query = TwoViewQuery(*vectors, WEIGHT).vector()
        http.append(_timed_search(connection, {"image_id": f"v{number}"}, against, query))
    return _summary(http, against, len(numbers), bare_lookup_ms=lookup)


def _measure_texts(
    connection: HTTPConnection, against: _Baselines, encoder: TwoViewEncoder, texts: list[str]
) -> dict[str, object]:
    http, encode = [], []
    for text in [*texts[:WARM_UP], *texts]:
        started = time.perf_counter()
        embedded = encoder.encode_texts([encoder.prepare_text(text)])
        encode.append(time.perf_counter() - started)
        query = TwoViewQuery(embedded.appearance[0], embedded.structure[0], WEIGHT).vector()
        http.append(_timed_search(connection, {"text": text}, against, query))
    return _summary(http, against, len(texts), bare_text_encoding_ms=encode)


def _timed_search(
    connection: HTTPConnection, query: dict[str, str], against: _Baselines, vector: NDArray[np.float32]
) -> float:
    body = json.dumps({**query, "structure_weight": WEIGHT, "limit": LIMIT})
    started = time.perf_counter()
    connection.request("POST", "/search", body, {"Content-Type": "application/json"})
    answer = connection.getresponse().read()
    seconds = time.perf_counter() - started
    against.search(vector, [hit["score"] for hit in json.loads(answer)["hits"]])
    return seconds


def _summary(http: list[float], against: _Baselines, num: int, **preparation: list[float]) -> dict[str, object]:
    """Leave the warm-up out, and summarise; ``preparation`` is what comes before the search, with or without HTTP."""
    request, engine, bare = (np.asarray(each[-num:]) for each in (http, against.engine_seconds, against.faiss_seconds))
    prepared = np.sum([each[-num:] for each in preparation.values()], axis=0)
    return {
        "request_ms": summarise_milliseconds(list(request)),
        "engine_ms": summarise_milliseconds(list(engine)),
        "bare_faiss_ms": summarise_milliseconds(list(bare)),
        **{name: summarise_milliseconds(each[-num:]) for name, each in preparation.items()},
        "http_overhead_ms": summarise_milliseconds(list(request - prepared - engine)),
        "recall_at_10": round(float(np.mean(against.recalls[-num:])), 4),
        "over_bare_faiss_ms": summarise_milliseconds(list(request - prepared - bare)),
    }


def _connect(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    return HTTPConnection(parts.hostname or "", parts.port, timeout=60)


def _bare_index(collection: LocalCollection, dimension: int, num: int) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(2 * dimension)
    index.add(np.stack([np.concatenate(collection.vectors(f"v{number}") or ()) for number in range(num)]))
    return index


if __name__ == "__main__":
    main()
