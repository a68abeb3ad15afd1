"""`structxlip`: one command line for every package; commands are found by entry point.

Each entry of the group `structxlip.commands` names a function (one command) or a `typer.Typer` (a group of them). The
service knows none of the others' commands by import.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

GROUP = "structxlip.commands"


def build_app() -> typer.Typer:
    """Return the application with every installed command."""
    app = typer.Typer(
        name="structxlip",
        help="Search pictures by appearance and by structure.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except (ImportError, AttributeError) as error:  # somebody's broken command must not take `serve` with it
            print(f"warning: the command {entry.name!r} ({entry.value}) cannot be loaded: {error}", file=sys.stderr)
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def main() -> None:
    """Run the command line; a user's mistake ends in one sentence, not in a traceback."""
    from service.commands.errors import user_errors

    try:
        build_app()()
    except user_errors() as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
