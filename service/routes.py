"""Which of our routes a path belongs to, also for a request that none of them has answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import Scope


def include_routers(app: FastAPI, routers: Sequence[APIRouter], **options: object) -> None:
    """Include routers in an app, and remember them: what FastAPI keeps of an included router is its own affair."""
    app.state.routers = (*getattr(app.state, "routers", ()), *routers)
    for router in routers:
        app.include_router(router, **options)  # type: ignore[arg-type]


def routes_of_path(scope: Scope) -> Iterator[tuple[BaseRoute, Match]]:
    """Yield the routes of a request's path, and whether its method fits too."""
    app = scope.get("app")
    if app is None:
        return
    for route in (*app.routes, *(route for router in getattr(app.state, "routers", ()) for route in router.routes)):
        match = route.matches(scope)[0]
        if match != Match.NONE and hasattr(route, "path"):
            yield route, match
