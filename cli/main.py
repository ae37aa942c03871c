"""metagov: the command tree; what a command needs is imported when it is called."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import EngineError
from engine.settings import load_settings

app = typer.Typer(
    name="metagov",
    help="Metagov Engine: the engine that online communities govern themselves through.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run() -> None:
    """Run the whole engine: a Temporal server, the API and a worker. Ctrl-C stops it."""
    from cli.run import run_embedded

    raise typer.Exit(run_embedded(load_settings()))


@app.command(hidden=True)
def prepare(data_dir: Path) -> None:
    """Look whether the engine can start, and bring its database forward, as `run` does first."""
    from cli.prepare import prepare

    prepare(load_settings(), data_dir)


Beats = Annotated[
    int | None, typer.Option(hidden=True, help="The file descriptor that gets beats.")
]


@app.command()
def api(beats: Beats = None) -> None:
    """Run one API process, on METAGOV_HOST and METAGOV_PORT."""
    from api.server import run as serve

    serve(load_settings(), beats)


@app.command()
def worker(beats: Beats = None) -> None:
    """Run one worker process."""
    from worker import main as run_worker

    run_worker(beats)


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from engine.store.readiness import bring_forward

    revision = asyncio.run(bring_forward(load_settings()))
    typer.echo(f"The database has schema {revision}.")


@app.command()
def restored(
    again: Annotated[
        bool,
        typer.Option("--again", help="It was restored once more, though nothing shows it."),
    ] = False,
    ran: Annotated[
        bool,
        typer.Option("--ran", help="The engine has run on it since: drivers read more anew."),
    ] = False,
) -> None:
    """Say that the database was restored from a backup, and show what that means.

    Run it before the engine is started again. Positions go on above all that drivers have seen,
    and their cursors read on from where the backup ends. Processes are put right from what Temporal
    knows when the engine starts. A second call changes nothing, and shows what was found.
    """
    from cli.restored import report

    for line in asyncio.run(report(load_settings(), again=again, ran=ran)):
        typer.echo(line)


@app.command()
def secret_key() -> None:
    """Print a fresh key for METAGOV_SECRET_KEY."""
    from cryptography.fernet import Fernet

    typer.echo(Fernet.generate_key().decode())


@app.command()
def plugin_pages(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Pages, each named as its plugin.")
    ] = Path("docs/plugins"),
) -> None:
    """Write the tables of plugins' pages anew, from what the plugins declare."""
    from cli.plugin_pages import refresh
    from engine.discovery import load_plugins
    from engine.sdk.registry import Registry

    settings = load_settings()
    load_plugins(settings.plugin_path, settings.disabled_plugins)
    for page in sorted(folder.glob("*.md")):
        plugin = Registry.plugins.get(page.stem)
        if plugin is None:
            raise typer.BadParameter(f"{page} is named as no plugin")
        try:
            changed = refresh(page, plugin)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        typer.echo(f"{page}: {'written anew' if changed else 'up to date'}")


def main() -> None:
    """Run the command line; an error that we know is one line, not a stack trace."""
    try:
        app()
    except EngineError as error:
        typer.secho(f"metagov: {error.detail}", err=True, fg=typer.colors.RED)
        sys.exit(2)
