"""What the running service owns; made by the lifespan, read by the routers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from index.collection import Collection
from service.embedding import Embedder
from service.explaining import Explainer
from service.metrics import Metrics
from service.model import BackendChange
from service.problems import NotReady
from service.remote_images import RemoteImages
from service.search.cache import QueryCache
from service.search.turns import SearchTurns
from service.settings import Settings
from service.uploads import BytesBudget, UploadLimits
from service.watchlists import Watchlists
from structxlip.encoder import TwoViewEncoder

RECORDS_FIELD = "records"


@dataclass(slots=True)
class ServiceState:
    """The parts of one running service."""

    settings: Settings
    encoder: TwoViewEncoder
    collection: Collection
    embedder: Embedder
    metrics: Metrics
    remote_images: RemoteImages
    upload_budget: BytesBudget
    query_cache: QueryCache[Any]
    explainer: Explainer
    watchlists: Watchlists
    backend_change: BackendChange | None = None
    search_turns: SearchTurns = field(default_factory=SearchTurns)
    started_at: float = field(default_factory=time.monotonic)

    @property
    def upload_limits(self) -> UploadLimits:
        """What one multipart body may hold."""
        settings = self.settings
        return UploadLimits(
            max_file_bytes=settings.max_file_bytes,
            max_files=settings.max_files,
            max_body_bytes=settings.max_body_bytes,
            max_seconds=settings.upload_seconds,
            text_fields=frozenset({RECORDS_FIELD}),
        )

    def readiness(self) -> dict[str, bool]:
        """Name each thing that must hold for requests to be served."""
        stale_seconds = 4 * self.settings.canary_seconds + self.settings.request_seconds
        return {
            "workers_alive": self.embedder.is_alive,
            "canary_embedded_lately": self.embedder.seconds_since_success() < stale_seconds,
            "index_loaded": self.collection.is_ready,
        }


def state_of(request: Request) -> ServiceState:
    """Return the state that the lifespan made."""
    return cast(ServiceState, request.state.service)


# Dependencies are coroutines although they await nothing: FastAPI runs plain functions in a thread, which costs a hop.
async def current_state(request: Request) -> ServiceState:
    """Give the state to a call that works in any condition."""
    return state_of(request)


async def ready_state(request: Request) -> ServiceState:
    """Give the state, or answer 503 while the index is loading."""
    state = state_of(request)
    if not state.collection.is_ready:
        status = state.collection.status()
        raise NotReady(
            f"The index is {status.activity or 'loading'} ({status.progress:.0%} done); watch /readyz and retry then.",
            retry_after_seconds=2,
        )
    return state


State = Annotated[ServiceState, Depends(current_state)]
ReadyState = Annotated[ServiceState, Depends(ready_state)]
