"""The collection's errors as HTTP problems: the index knows no HTTP, the routers no storage."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from starlette.responses import Response

from index.errors import (
    CollectionClosedError,
    CollectionError,
    FilterError,
    InvalidCursorError,
    InvalidImageError,
    InvalidQueryError,
    NotReadyError,
    StorageFullError,
)
from service.problems import InternalError, InvalidRequest, NotReady, Problem, StorageFull, problem_response

logger = structlog.get_logger(__name__)

CALLERS_FAULT = (FilterError, InvalidCursorError, InvalidImageError, InvalidQueryError)


def as_problem(error: CollectionError) -> Problem:
    """Return what the caller is told; a storage failure keeps its details for the log."""
    if isinstance(error, CALLERS_FAULT):
        return InvalidRequest(str(error))
    if isinstance(error, NotReadyError):
        return NotReady(str(error), retry_after_seconds=2)
    if isinstance(error, CollectionClosedError):
        return NotReady("The service is stopping.", retry_after_seconds=5)
    if isinstance(error, StorageFullError):
        return StorageFull("No space is left to store pictures; nothing of this request was stored.")
    return InternalError()


def install_collection_problems(app: FastAPI) -> None:
    """Render every error of the collection."""
    app.add_exception_handler(CollectionError, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    assert isinstance(error, CollectionError)
    problem = as_problem(error)
    if problem.status >= 500:
        logger.error("collection_error", error=str(error), kind=type(error).__name__)
    return problem_response(request.scope, problem)
