"""A workflow that asks for what no replay can give again."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from temporalio import workflow

QUESTIONS: dict[str, Callable[[], object]] = {
    "the clock": lambda: datetime.now(UTC),
    "dice": random.random,
    "a new id": uuid4,
    "nothing": lambda: "nothing",
}


@workflow.defn
class Asking:
    """Asks once, and gives the answer."""

    @workflow.run
    async def run(self, question: str) -> str:
        return str(QUESTIONS[question]())
