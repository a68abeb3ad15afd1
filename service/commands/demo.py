"""`structxlip demo`: the whole way in one command: serve, add pictures over HTTP, search them, keep serving."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from service.commands.add import add_with_progress, print_summary
from service.commands.errors import CommandError
from service.commands.search import print_hits
from service.commands.sources import find_sources
from service.commands.targets import HttpTarget, Query

SAMPLES = Path(__file__).parent.parent / "samples"
START_SECONDS = 300.0
QUERIES = (
    "a yellow snowman inside an orange square frame, above two purple umbrellas in a row",
    "five black and turquoise spotted balloons and a turquoise rocket over dark green water with waves",
    "a white bottle with teal stripes inside a red picture frame, on a green wall above a grey floor",
)


def demo(
    model: Annotated[str, typer.Option(help="Checkpoint or open_clip model.")] = "scenes-tiny",
    data: Annotated[Path, typer.Option(help="Where the demo keeps its collection.")] = Path(".demo"),
    pictures: Annotated[Path, typer.Option(help="Pictures to add: a folder or a manifest.")] = SAMPLES,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    once: Annotated[bool, typer.Option("--once", help="Stop after the searches.")] = False,
) -> None:
    """Start the service, add sample pictures over HTTP, search them, and keep serving."""
    console = Console()
    source = pictures / "manifest.jsonl" if (pictures / "manifest.jsonl").exists() else pictures
    port = _free_port(port)
    url = f"http://127.0.0.1:{port}"
    console.print(f"[bold]1.[/bold] starting the service with the model [cyan]{model}[/cyan]")
    with running_service(model, data, port) as process:
        _wait_until_ready(url, process)
        with HttpTarget(url, api_key=None) as target:
            console.print(f"[bold]2.[/bold] adding the pictures of {source} with POST {url}/index")
            results = add_with_progress(target, find_sources([source]), 2, 16, console)
            if print_summary(results, console):
                raise CommandError("the sample pictures were not all added; the reasons stand above")
            for query in QUERIES:
                console.print(f'[bold]3.[/bold] searching with POST {url}/search: [green]"{query}"[/green]')
                print_hits(target.search(Query(text=query, limit=5)).hits, console)
        _print_next_steps(console, url)
        if once:
            console.print("stopping; without `--once` (`make demo` without ONCE=1) it goes on serving on that address")
        else:
            console.print("serving until Ctrl-C …")
            process.wait()


@contextmanager
def running_service(model: str, data: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `structxlip serve` in a process of its own; drained and stopped on leaving."""
    command = [
        sys.executable,
        "-m",
        "service",
        "serve",
        "--model",
        model,
        "--data",
        str(data),
        "--port",
        str(port),
    ]
    environment = {**os.environ, "STRUCTXLIP_LOG_LEVEL": os.environ.get("STRUCTXLIP_LOG_LEVEL", "warning")}
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    except KeyboardInterrupt:
        pass  # the service received the same signal and drains
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CommandError("the service did not start; its message stands above")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise CommandError(f"the service was not ready after {START_SECONDS:.0f} s")


def _free_port(port: int) -> int:
    """Return ``port`` if nobody listens there, else a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _print_next_steps(console: Console, url: str) -> None:
    command = _own_command()
    console.print("[bold]Where to look next[/bold]")
    console.print(f"  {url}/         the page: search by words, pictures and sketches")
    console.print(f"  {url}/docs     every call, to try in the browser")
    console.print(f"  {url}/info     the model, its fingerprint, the limits")
    console.print(f"  {url}/metrics  what Prometheus reads")
    console.print(f'  {command} search "words" --url {url} --open')
    console.print("      a contact sheet of the hits")
    console.print(f"  {command} add FOLDER --url {url}")
    console.print("      your own pictures; for photographs start with --model ViT-B-32:openai")


def _own_command() -> str:
    """Return what to type for this very `structxlip`: its name where the shell finds it, else its path."""
    own = Path(sys.executable).parent / "structxlip"
    found = shutil.which("structxlip")
    if found is not None and Path(found).resolve() == own.resolve():
        return "structxlip"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)
