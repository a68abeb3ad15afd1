"""`structxlip keys`: make, list and revoke API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

KeyFile = Annotated[Path, typer.Option("--file", envvar="STRUCTXLIP_API_KEYS", help="File of hashed keys.")]


@keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Who will use it.")],
    file: KeyFile,
    scopes: Annotated[str, typer.Option(help="Comma-separated: read, write, admin.")] = "read,write",
) -> None:
    """Make a key, store its hash, and print it once."""
    from service.security import create_key

    key = create_key(file, name, [scope.strip() for scope in scopes.split(",") if scope.strip()])
    Console(stderr=True).print(f"Key {name!r} was added to {file}. It is shown only now:")
    print(key)


@keys.command("list")
def list_keys(file: KeyFile) -> None:
    """List names and scopes; the keys themselves are not stored."""
    from service.security import KeyStore

    table = Table("name", "scopes")
    for entry in KeyStore.load(file).keys:
        table.add_row(entry.name, ", ".join(sorted(entry.scopes)))
    Console().print(table)


@keys.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="Name given at creation.")], file: KeyFile) -> None:
    """Remove a key; a running service notices within a second."""
    from service.security import revoke_key

    revoke_key(file, name)
    print(f"revoked {name}")
