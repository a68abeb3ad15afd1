"""The map of the service: what it is made of, in what order it starts and stops, what guards its door."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, TypedDict

import structlog
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from index.collection import Collection
from index.local import LocalCollection
from index.settings import LocalSettings
from service.bodies import LeaseMiddleware
from service.collection_problems import install_collection_problems
from service.embedding import Embedder
from service.explaining import Explainer
from service.metrics import Metrics, MetricsMiddleware
from service.model import BackendChange
from service.problems import MEDIA_TYPE as PROBLEM_MEDIA_TYPE
from service.problems import Problem, install_problem_handlers
from service.remote_images import RemoteImages
from service.routers import adding, embeddings, explaining, images, page, reference, searching, system, watchlists
from service.routes import include_routers
from service.schemas import AnsweredProblem
from service.search.cache import QueryCache
from service.search.resemblance import ResemblanceRules
from service.security import KeyStore, install_security
from service.settings import Settings
from service.state import ServiceState
from service.uploads import BytesBudget
from service.watchlists import FOLDER as WATCHLISTS_FOLDER
from service.watchlists import Watchlists
from structxlip.encoder import TwoViewEncoder

# Every call may answer so; the schema is that of RFC 9457 with what we add to it.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {PROBLEM_MEDIA_TYPE: {"schema": AnsweredProblem.model_json_schema()}},
    }
    for status, description in (
        (422, "Something in the request is not valid"),
        ("4XX", "The request cannot be served"),
        ("5XX", "The service cannot serve it now"),
    )
}

logger = structlog.get_logger(__name__)


class LifespanState(TypedDict):
    """What Starlette copies into every request's state."""

    service: ServiceState


def create_app(
    settings: Settings,
    *,
    encoder: TwoViewEncoder,
    collection: Collection,
    keys: KeyStore | None = None,
    backend_change: BackendChange | None = None,
) -> FastAPI:
    """Build the service.

    Args:
        settings: From the environment and the command line.
        encoder: A loaded model.
        collection: Opened for that model's vectors, perhaps still loading; the caller closes it after the service.
        keys: API keys; ``None`` serves without.
        backend_change: Started when the service is; ``None`` leaves the encoder as it is.
    """
    metrics = Metrics()
    app = FastAPI(
        title="StructXLIP search",
        summary="Find pictures by appearance and by structure.",
        version=version("structxlip"),
        # Their scripts come from elsewhere; `routers.reference` serves /docs.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(settings, metrics, encoder, collection, backend_change),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    api = (
        adding.router,
        searching.router,
        explaining.router,
        images.fields_router,
        images.router,
        watchlists.router,
        embeddings.router,
        system.router,
    )
    include_routers(app, api, responses=PROBLEM_RESPONSES)
    include_routers(app, [page.create_router(), reference.create_router()])
    install_collection_problems(app)
    # The last added stands outermost: problems > metrics > security > CORS > leases > routes.
    app.add_middleware(LeaseMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    install_security(app, settings, keys, metrics)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    install_problem_handlers(app)
    return app


def _lifespan(
    settings: Settings,
    metrics: Metrics,
    encoder: TwoViewEncoder,
    collection: Collection,
    backend_change: BackendChange | None,
) -> Callable[[FastAPI], AbstractAsyncContextManager[LifespanState]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[LifespanState]:
        embedder = Embedder(encoder, settings, metrics)
        embedder.start()
        canary = asyncio.create_task(_sing(embedder, settings.canary_seconds))
        query_cache: QueryCache[Any] = QueryCache(
            settings.max_cached_queries, lambda result: metrics.query_cache_total.labels(result).inc()
        )
        state = ServiceState(
            settings=settings,
            encoder=encoder,
            collection=collection,
            embedder=embedder,
            metrics=metrics,
            remote_images=RemoteImages.from_settings(settings),
            upload_budget=BytesBudget(settings.max_inflight_bytes),
            query_cache=query_cache,
            explainer=Explainer(embedder, query_cache),
            watchlists=await asyncio.to_thread(open_watchlists, settings, encoder),
            backend_change=backend_change,
        )
        if backend_change is not None:
            backend_change.start()
        logger.info("service_started", model=encoder.name, fingerprint=encoder.fingerprint)
        try:
            yield {"service": state}
        finally:
            canary.cancel()
            with suppress(asyncio.CancelledError):
                await canary
            await asyncio.to_thread(embedder.close)
            await asyncio.to_thread(state.watchlists.close)
            logger.info("service_stopped")

    return lifespan


def open_collection(settings: Settings, encoder: TwoViewEncoder, *, wait: bool) -> LocalCollection:
    """Open the collection in ``settings.data``; without ``wait`` its index loads in the background."""
    return LocalCollection.open(
        settings.data,
        dimension=encoder.dimension,
        fingerprint=encoder.fingerprint,
        settings=LocalSettings(engine=settings.engine, snapshot_seconds=settings.snapshot_seconds),
        wait=wait,
    )


def open_watchlists(settings: Settings, encoder: TwoViewEncoder) -> Watchlists:
    """Open the watch lists beside the collection in ``settings.data``; they are searched as exactly as they are few."""
    return Watchlists(
        settings.data / WATCHLISTS_FOLDER,
        lambda folder: LocalCollection.open(folder, dimension=encoder.dimension, fingerprint=encoder.fingerprint),
        copy_rules(settings, encoder),
    )


def copy_rules(settings: Settings, encoder: TwoViewEncoder) -> ResemblanceRules:
    """Return when a picture counts as a copy of another."""
    return ResemblanceRules.of_model(
        encoder.calibration,
        structure_is_trained=encoder.structure_is_trained,
        default_weight=encoder.default_structure_weight,
        false_alarm_rate=settings.copy_false_alarm_rate,
        min_score=settings.copy_min_score,
    )


async def _sing(embedder: Embedder, period_seconds: float) -> None:
    """Embed a canary now and then, so that a model that no longer answers is noticed while nobody asks."""
    while True:
        try:
            await embedder.run_canary(idle_seconds=period_seconds / 2)
        except Problem as problem:
            logger.warning("canary_failed", detail=problem.detail)
        await asyncio.sleep(period_seconds)
