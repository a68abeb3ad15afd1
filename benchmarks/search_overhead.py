"""POST /search over many stored vectors against the bare engine, one request at a time.

    python -m benchmarks.search_overhead --model local-dir:PATH

Two kinds of query. `by_id` searches with a stored picture's vectors, so that no model runs: what a request takes beyond
the bare FAISS search of the same query is HTTP, JSON, SQLite and the exact scores. `by_text` adds the text encoder,
timed bare too. The client is `http.client` on one connection; parsing its answer is not counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import service_process
from benchmarks.results import summarise_milliseconds, write_result
from benchmarks.stored_vectors import fill_collection
from index.local import LocalCollection
from service.search.queries import TwoViewQuery
from structxlip.backends.selection import Execution
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder

WEIGHT = 0.5
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
    parser.add_argument("--name", default="search_overhead")
    arguments = parser.parse_args()
    figures = measure(arguments.model, arguments.num, arguments.queries)
    write_result(arguments.name, figures, arguments=vars(arguments))


def measure(model: str, num: int, num_queries: int) -> dict[str, object]:
    """Return quantiles of each part and of the overhead, query by query."""
    encoder = load_encoder(model, device="cpu", execution=Execution("auto"))
    chance = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill_collection(data, num=num, dimension=encoder.dimension, fingerprint=encoder.fingerprint)
        bare, stored = _bare_index(data, encoder.dimension, encoder.fingerprint, num)
        with service_process.running(model, data) as (url, _), closing(_connect(url)) as connection:
            by_id = _measure_ids(connection, bare, stored, chance.integers(0, num, num_queries))
            texts = [" ".join(chance.choice(WORDS, 8)) for _ in range(num_queries)]
            by_text = _measure_texts(connection, bare, encoder, texts)
    return {"num_vectors": num, "vector_length": 2 * encoder.dimension, "by_id": by_id, "by_text": by_text}


def _measure_ids(
    connection: HTTPConnection, bare: faiss.IndexFlatIP, stored: NDArray[np.float32], numbers: NDArray[np.int64]
) -> dict[str, object]:
    http, search = [], []
    for number in [*numbers[:WARM_UP], *numbers]:
        appearance, structure = np.split(stored[number], 2)
        query = TwoViewQuery(appearance, structure, WEIGHT).vector()[None]
        http.append(_timed_search(connection, {"image_id": f"v{number}"}, bare, query, search))
    counted = slice(-len(numbers), None)
    return _summary(http[counted], search[counted])


def _measure_texts(
    connection: HTTPConnection, bare: faiss.IndexFlatIP, encoder: TwoViewEncoder, texts: list[str]
) -> dict[str, object]:
    http, encode, search = [], [], []
    for text in [*texts[:WARM_UP], *texts]:
        started = time.perf_counter()
        embedded = encoder.encode_texts([encoder.prepare_text(text)])
        encode.append(time.perf_counter() - started)
        query = TwoViewQuery(embedded.appearance[0], embedded.structure[0], WEIGHT).vector()[None]
        http.append(_timed_search(connection, {"text": text}, bare, query, search))
    counted = slice(-len(texts), None)
    return _summary(http[counted], search[counted], encode[counted])


def _timed_search(
    connection: HTTPConnection,
    query: dict[str, str],
    bare: faiss.IndexFlatIP,
    vector: NDArray[np.float32],
    search: list[float],
) -> float:
    """Search over HTTP and then bare; check that both found the same scores."""
    body = json.dumps({**query, "structure_weight": WEIGHT, "limit": 10})
    started = time.perf_counter()
    connection.request("POST", "/search", body, {"Content-Type": "application/json"})
    answer = connection.getresponse().read()
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    scores, _ = bare.search(vector, 10)
    search.append(time.perf_counter() - started)
    np.testing.assert_allclose([hit["score"] for hit in json.loads(answer)["hits"]], scores[0], atol=1e-4)
    return seconds


def _summary(http: list[float], search: list[float], encode: list[float] | None = None) -> dict[str, object]:
    bare = np.asarray(search) + (np.asarray(encode) if encode else 0)
    return {
        "request_ms": summarise_milliseconds(http),
        "bare_faiss_search_ms": summarise_milliseconds(search),
        **({"bare_text_encoding_ms": summarise_milliseconds(encode)} if encode else {}),
        "overhead_ms": summarise_milliseconds(list(np.asarray(http) - bare)),
    }


def _connect(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    return HTTPConnection(parts.hostname or "", parts.port, timeout=60)


def _bare_index(
    data: Path, dimension: int, fingerprint: str, num: int
) -> tuple[faiss.IndexFlatIP, NDArray[np.float32]]:
    collection = LocalCollection.open(data, dimension=dimension, fingerprint=fingerprint)
    index = faiss.IndexFlatIP(2 * dimension)
    rows = [np.concatenate(collection.vectors(f"v{number}") or ()) for number in range(num)]
    stored = np.stack(rows)
    index.add(stored)
    collection.close()
    return index, stored


if __name__ == "__main__":
    main()
