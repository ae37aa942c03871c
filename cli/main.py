"""metagov: the command tree."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from cryptography.fernet import Fernet

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


@app.command()
def api() -> None:
    """Run one API process, on METAGOV_HOST and METAGOV_PORT."""
    from api.server import run as serve

    serve(load_settings())


@app.command()
def worker() -> None:
    """Run one worker process."""
    from worker import main as run_worker

    run_worker()


@app.command()
def migrate() -> None:
    """Bring the database to the newest schema."""
    from engine.store.database import open_database
    from engine.store.schema import migrate as migrate_database

    async def bring_forward() -> str:
        database = open_database(load_settings())
        try:
            return await migrate_database(database)
        finally:
            await database.close()

    typer.echo(f"The database has schema {asyncio.run(bring_forward())}.")


@app.command()
def secret_key() -> None:
    """Print a fresh key for METAGOV_SECRET_KEY."""
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

    load_plugins(load_settings().plugin_path)
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
