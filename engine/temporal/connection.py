"""The connection to the Temporal server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from temporalio.api.failure.v1 import Failure
from temporalio.client import Client
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from engine.errors import UnavailableError
from engine.settings import Settings

PAUSE_SECONDS = 0.2


async def connect(settings: Settings, *, lazy: bool = False) -> Client:
    """Connect to the Temporal server of the settings.

    Args:
        settings: The settings.
        lazy: Whether to connect at the first call only; else the server is waited for.

    Returns:
        The client.

    Raises:
        UnavailableError: The server does not answer in time.
    """
    api_key = settings.temporal_api_key
    deadline = time.monotonic() + settings.worker_wait_seconds
    while True:
        try:
            return await Client.connect(
                settings.temporal_target,
                namespace=settings.temporal_namespace,
                api_key=api_key.get_secret_value() if api_key else None,
                tls=settings.temporal_tls or api_key is not None,
                data_converter=replace(
                    DataConverter.default, failure_converter_class=_BriefFailures
                ),
                lazy=lazy,
            )
        except RuntimeError as error:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"The Temporal server at {settings.temporal_target} does not answer: {error}"
                ) from None
        await asyncio.sleep(PAUSE_SECONDS)


class _BriefFailures(DefaultFailureConverter):
    """Leaves the traceback out of failures that are no fault: a poll without news has many."""

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        """Write a failure down."""
        benign = ApplicationErrorCategory.BENIGN
        if isinstance(exception, ApplicationError) and exception.category == benign:
            exception = exception.with_traceback(None)
        super().to_failure(exception, payload_converter, failure)
