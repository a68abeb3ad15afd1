"""The model that the settings name, loaded to serve."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from service.settings import Settings
from structxlip.backends.selection import Execution, check_execution
from structxlip.encoder import TwoViewEncoder
from structxlip.models import load_encoder, resolve_device, run_as

logger = structlog.get_logger(__name__)


def load_model(settings: Settings) -> TwoViewEncoder:
    """Load the model and let the fastest backend that passes the check run it.

    Raises:
        ModelError: If it cannot be loaded, or the backend asked for is not there.
    """
    return load_encoder(settings.model, device=settings.device, execution=_execution(settings))


def load_model_for_quick_start(
    settings: Settings, then: Callable[[], None] = lambda: None
) -> tuple[TwoViewEncoder, BackendChange]:
    """Load the model, run by torch, and say what changes it to the backend that `load_model` waits for.

    Args:
        settings: Of the service.
        then: Called after the change, in its thread, whether or not it came to one.

    Raises:
        ModelError: If it cannot be loaded, or the backend asked for is not there.
    """
    backend = check_execution(_execution(settings), device=resolve_device(settings.device))
    encoder = load_encoder(settings.model, device=settings.device, in_place=backend == "openvino")
    return encoder, BackendChange(encoder, settings, then)


class BackendChange:
    """Makes and checks a faster backend in a thread of its own, while torch serves already.

    Converting a model takes seconds, for a large one many: a restart must not wait for it. Both backends give the same
    vectors within the bounds of the check (`structxlip.backends.agreement`), so the change is seen by nobody.

    Args:
        encoder: Run by torch until then.
        settings: Say which backend it shall be.
        then: Called when it is done or has failed.
    """

    def __init__(self, encoder: TwoViewEncoder, settings: Settings, then: Callable[[], None] = lambda: None) -> None:
        self._encoder = encoder
        self._settings = settings
        self._then = then
        self._thread = threading.Thread(target=self._run, name="backend-change")

    @property
    def is_under_way(self) -> bool:
        """Whether another backend may still take over."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin; the process does not end before it is done."""
        self._thread.start()

    def wait(self) -> None:
        """Return when it is done."""
        self._thread.join()

    def _run(self) -> None:
        try:
            run_as(self._encoder, self._settings.model, _execution(self._settings))
        except Exception:
            # Whatever it is: torch serves what it did, and goes on.
            logger.exception("backend_change_failed")
        self._then()


def _execution(settings: Settings) -> Execution:
    return Execution(backend=settings.backend, precision=settings.precision, threads=settings.threads)
