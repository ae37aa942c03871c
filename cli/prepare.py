"""What `metagov run` checks and brings forward before it starts anything.

It runs in a process of its own: the one that stays needs none of what this imports.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import typer

from cli.supervisor import STOP_SECONDS, StartError, clear_away
from cli.temporal_server import check_temporal_file, temporal_file
from engine.discovery import load_plugins
from engine.resources import check_settings
from engine.settings import Settings
from engine.store import restoring
from engine.store.database import open_database
from engine.store.readiness import bring_forward, open_keys


def prepare(settings: Settings, data_dir: Path) -> None:
    """Check that the engine can start, and bring its database forward; EngineError says why not."""
    check_settings(settings)
    _check_grace(settings)
    load_plugins(settings.plugin_path, settings.disabled_plugins)
    clear_away(data_dir)
    _check_ports(settings)
    if settings.temporal_address is None:
        check_temporal_file(temporal_file(data_dir))
    asyncio.run(_prepare_database(settings))


def _check_grace(settings: Settings) -> None:
    if settings.worker_grace_seconds >= STOP_SECONDS:
        raise StartError(
            f"METAGOV_WORKER_GRACE_SECONDS is {settings.worker_grace_seconds:g}, and `metagov run` "
            f"stops its worker within {STOP_SECONDS} s; less than that is allowed"
        )


def _check_ports(settings: Settings) -> None:
    wanted = [(settings.port, "METAGOV_PORT")]
    if settings.temporal_address is None:
        wanted += [
            (settings.temporal_port, "METAGOV_TEMPORAL_PORT"),
            (settings.temporal_ui_port, "METAGOV_TEMPORAL_UI_PORT"),
        ]
    for port, setting in wanted:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                raise StartError(
                    f"Port {port} of {settings.host} cannot be used ({error.strerror}): "
                    f"stop what uses it, or set {setting} to another port"
                ) from None


async def _prepare_database(settings: Settings) -> None:
    await bring_forward(settings)
    await open_keys(settings)
    database = open_database(settings)
    try:
        if await restoring.notice(database, settings.data_dir, None, at_once=True):
            typer.echo("The database is older than it was: it was restored from a backup.")
            typer.echo("Positions go on above the last ones; `metagov restored` shows more.")
    finally:
        await database.close()
