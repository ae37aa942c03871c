"""An SQLite file, ours or the embedded Temporal server's, checked before it is relied on."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

MAGIC = b"SQLite format 3\0"
# Bytes 18 and 19 of the header: the versions that may write and read it (sqlite.org/fileformat2).
NEWEST_FORMAT = 2
PRIMARY_CODE = 0xFF


def problem_of(
    path: Path, restore: str, *, thorough: bool = False, table: str | None = None
) -> str | None:
    """Check that an SQLite file can be read and written.

    Args:
        path: The file; it exists.
        restore: What the operator can do if its content is lost.
        thorough: Whether to check every page, a second or so for each GB, and at the header; only
            for a process that has no connection to the file yet.
        table: A table that must be in it.

    Returns:
        What is wrong, and what to do; None if nothing is. A file that others have locked is right.
    """
    if path.is_dir():
        return f"it is a folder and should be a file; {restore}"
    if not os.access(path, os.R_OK):
        return "it cannot be read; this user must be able to read and write it"
    if not path.stat().st_size:
        return f"it is empty; {restore}"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", 0, uri=True)) as connection:
            _try(connection, thorough)
            if table is not None and not _has_table(connection, table):
                return f"it is not whole, for it has no table {table}; {restore}"
    except sqlite3.Error as error:
        if "unsupported file format" in str(error) or (_is_unusable(error) and _is_newer(path)):
            return (
                f"it was written by a newer SQLite than {sqlite3.sqlite_version}, which is in use "
                f"here; use the newer one, or {restore}"
            )
        return words_for(error, restore)
    return None


def _is_unusable(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE
    return code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


def _is_newer(path: Path) -> bool:
    """Whether a newer SQLite wrote a file that this one cannot use, by its header."""
    # Not for others: closing one drops this process' locks on it (sqlite.org/howtocorrupt, 2.2).
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError:
        return False
    return header.startswith(MAGIC) and max(header[18:20], default=0) > NEWEST_FORMAT


def words_for(error: BaseException | None, restore: str) -> str | None:
    """What an error of SQLite means for the file, and what to do; None if nothing."""
    code = getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE
    if code == sqlite3.SQLITE_NOTADB:
        return f"it is no SQLite database; {restore}"
    if code == sqlite3.SQLITE_CORRUPT:
        return f"it is damaged; {restore}"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "it is read-only; this user must be able to write it and its folder"
    if code == sqlite3.SQLITE_CANTOPEN:
        return "it cannot be opened; this user must be able to write it and its folder"
    return None


def _try(connection: sqlite3.Connection, thorough: bool) -> None:
    connection.isolation_level = None
    connection.execute("SELECT name FROM sqlite_master LIMIT 1").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("BEGIN")
    # What is written is what is there, and is taken back; it fails where nothing can be written.
    connection.execute(f"PRAGMA user_version = {int(version)}")
    connection.execute("ROLLBACK")
    if thorough and connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        error = sqlite3.DatabaseError("quick_check")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _has_table(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (table,)).fetchone() is not None
