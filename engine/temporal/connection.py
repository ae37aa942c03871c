"""The connection to the Temporal server, and what the engine needs the server to know."""

from __future__ import annotations

from dataclasses import replace

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.failure.v1 import Failure
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.converter import DataConverter, DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from engine.settings import Settings, SettingsError


async def connect(settings: Settings, *, lazy: bool = False) -> Client:
    """Connect to the Temporal server of the settings.

    Args:
        settings: The settings.
        lazy: Whether to connect at the first call only.

    Returns:
        The client.

    Raises:
        RuntimeError: The server does not answer.
    """
    api_key = settings.temporal_api_key
    return await Client.connect(
        settings.temporal_target,
        namespace=settings.temporal_namespace,
        api_key=api_key.get_secret_value() if api_key else None,
        tls=settings.temporal_tls or api_key is not None,
        data_converter=replace(DataConverter.default, failure_converter_class=_BriefFailures),
        lazy=lazy,
    )


async def ensure_search_attributes(
    client: Client, attributes: tuple[SearchAttributeKey[str], ...]
) -> None:
    """Make the engine's search attributes known to the server.

    Args:
        client: A connected client.
        attributes: The attributes, all of them keywords.

    Raises:
        SettingsError: The server has no such namespace.
    """
    try:
        missing = await missing_search_attributes(client, attributes)
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        raise SettingsError(
            f"METAGOV_TEMPORAL_NAMESPACE: the Temporal server has no namespace "
            f"'{client.namespace}'; make it there, or name one that it has"
        ) from None
    if missing:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes={
                    name: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD for name in missing
                },
            )
        )


async def missing_search_attributes(
    client: Client, attributes: tuple[SearchAttributeKey[str], ...]
) -> list[str]:
    """The engine's search attributes that the server does not know yet: nothing starts without.

    Args:
        client: A connected client.
        attributes: The attributes.
    """
    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return [key.name for key in attributes if key.name not in known.custom_attributes]


class _BriefFailures(DefaultFailureConverter):
    """Leaves the traceback out of failures that are no fault, such as a poll without news.

    It would be formatted, sent and stored on every poll, and says nothing.
    """

    def to_failure(
        self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure
    ) -> None:
        """Write a failure down."""
        benign = ApplicationErrorCategory.BENIGN
        if isinstance(exception, ApplicationError) and exception.category == benign:
            exception = exception.with_traceback(None)
        super().to_failure(exception, payload_converter, failure)
