"""The harness that compares servers, with our service on both sides; and what the page says of its results."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.engines import perturbed
from benchmarks.peers import clip_retrieval, infinity, page
from benchmarks.peers.hugging_face_clip import convert
from benchmarks.peers.load import Request, ask_once, closed_loop, open_loop
from benchmarks.reference_model import ARCHITECTURE
from structxlip.architecture import build_model
from structxlip.models import load_encoder
from tests.support.plain_pictures import plain_jpegs
from tests.support.tiny_open_clip import write_tiny_open_clip


class _Answering(BaseHTTPRequestHandler):
    """Says the body back; `refuse` is refused, `fail` fails."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response({b"refuse": 429, b"fail": 500}.get(body, 200))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_closed_loop_tells_good_answers_from_others(answering: str) -> None:
    bodies = [b"a", b"refuse", b"b", b"fail", b"c"]
    outcome = closed_loop(answering, [Request("/", body) for body in bodies], num_clients=1, keep=True)
    assert outcome.answers == [b"a", b"b", b"c"]
    assert (len(outcome.seconds), outcome.num_refused, outcome.num_failed) == (3, 1, 1)
    many = closed_loop(answering, [Request("/", b"x")] * 40, num_clients=4)
    assert len(many.seconds) == 40


def test_an_open_loop_sends_at_its_rate_whatever_comes_back(answering: str) -> None:
    outcome = open_loop(answering, itertools.repeat(Request("/", b"x")), rate=100, seconds=1.0)
    assert 60 < len(outcome.seconds) < 140
    assert outcome.per_second == pytest.approx(len(outcome.seconds) / outcome.duration)


def test_a_server_that_is_gone_gives_no_answer() -> None:
    status, _ = ask_once("http://127.0.0.1:9", Request("/", b"x"), timeout=1.0)
    assert status == 0


def test_the_hugging_face_form_holds_every_weight_once() -> None:
    torch.manual_seed(0)
    state = build_model(ARCHITECTURE).state_dict()
    converted = convert(state)
    assert sum(t.numel() for t in converted.values()) == sum(t.numel() for t in state.values())
    parts = [f"vision_model.encoder.layers.3.self_attn.{part}_proj.weight" for part in "qkv"]
    joined = torch.cat([converted[part] for part in parts])
    assert torch.equal(joined, state["visual.transformer.resblocks.3.attn.in_proj_weight"])


@pytest.mark.slow
def test_embedding_servers_are_compared(tmp_path: Path) -> None:
    model = f"local-dir:{write_tiny_open_clip(tmp_path / 'tiny')}"
    contestants = {name: infinity.ours(model, tmp_path) for name in ("one", "other")}
    figures = infinity.measure(contestants, plain_jpegs(4, seed=1), seconds=0.5, rounds=2)
    assert figures["smallest_cosine"]["other"] == {"text": 1.0, "picture": 1.0}
    ratios = figures["times_the_baseline"]["other"]
    assert ratios["text, 1 at a time"]["rate"] > 0
    assert ratios["picture, offered 50% of the baseline's rate"]["p99"] > 0
    for run in figures["contestants"]["other"]["poison"]:
        assert run["truncated JPEG"]["answered"] == 422
        assert run["PNG of 144 megapixels"]["good_requests_answered_afterwards"] == 3
    figures["infinity"] = {"infinity-emb": "0", "torch": "0"}
    result = {"figures": figures, "measured_at": "2026-11-25", "machine": {"cores": 2}}
    told = page.section({page.INFINITY: result})
    assert "| text, 16 at a time |" in told
    plot = tmp_path / page.plot_of(page.INFINITY)
    page.draw(result, plot)
    assert plot.stat().st_size > 1000


@pytest.mark.slow
def test_search_servers_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_retrieval, "NUM_CHECKED", 12)
    encoder = load_encoder("scenes-tiny", device="cpu")
    real = np.random.default_rng(0).standard_normal((40, 2 * encoder.dimension)).astype(np.float32)
    stored = perturbed(real, 100, encoder.dimension, seed=1)  # asked for more than once each
    contestants = {}
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
        contestants[name] = clip_retrieval.ours(stored, tmp_path / name, fingerprint=encoder.fingerprint)
    figures = clip_retrieval.measure(contestants, stored, seconds=0.3, rounds=1)
    assert figures["contestants"]["other"]["recall_at_10"] == 1.0
    assert figures["times_as_fast"]["other"]["1 at a time"] > 0


def test_an_index_is_tuned_by_hand_to_a_recall(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    real = np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32)
    stored = perturbed(real, 2000, 16, seed=1)
    index = faiss.index_factory(32, "HNSW16", faiss.METRIC_INNER_PRODUCT)
    index.add(stored)
    index.hnsw.efSearch = 2000
    faiss.write_index(index, str(tmp_path / "image.index"))
    found = clip_retrieval.tune_by_hand(tmp_path / "image.index", stored, 0.9)
    assert found["efSearch"] < 2000
    assert faiss.downcast_index(faiss.read_index(str(tmp_path / "image.index"))).hnsw.efSearch == found["efSearch"]
