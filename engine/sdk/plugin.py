"""Plugin: what a platform's plugin inherits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import structlog

from engine.connections import Connections
from engine.errors import PluginCodeError
from engine.sdk.children import ChildLimits
from engine.sdk.http import (
    LARGEST_RESPONSE_BYTES,
    AsyncClient,
    Client,
    HttpOptions,
    async_client,
    sync_client,
)
from engine.sdk.parameters import json_safe
from engine.sdk.signatures import SignatureScheme
from engine.sdk.state import State
from engine.sdk.webhook import WebhookRequest, WebhookResponse

EVENT_TYPE_MAX_LENGTH = 255
LARGEST_EVENT_BYTES = 262_144


@dataclass(frozen=True)
class Community:
    """The community that a plugin instance belongs to.

    Attributes:
        name: Its unique slug.
        readable_name: Its name for people; may be empty.
    """

    name: str
    readable_name: str = ""

    @property
    def slug(self) -> str:
        """Its unique slug: the same as ``name``."""
        return self.name

    def __str__(self) -> str:
        """Its name for people, or else its slug."""
        return self.readable_name or self.name


@dataclass(frozen=True)
class Event:
    """News for the driver.

    Attributes:
        event_type: What happened, such as ``post_created``.
        data: Its content, plain JSON data.
        initiator: Who did it: ``{"user_id", "provider"}``, or empty.
        timestamp: When, in seconds since the epoch, as decimal text.
    """

    event_type: str
    data: Any
    initiator: dict[str, Any]
    timestamp: str


@dataclass
class InvocationContext:
    """What one call of plugin code is given, and where it leaves what it did.

    Attributes:
        community: The community.
        config: The instance's config, defaults filled in.
        state: The instance's state during this call.
        idempotency_key: The same on every try of this call.
        webhook_url: The public URL of the instance's webhooks.
        instance_name: The instance's name in its community; empty: the plugin's.
        connections: To platforms; shared with other calls.
        timeout_seconds: How long the call may take.
        response_max_bytes: How much of a platform's response is read.
        event_max_bytes: Largest event, as bytes of JSON.
        child_limits: How many processes a process may start.
        log: Logger that carries community, plugin and call.
        clock: The present time, in UTC.
        events: News that the call sent to the driver.
    """

    community: Community
    config: Mapping[str, Any]
    state: State
    idempotency_key: str
    webhook_url: str
    connections: Connections
    instance_name: str = ""
    timeout_seconds: float = 30
    response_max_bytes: int = LARGEST_RESPONSE_BYTES
    event_max_bytes: int = LARGEST_EVENT_BYTES
    child_limits: ChildLimits = field(default_factory=ChildLimits)
    log: Any = field(default_factory=structlog.get_logger)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    events: list[Event] = field(default_factory=list)
    sync_http: Client | None = None
    async_http: AsyncClient | None = None

    def close(self) -> None:
        """Close the HTTP client that the call opened; a further call opens a new one."""
        sync_http, self.sync_http = self.sync_http, None
        if sync_http is not None:
            sync_http.close()

    async def close_async(self) -> None:
        """Close the ``async`` HTTP client; to be called in the loop that it was opened in."""
        async_http, self.async_http = self.async_http, None
        if async_http is not None:
            await async_http.aclose()


class Plugin:
    """Base of every plugin; decorate the subclass with ``@Registry.plugin``.

    One instance stands for the plugin as one community has enabled it. Attributes set on ``self``
    last for one call only: what must stay goes into ``self.state``. A subclass may define
    ``on_config_change(self, old_config)``: then the instance stays, with its state, when its config
    changes; and ``on_disable(self)``, called before it goes, to clean up on the platform: if that
    fails, it goes all the same.

    Attributes:
        name: Unique slug of the plugin.
        description: One line for the API's documentation.
        config_schema: JSON Schema of the config.
        community_platform_id_key: The property of the config that holds the platform's own id of
            the community, such as that of its workspace. Where a community has several instances of
            the plugin, requests choose one by it.
        community_platform_id_unique: Whether no two communities may have the plugin enabled with
            the same one.
        auth_type: How the platform knows the community; shown to drivers, not acted upon.
        webhook_signature: How the platform signs its webhooks, if it does.
        webhook_max_bytes: Largest webhook body; None: the engine's limit.
        rate_limit: How often the platform may be called, such as ``60/min`` (s, min, h or day):
            actions, tasks, ``start``, ``close`` and polls of an instance, over all workers.
        webhook_id_header: Header with the platform's own id of a webhook, if it sends one: a
            webhook that comes twice is handled once.
    """

    name: ClassVar[str]
    description: ClassVar[str] = ""
    config_schema: ClassVar[Mapping[str, Any]] = {}
    community_platform_id_key: ClassVar[str | None] = None
    community_platform_id_unique: ClassVar[bool] = False
    auth_type: ClassVar[str | None] = None
    webhook_signature: ClassVar[SignatureScheme | None] = None
    webhook_max_bytes: ClassVar[int | None] = None
    rate_limit: ClassVar[str | None] = None
    webhook_id_header: ClassVar[str | None] = None

    def __init__(self, context: InvocationContext) -> None:
        self._context = context

    def initialize(self) -> None:
        """Set the instance up; called exactly once, when the plugin is enabled."""

    def http_options(self) -> HttpOptions:
        """What ``self.http`` starts from: base URL, headers, time-out."""
        return HttpOptions()

    def answer_webhook(self, request: WebhookRequest) -> WebhookResponse | None:
        """Answer a verified webhook at once, where the platform wants more than a plain 200.

        Runs in the API process before the webhook is stored; it has the config, no state.

        Args:
            request: The verified webhook.

        Returns:
            The answer, after which nothing more is done with the webhook; None for the usual way.
        """
        return None

    def webhook_id(self, request: WebhookRequest) -> str | None:
        """Read the platform's own id of a webhook, the same however often it is sent.

        Override it where the id stands in the body. It has the config, no state.

        Args:
            request: The verified webhook.

        Returns:
            The id; None if it has none, and is handled each time that it comes.
        """
        header = self.webhook_id_header
        return request.headers.get(header) if header else None

    @property
    def config(self) -> Mapping[str, Any]:
        """The community's config of this plugin, validated, defaults filled in."""
        return self._context.config

    @property
    def state(self) -> State:
        """Data that stays as long as the plugin is enabled with this config."""
        return self._context.state

    @property
    def community(self) -> Community:
        """The community that enabled the plugin."""
        return self._context.community

    @property
    def community_platform_id(self) -> str | None:
        """The platform's own id of the community, from the config; None if there is none."""
        return platform_id(type(self), self.config)

    @property
    def instance_name(self) -> str:
        """The instance's name in its community; the plugin's own unless the community chose one."""
        return self._context.instance_name or self.name

    @property
    def idempotency_key(self) -> str:
        """A text that is the same on every try of this one call."""
        return self._context.idempotency_key

    @property
    def webhook_url(self) -> str:
        """The public URL at which the platform can reach this instance."""
        return self._context.webhook_url

    @property
    def log(self) -> Any:
        """Structured logger that carries community, plugin and call."""
        return self._context.log

    def now(self) -> datetime:
        """The present time, in UTC."""
        return self._context.clock()

    @property
    def http(self) -> Any:
        """HTTP client for the platform: an ``httpx.Client``, in ``async def`` an ``AsyncClient``.

        It starts from ``http_options()``, keeps to the outbound policy and raises a
        ``PluginError`` for every failure, HTTP status of 400 and more included.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._context.sync_http is None:
                self._context.sync_http = sync_client(
                    self.http_options(),
                    self._context.connections,
                    self._context.response_max_bytes,
                )
            return self._context.sync_http
        if self._context.async_http is None:
            self._context.async_http = async_client(
                self.http_options(), self._context.connections, self._context.response_max_bytes
            )
        return self._context.async_http

    def send_event_to_driver(
        self,
        event_type: str,
        data: Any = None,
        initiator: Mapping[str, Any] | None = None,
        timestamp: float | str | None = None,
    ) -> None:
        """Send the driver an event; it is sent once this call has succeeded.

        Args:
            event_type: What happened, such as ``post_created``.
            data: JSON data about it; default: an empty object.
            initiator: Who did it: ``{"user_id": ..., "provider": ...}``.
            timestamp: When, in seconds since the epoch; default: now.

        Raises:
            PluginCodeError: ``event_type`` is empty or too long, something holds what JSON cannot,
                or the event is too large.
        """
        if not isinstance(event_type, str) or not 0 < len(event_type) <= EVENT_TYPE_MAX_LENGTH:
            raise PluginCodeError(
                f"event_type must be a text of 1 to {EVENT_TYPE_MAX_LENGTH} characters"
            )
        when = self.now().timestamp() if timestamp is None else timestamp
        event = Event(
            event_type=json_safe(event_type),
            data=json_safe({} if data is None else data),
            initiator=json_safe(dict(initiator or {})),
            timestamp=json_safe(str(when)),
        )
        size = len(json.dumps([event.data, event.initiator, event.timestamp]))
        most = self._context.event_max_bytes
        if size > most:
            raise PluginCodeError(
                f"the event '{event_type}' is {size} bytes of JSON; allowed are {most}"
            )
        self._context.events.append(event)


def platform_id(cls: type[Plugin], config: Mapping[str, Any]) -> str | None:
    """Read the platform's own id of a community from a plugin's config.

    Args:
        cls: The plugin's class.
        config: The config.

    Returns:
        The id; None if there is none.
    """
    value = config.get(cls.community_platform_id_key or "")
    return None if value is None else str(value)
