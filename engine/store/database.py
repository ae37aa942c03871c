"""Database: SQLite or PostgreSQL; who reads opens ``read``, who writes opens ``write``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

import psutil
from sqlalchemy import (
    ColumnElement,
    DateTime,
    Dialect,
    Insert,
    Text,
    UpdateBase,
    event,
    insert,
    inspect,
    literal,
    make_url,
    select,
)
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.types import TypeDecorator
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from engine.settings import Settings, SettingsError

DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}
OUTAGE_ERRORS = (OperationalError, InterfaceError, PoolTimeoutError)
OUTAGE_PAUSE_SECONDS = 0.5
ANSWER_SECONDS = 5

Result = TypeVar("Result")


class JsonText(TypeDecorator[Any]):
    """JSON kept as text, so that both databases keep every value that JSON can hold."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Encode a value; None is SQL's NULL."""
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Decode a value."""
        return None if value is None else json.loads(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, always aware and in UTC, whatever the database makes of zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give an aware datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """The present time, in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """A new hard-to-guess id."""
    return str(uuid4())


def insert_if(
    row: SQLModel,
    condition: ColumnElement[bool],
    computed: Mapping[str, ColumnElement[Any]] | None = None,
) -> Insert:
    """Make the statement that stores a row if a condition holds at that moment."""
    table = inspect(type(row)).local_table
    values: dict[str, ColumnElement[Any]] = {
        column.key: literal(getattr(row, column.key), column.type) for column in table.c
    }
    values.update(computed or {})
    statement = insert(table).from_select(list(values), select(*values.values()).where(condition))
    return statement.execution_options(preserve_rowcount=True)


class _Turn(asyncio.Lock):
    """A lock with a time-out, so that many writers do not each wait for a locked database."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def acquire(self) -> Literal[True]:
        """Take the turn."""
        if not self.locked():
            return await super().acquire()
        try:
            async with asyncio.timeout(self._seconds):
                return await super().acquire()
        except TimeoutError:
            raise PoolTimeoutError("no turn to write came in time") from None


class Database:
    """Sessions on one database.

    Args:
        engine: The SQLAlchemy engine whose connections open transactions.
        reader: One whose connections do not: each query stands for itself, which saves a reader two
            round trips.
        marker: One for marks that need not survive a crash of the machine: it saves a wait for the
            disk.
        outage_seconds: How long what must not be lost waits for a database that is out.
        turn_seconds: How long a writer waits for its turn, where there is one writer at a time.

    Attributes:
        marks_kept_since: No mark of a row is lost that was made after this moment. Marks in SQLite
            die with their machine, so there it is the moment when the machine was started.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        reader: AsyncEngine,
        marker: AsyncEngine,
        outage_seconds: float,
        turn_seconds: float,
    ) -> None:
        self.engine = engine
        self._reader = reader
        self._marker = marker
        self._outage_seconds = outage_seconds
        keeps_all = marker is reader
        self.marks_kept_since = (
            datetime.min.replace(tzinfo=UTC)
            if keeps_all
            else datetime.fromtimestamp(psutil.boot_time(), UTC)
        )
        self._writer = engine.execution_options(metagov_write=True)
        # SQLite has one writer at a time: waiting here is fairer and faster than on its file lock.
        self._turn: AbstractAsyncContextManager[Any] = (
            _Turn(turn_seconds) if engine.dialect.name == "sqlite" else nullcontext()
        )

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session for reading; what it changes is not stored.

        Yields:
            The session.
        """
        async with AsyncSession(self._reader, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """Open a session in one transaction: committed at the end, rolled back by any exception.

        Yields:
            The session.
        """
        async with (
            self._turn,
            AsyncSession(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    async def execute(self, statement: UpdateBase) -> int:
        """Run one statement that changes something; it is a transaction by itself.

        Args:
            statement: The statement.

        Returns:
            How many rows it changed.
        """
        async with self._turn, self._reader.connect() as connection:
            return (await connection.execute(statement)).rowcount

    async def mark(self, statement: UpdateBase, **parameters: Any) -> int:
        """Run one statement that is not lost with the process, but may be with the machine.

        Args:
            statement: The statement.
            parameters: Values of its bound parameters.

        Returns:
            How many rows it changed.
        """
        async with self._turn, self._marker.connect() as connection:
            return (await connection.execute(statement, parameters)).rowcount

    async def persist(self, work: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Do work in one transaction, and again from its beginning while the database is out.

        For what must not be lost any more, such as that plugin code has run.

        Args:
            work: Makes the changes; it may be called several times.

        Returns:
            What it returned.

        Raises:
            OperationalError: The database was out for too long.
        """

        async def transaction() -> Result:
            async with self.write() as session:
                return await work(session)

        return await self._through_outage(transaction)

    async def recall(self, query: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Read from the beginning, again and again while the database is out.

        Args:
            query: Reads; it may be called several times.

        Returns:
            What it returned.

        Raises:
            OperationalError: The database was out for too long.
        """

        async def reading() -> Result:
            async with self.read() as session:
                return await query(session)

        return await self._through_outage(reading)

    async def _through_outage(self, step: Callable[[], Awaitable[Result]]) -> Result:
        deadline = asyncio.get_running_loop().time() + self._outage_seconds
        while True:
            try:
                return await step()
            except Exception as error:
                if not is_outage(error) or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(OUTAGE_PAUSE_SECONDS)

    async def answers(self) -> bool:
        """Whether it answers within a few seconds; those who work wait for a free connection."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._reader.connect() as connection:
                await connection.execute(select(1))
        except Exception:
            return False
        return True

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()
        await self._reader.dispose()
        await self._marker.dispose()


def database_url(settings: Settings) -> URL:
    """The database's URL with the driver that the engine uses.

    Args:
        settings: The settings.

    Returns:
        The URL; without METAGOV_DATABASE_URL an SQLite file in the data folder.

    Raises:
        SettingsError: The URL is none, or names another kind of database.
    """
    if settings.database_url is None:
        path = Path(settings.data_dir).resolve() / "metagov.sqlite"
        return URL.create(DRIVERS["sqlite"], database=str(path))
    try:
        url = make_url(settings.database_url.get_secret_value())
    except ArgumentError:
        raise SettingsError(
            "METAGOV_DATABASE_URL is no URL; allowed: postgresql://user:password@host/name "
            "or sqlite:///path"
        ) from None
    kind = url.get_backend_name()
    kind = "postgresql" if kind == "postgres" else kind
    if kind not in DRIVERS:
        raise SettingsError(
            f"METAGOV_DATABASE_URL names {kind!r:.40}; allowed are postgresql:// and sqlite://"
        )
    if kind == "sqlite" and url.database in (None, "", ":memory:"):
        raise SettingsError(
            "METAGOV_DATABASE_URL names no file; processes of the engine share one: sqlite:///path"
        )
    return url.set(drivername=DRIVERS[kind])


def open_database(settings: Settings) -> Database:
    """Open the database that the settings name.

    Args:
        settings: The settings.

    Returns:
        The database; connections are made when they are needed.

    Raises:
        SettingsError: The URL is not valid.
    """
    url = database_url(settings)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite:
        _make_folder(Path(str(url.database)).absolute().parent)
        connect: dict[str, Any] = {"timeout": settings.database_timeout_seconds}
    else:
        connect = {"connect_timeout": max(2, int(settings.database_timeout_seconds))}

    def pool(synchronous: str = "FULL", **options: Any) -> AsyncEngine:
        engine = create_async_engine(
            url,
            pool_size=settings.database_pool_size,
            pool_timeout=settings.database_timeout_seconds,
            pool_pre_ping=not sqlite,
            hide_parameters=True,
            connect_args=connect,
            **options,
        )
        if sqlite:
            prepare = partial(_prepare_sqlite, synchronous=synchronous)
            event.listen(engine.sync_engine, "connect", prepare)
            event.listen(engine.sync_engine, "begin", _begin_sqlite)
        return engine

    single: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True}
    reader = pool(**single)
    # PostgreSQL may crash without its machine, and loses what it need not have kept.
    marker = pool(synchronous="NORMAL", **single) if sqlite else reader
    return Database(
        pool(),
        reader,
        marker,
        settings.database_outage_seconds,
        settings.database_timeout_seconds,
    )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be made ({error.strerror}); METAGOV_DATABASE_URL, or METAGOV_DATA_DIR, "
            "must name a folder that this user may write to"
        ) from None


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the database is locked, down, out of reach or unusable.

    Args:
        error: What was raised.

    Returns:
        True if trying again later may help.
    """
    # A PostgreSQL that became read-only, and a damaged SQLite file, can be used no more than one
    # that is down.
    if isinstance(error, InternalError) or type(error) is DatabaseError:
        return True
    return isinstance(error, OUTAGE_ERRORS) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _prepare_sqlite(connection: Any, _record: Any, *, synchronous: str) -> None:
    # The driver's own transactions are switched off: _begin_sqlite begins them.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: one that reads first and then writes cannot wait for it.
    if connection.get_execution_options().get("metagov_write", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
