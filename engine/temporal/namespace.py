"""The server's namespace: whether it is there, and what the engine needs it to know and to keep."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from engine.settings import SettingsError


async def ensure_search_attributes(
    client: Client, attributes: tuple[SearchAttributeKey[str], ...]
) -> None:
    """Make the engine's search attributes known to the server; all are keywords."""
    missing = await missing_search_attributes(client, attributes)
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
    """The engine's search attributes that the server lacks; nothing starts without them."""
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if error.status != RPCStatusCode.NOT_FOUND:
            raise
        raise SettingsError(
            f"METAGOV_TEMPORAL_NAMESPACE: the Temporal server has no namespace "
            f"'{client.namespace}'; make it there, or name one that it has"
        ) from None
    return [key.name for key in attributes if key.name not in known.custom_attributes]


async def keep_closed_workflows(client: Client, days: int) -> None:
    """Set for how many days the server keeps workflows that have ended."""
    retention = Duration()
    retention.FromTimedelta(timedelta(days=days))
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(
            namespace=client.namespace,
            config=NamespaceConfig(workflow_execution_retention_ttl=retention),
        )
    )
