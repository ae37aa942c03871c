"""What the API and the worker both hold open: database, keys, Temporal, outbound policy."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from temporalio.client import Client

from engine.connections import Connections
from engine.errors import OutboundRefusedError
from engine.messages import Capabilities
from engine.outbound import OutboundPolicy
from engine.schedules import Schedules
from engine.sdk.registry import ProcessDeclaration
from engine.settings import Settings, SettingsError
from engine.store.database import Database, database_url, open_database, utc_now
from engine.store.endpoints import Endpoint
from engine.store.readiness import Readiness, open_keys
from engine.store.secrets import SecretBox, kept_secret, open_secret_box
from engine.temporal import Temporal, connect

SIGNING_FILE = "driver-webhook-secret"


@dataclass(frozen=True)
class Engine:
    """What is open as long as a process of the engine runs.

    Attributes:
        settings: The settings.
        database: The database.
        readiness: Says whether the database can be worked with.
        secrets: Opens plugin configs.
        temporal: What is asked of Temporal.
        schedules: What is asked of its schedules.
        outbound: Which addresses may be called.
        connections: To platforms.
    """

    settings: Settings
    database: Database
    readiness: Readiness
    secrets: SecretBox
    temporal: Temporal
    schedules: Schedules
    outbound: OutboundPolicy
    connections: Connections


def check_settings(settings: Settings) -> None:
    """Check the settings that are more than a number or a text.

    Args:
        settings: The settings.

    Raises:
        EngineError: One does not work; the message names it and what is allowed.
    """
    database_url(settings)
    open_secret_box(settings)
    outbound = _outbound(settings)
    if settings.driver_event_receiver_url:
        try:
            outbound.check_url(settings.driver_event_receiver_url)
        except OutboundRefusedError as error:
            raise SettingsError(f"METAGOV_DRIVER_EVENT_RECEIVER_URL: {error.detail}") from None
    for secret in driver_webhook_secrets(settings):
        problem = webhook_secret_problem(secret)
        if problem:
            raise SettingsError(f"{_place_of_webhook_secrets(settings)} {problem}")


def _outbound(settings: Settings) -> OutboundPolicy:
    return OutboundPolicy(
        allow_loopback=settings.allow_loopback,
        allowed_networks=settings.outbound_allowed_networks,
    )


@asynccontextmanager
async def open_engine(
    settings: Settings, *, lazy: bool, client: Client | None = None
) -> AsyncIterator[Engine]:
    """Open all that the engine needs, and close it in reverse.

    Args:
        settings: The settings.
        lazy: Whether Temporal may be away for now.
        client: A connected Temporal client to use, such as a test environment's.

    Yields:
        The engine.

    Raises:
        SettingsError: A setting does not work.
        DatabaseUnfitError: The database cannot be used.
        UnavailableError: Temporal does not answer, and ``lazy`` is False.
    """
    async with AsyncExitStack() as stack:
        secrets = await open_keys(settings)
        database = open_database(settings)
        stack.push_async_callback(database.close)
        connected = client or await connect(settings, lazy=lazy)
        outbound = _outbound(settings)
        connections = Connections(outbound)
        stack.callback(connections.close)
        schedules = Schedules(connected, settings)
        stack.push_async_callback(schedules.close)
        yield Engine(
            settings=settings,
            database=database,
            readiness=Readiness(settings, secrets),
            secrets=secrets,
            temporal=Temporal(connected, settings),
            schedules=schedules,
            outbound=outbound,
            connections=connections,
        )


def driver_webhook_secrets(settings: Settings) -> list[str]:
    """The Standard Webhooks secrets for endpoints without one of their own."""
    if settings.driver_webhook_secret is not None:
        given = settings.driver_webhook_secret.get_secret_value()
        return [secret.strip() for secret in given.split(",")]
    return [kept_secret(settings.data_dir / SIGNING_FILE, new_webhook_secret())]


def _place_of_webhook_secrets(settings: Settings) -> str:
    if settings.driver_webhook_secret is not None:
        return "METAGOV_DRIVER_WEBHOOK_SECRET"
    return f"The secret in {settings.data_dir / SIGNING_FILE}"


def new_webhook_secret() -> str:
    """A fresh Standard Webhooks secret."""
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def webhook_secret_problem(secret: str) -> str | None:
    """Check a Standard Webhooks secret.

    Args:
        secret: The secret.

    Returns:
        What is wrong with it, without it; None if nothing is.
    """
    try:
        length = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
    except ValueError:
        length = 0
    # The bounds of the Standard Webhooks specification, "Signature scheme".
    return None if 24 <= length <= 64 else "must be whsec_ and 24 to 64 bytes in base64"


def endpoint_secrets(engine: Engine, endpoint: Endpoint) -> list[str]:
    """The secrets of an endpoint that are valid now, the newest first.

    Args:
        engine: What is open.
        endpoint: The endpoint.

    Returns:
        Its secrets; empty if it has none of its own.
    """
    if endpoint.secrets_encrypted is None:
        return []
    now = utc_now().isoformat()
    kept = engine.secrets.decrypt(endpoint.secrets_encrypted)
    return [item["secret"] for item in kept if item["until"] is None or item["until"] > now]


def delivery_secrets(engine: Engine, covering: Sequence[Endpoint]) -> list[str]:
    """The secrets that sign a delivery.

    Args:
        engine: What is open.
        covering: The endpoints that cover its address, the nearest first.

    Returns:
        Those of the nearest endpoint that has some, else those of the settings.
    """
    for endpoint in covering:
        secrets = endpoint_secrets(engine, endpoint)
        if secrets:
            return secrets
    return driver_webhook_secrets(engine.settings)


def webhook_path(community: str, instance: str, slug: Any) -> str:
    """The path at which a plugin instance receives webhooks.

    Args:
        community: The community's name.
        instance: The instance's name.
        slug: The config's ``webhook_slug``, or None.

    Returns:
        The path.
    """
    return f"/api/hooks/{community}/{instance}" + (f"/{slug}" if slug else "")


def capabilities_of(process: ProcessDeclaration) -> Capabilities:
    """What a process' class defines, as its workflow needs it.

    Args:
        process: The declaration.

    Returns:
        The plain facts.
    """
    return Capabilities(process.can_close, process.can_update, process.receives_webhooks)
