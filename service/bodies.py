"""JSON bodies as a dependency: read after the caller is known, bounded while they arrive, parsed strictly.

FastAPI's own body parameter reads the whole body first, of any size, and only then looks at the API key.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import InvalidRequest
from service.state import ServiceState, state_of
from service.uploads import BytesLease, read_json_body

ModelT = TypeVar("ModelT", bound=BaseModel)
LEASE = "body_lease"


def json_body(model: type[ModelT]) -> Any:
    """Return a dependency that gives the request's JSON body as ``model``; name the key's dependency before it."""

    async def read(request: Request) -> ModelT:
        state = state_of(request)
        # Held until the answer is sent: pictures come in JSON too. `LeaseMiddleware` ends it; a generator here would
        # cost every search a tenth of a millisecond.
        lease = request.scope["state"][LEASE] = BytesLease(state.upload_budget)
        return validated(model, await read_bounded_json(request, state, lease), source="body")

    return Depends(read)


class LeaseMiddleware:
    """Gives back what a JSON body held of the budget, once its request is over, however it ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request, then end its lease."""
        try:
            await self._app(scope, receive, send)
        finally:
            lease: BytesLease | None = scope.get("state", {}).pop(LEASE, None)
            if lease is not None:
                lease.end()


async def read_bounded_json(request: Request, state: ServiceState, lease: BytesLease) -> Any:
    """Read a JSON body within the service's limits."""
    return await read_json_body(
        request, state.settings.max_json_bytes, max_seconds=state.settings.upload_seconds, lease=lease
    )


def validated(model: type[ModelT], value: object, *, source: str) -> ModelT:
    """Return ``value`` as ``model``.

    Raises:
        InvalidRequest: With every value that is not valid.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest.from_validation(error.errors(), source=source) from error


def body_documentation(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI `requestBody` of a JSON body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined_schema(model)}}}}


def inlined_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema with every nested model in its place: OpenAPI keeps no `$defs` beside a body.

    Only for models that do not hold themselves.
    """
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    inlined: dict[str, Any] = _inlined(schema, definitions)
    return inlined


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = definitions[part["$ref"].rpartition("/")[2]] | {key: part[key] for key in part if key != "$ref"}
    return {key: _inlined(value, definitions) for key, value in part.items()}
