"""The numbers the service publishes at `/metrics`; one registry per application, so that tests do not share them."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.routes import routes_of_path

PREFIX = "structxlip"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of one application, by the names of the service's contract."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.queue_items = self._gauge("queue_items", "Items waiting for the model.", "queue")
        self.queue_pixels = self._gauge("queue_pixels", "Pixels held by items waiting for the model.", "queue")
        self.batch_size = self._histogram("batch_size", "Items in a batch.", "queue", buckets=BATCH_SIZES)
        self.queue_seconds = self._histogram("queue_seconds", "Wait of an item before its batch.", "queue")
        self.decode_seconds = self._histogram("decode_seconds", "Bytes of a picture to pixels.")
        self.edge_seconds = self._histogram("edge_seconds", "Resize and edge map of a picture.")
        self.encode_seconds = self._histogram("encode_seconds", "One batch through the model.", "view", "kind")
        self.search_seconds = self._histogram("search_seconds", "One search in the index.", "engine")
        self.query_cache_total = self._counter(
            "query_cache_total", "Embeddings of queries asked of the cache.", "result"
        )
        self.rejected_total = self._counter("rejected_total", "Requests or items refused.", "reason")
        self.collection_images = self._gauge("collection_images", "Pictures stored.")
        self.index_snapshot_age_seconds = self._gauge(
            "index_snapshot_age_seconds", "Age of the newest index snapshot; -1 when there is none."
        )
        self.self_check_recall = self._gauge(
            "self_check_recall",
            "Recall of the index against exact search, lately; -1 before the first check.",
        )
        self.http_requests_total = self._counter(
            "http_requests_total", "Requests answered.", "method", "route", "status"
        )
        self.http_request_seconds = self._histogram("http_request_seconds", "Request to last byte.", "method", "route")
        self.http_requests_in_flight = self._gauge("http_requests_in_flight", "Requests being answered.")

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=self.registry)


class MetricsMiddleware:
    """Counts and times every HTTP request by its route's template, never by its raw path."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self.app = app
        self.metrics = metrics
        self.clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request and note it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = self.clock()
        with self.metrics.http_requests_in_flight.track_inprogress():
            try:
                await self.app(scope, receive, send_and_note)
            finally:
                method, route = _method_label(scope["method"]), _route_template(scope)
                self.metrics.http_requests_total.labels(method, route, str(status)).inc()
                self.metrics.http_request_seconds.labels(method, route).observe(self.clock() - started)


def _method_label(method: str) -> str:
    """Fold methods that nobody defined, so that a caller cannot make new time series."""
    return method if method in {"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"} else "other"


def _route_template(scope: Scope) -> str:
    route = scope.get("route")
    if route is not None:
        return str(getattr(route, "path", "unmatched"))
    # Refused before routing (authentication, limits): match by hand.
    for candidate, match in routes_of_path(scope):
        if match == Match.FULL:
            return str(candidate.path)  # type: ignore[attr-defined]
    return "unmatched"
