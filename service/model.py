"""The model that the settings name, loaded to serve."""

from __future__ import annotations

from service.settings import Settings
from structxlip.backends.selection import Execution
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder


def load_model(settings: Settings) -> TwoViewEncoder:
    """Load the model and let the fastest backend that passes the check run it.

    Raises:
        ModelError: If it cannot be loaded, or the backend asked for is not there.
    """
    execution = Execution(backend=settings.backend, precision=settings.precision, threads=settings.threads)
    return load_encoder(settings.model, device=settings.device, execution=execution)
