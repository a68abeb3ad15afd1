"""`/info`, `/healthz`, `/readyz`, `/metrics`: what runs here, and whether it can serve."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.schemas import CalibrationOut, HealthAnswer, InfoAnswer, ReadinessAnswer
from service.security import require
from service.state import ServiceState, State
from structxlip.calibration import QueryKind

router = APIRouter(tags=["system"])

# What a client may offer its user; a name is never taken away within one major version.
FEATURES = ("sketch", "weighted_queries", "negatives", "confidence", "search_image", "fields", "explain", "watchlists")


@router.get("/info", dependencies=[require("read")], summary="Model, collection, limits")
async def info(state: State) -> InfoAnswer:
    """Describe the model, the collection and the limits in force."""
    settings = state.settings
    return InfoAnswer(
        version=version("structxlip"),
        model=state.encoder.describe(),
        collection=dataclasses.asdict(state.collection.status()),
        limits={
            name: getattr(settings, name)
            for name in type(settings).model_fields
            if name.startswith("max_") or name.endswith("_seconds")
        },
        calibration=_calibration(state),
        features=list(FEATURES),
        is_changing_backend=state.backend_change is not None and state.backend_change.is_under_way,
        warnings=_warnings(state),
    )


@router.get("/healthz", summary="The process is up")
async def healthz() -> HealthAnswer:
    """Answer as long as the event loop runs; says nothing of the model."""
    return HealthAnswer()


@router.get(
    "/readyz",
    summary="Requests can be served",
    responses={503: {"model": ReadinessAnswer, "description": "Not now; the body says what is missing"}},
)
async def readyz(state: State, response: Response) -> ReadinessAnswer:
    """Answer 200 when the workers live, a canary was embedded lately, and the index is loaded."""
    checks = state.readiness()
    status = state.collection.status()
    if not all(checks.values()):
        response.status_code = 503
    return ReadinessAnswer(
        ready=all(checks.values()), checks=checks, activity=status.activity, progress=status.progress
    )


@router.get(
    "/metrics",
    dependencies=[require("read")],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"}},
    summary="Prometheus metrics",
)
async def metrics(state: State) -> Response:
    """Return the metrics in Prometheus' text format."""
    status = state.collection.status()
    state.metrics.collection_images.set(status.num_images)
    state.metrics.index_snapshot_age_seconds.set(_or_minus_one(status.snapshot_age_seconds))
    state.metrics.self_check_recall.set(_or_minus_one(status.self_check_recall))
    return Response(generate_latest(state.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _calibration(state: ServiceState) -> CalibrationOut:
    calibration = state.encoder.calibration
    if calibration is None:
        return CalibrationOut(is_calibrated=False, false_accept_rate=None, level=None)
    level = calibration.level_at(QueryKind.TEXT, state.encoder.default_structure_weight)
    return CalibrationOut(
        is_calibrated=True,
        false_accept_rate=calibration.false_accept_rate,
        level=level.confidence(level.level),
    )


def _or_minus_one(value: float | None) -> float:
    return -1.0 if value is None else value


def _warnings(state: ServiceState) -> list[str]:
    if state.encoder.structure_is_trained:
        return []
    return [
        "The structural view of this model is untrained: it serves with a default structure weight of 0. "
        "Fine-tune it with structural losses before giving structure weight."
    ]
