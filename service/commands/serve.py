"""`structxlip serve`: start the service."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from service.commands.errors import CommandError
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

# Longer than clients and proxies keep idle connections (httpx 5 s, nginx 60 s): whichever side closes first while
# the other sends makes a request fail that nobody refused, and a client knows when it is about to send.
KEEP_ALIVE_SECONDS = 75


def serve(
    model: Annotated[str | None, typer.Option(help="Checkpoint or open_clip model. [env: STRUCTXLIP_MODEL]")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the collection. [env: STRUCTXLIP_DATA]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [env: STRUCTXLIP_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. [env: STRUCTXLIP_PORT]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda. [env: STRUCTXLIP_DEVICE]")] = None,
    backend: Annotated[
        str | None, typer.Option(help="What runs the model: auto, torch, openvino. [env: STRUCTXLIP_BACKEND]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of matrix products: f32, bf16. [env: STRUCTXLIP_PRECISION]")
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="File of keys from `structxlip keys create`. [env: STRUCTXLIP_API_KEYS]"),
    ] = None,
    allow_unauthenticated: Annotated[
        bool | None, typer.Option("--allow-unauthenticated", help="Serve a public address without keys.")
    ] = None,
) -> None:
    """Start the service; every setting can also come from the environment as STRUCTXLIP_…."""
    given = {
        "model": model,
        "data": data,
        "host": host,
        "port": port,
        "device": device,
        "backend": backend,
        "precision": precision,
        "api_keys": api_keys,
        "allow_unauthenticated": allow_unauthenticated,
    }
    run(load_settings(**{name: value for name, value in given.items() if value is not None}))


def load_settings(**given: Any) -> Settings:
    """Read the settings; what is given wins over the environment.

    Raises:
        CommandError: If a value is not valid, naming the setting and its environment variable.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [f"{_setting_name(item['loc'])}: {item['msg']}; received {item['input']!r}" for item in error.errors()]
        raise CommandError("settings are not valid\n  " + "\n  ".join(lines)) from error


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM, then drain; whatever keeps it from starting is raised before a port is opened."""
    from contextlib import closing

    from structxlip.quick_start import import_without_compiler

    import_without_compiler()
    from service.app import create_app, open_collection
    from service.garbage import set_apart_what_stays
    from service.logs import configure_logging
    from service.model import load_model_for_quick_start
    from service.security import KeyStore, check_bind_address

    configure_logging(settings.log_format, settings.log_level)
    keys = KeyStore.load(settings.api_keys) if settings.api_keys is not None else None
    check_bind_address(settings.host, has_keys=bool(keys), allow_unauthenticated=settings.allow_unauthenticated)
    encoder, backend_change = load_model_for_quick_start(settings, then=set_apart_what_stays)
    with closing(open_collection(settings, encoder, wait=False)) as collection:
        app = create_app(settings, encoder=encoder, collection=collection, keys=keys, backend_change=backend_change)
        _serve(app, settings)


def _serve(app: FastAPI, settings: Settings) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.request_seconds) + 5,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        lifespan="on",
    )
    # uvicorn drains on a signal and then raises it again for whoever handled it before: nobody, so that the end is 0.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, _already_drained)
    uvicorn.Server(config).run()


def _already_drained(signal_number: int, frame: object) -> None:
    """Leave the signal at that."""


def _setting_name(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    return f"{name} (STRUCTXLIP_{name.upper()})"
