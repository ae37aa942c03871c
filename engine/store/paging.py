"""Pages of rows, the newest first, with an opaque cursor between them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from engine.errors import BadRequestError, Violation, is_storable

Row = TypeVar("Row", bound=SQLModel)


async def newest_first(
    session: AsyncSession,
    query: SelectOfScalar[Row],
    moment: Any,
    row_id: Any,
    *,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[Row], str | None]:
    """Read one page of a query's rows, and the next page's cursor, None at the end."""
    at, by_id = col(moment), col(row_id)
    if cursor is not None:
        last_moment, last_id = _read(cursor)
        query = query.where(or_(at < last_moment, and_(at == last_moment, by_id < last_id)))
    rows = (await session.exec(query.order_by(at.desc(), by_id.desc()).limit(limit + 1))).all()
    page = rows[:limit]
    if len(rows) <= limit:
        return page, None
    return page, _write(getattr(page[-1], moment.key), getattr(page[-1], row_id.key))


def later_than(moment: Any, row_id: Any, at: datetime, last_id: str) -> ColumnElement[bool]:
    """The condition for what comes after a row, when the oldest are read first."""
    return or_(moment > at, and_(moment == at, row_id > last_id))


def bad_cursor(name: str = "cursor") -> BadRequestError:
    """The error for a text that is no cursor.

    Args:
        name: The query parameter's name.

    Returns:
        The error, to be raised.
    """
    message = "no cursor that this endpoint gave"
    return BadRequestError(f"{name}: {message}", [Violation(f"/{name}", message)])


def _write(moment: datetime, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{moment.isoformat()}|{row_id}".encode()).decode()


def _read(cursor: str) -> tuple[datetime, str]:
    try:
        text, row_id = base64.urlsafe_b64decode(cursor.encode()).decode().split("|")
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None or not is_storable(row_id):
            raise ValueError
        return moment.astimezone(UTC), row_id
    except (ValueError, OverflowError, binascii.Error):
        raise bad_cursor() from None
