"""GovernanceProcess: what a plugin's governance process inherits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from engine.errors import PluginCodeError, is_storable
from engine.sdk import closing
from engine.sdk.children import Children, NewChild
from engine.sdk.parameters import Parameters, json_safe
from engine.sdk.plugin import Plugin
from engine.sdk.state import State


class ProcessStatus(StrEnum):
    """Where a governance process stands; it only ever moves forward."""

    CREATED = "created"
    PENDING = "pending"
    COMPLETED = "completed"


@dataclass
class ProcessContext:
    """A process as it was stored, given to the object that stands for it during one call.

    Attributes:
        id: The process' id.
        status: Where it stands.
        parameters: What it was started with.
        outcome: Its outcome so far.
        errors: What went wrong, if anything.
        url: Where people find it on the platform.
        title: Its title for people.
        correlation_key: What its webhooks are known by.
        closing_at: When the engine closes it.
        poll_every_seconds: Its own poll interval; None: the class'.
        created_at: When it was started.
        state: Its own data during this call.
        children: The processes that it starts.
    """

    id: str
    status: str
    parameters: Parameters
    outcome: Any
    errors: Any
    url: str | None
    title: str | None
    correlation_key: str | None
    closing_at: datetime | None
    poll_every_seconds: float | None
    created_at: datetime
    state: State
    children: Children


@dataclass(frozen=True)
class ProcessSnapshot:
    """What a call made of a process: checked, plain data, ready to be stored.

    Attributes:
        status: ``pending`` or ``completed``.
        outcome: JSON data.
        errors: JSON data.
        url: Where people find it.
        title: Its title.
        correlation_key: What its webhooks are known by.
        closing_at: When the engine closes it, UTC.
        poll_every_seconds: Its own poll interval.
        poll_again_seconds: When it wants to be polled next, this once.
        children: The processes that it starts.
    """

    status: str
    outcome: Any
    errors: Any
    url: str | None
    title: str | None
    correlation_key: str | None
    closing_at: datetime | None
    poll_every_seconds: float | None
    poll_again_seconds: float | None
    children: tuple[NewChild, ...]


class GovernanceProcess:
    """Base of every governance process; decorate with ``@Registry.governance_process``.

    A subclass defines ``start`` and, where they make sense, ``close``, ``update`` and
    ``receive_webhook``: the engine calls only those that are there, never two at once. With
    ``find_started(self, parameters)`` it can look for what a ``start`` made that was cut off: True
    says that it was found, and set on ``self`` as ``start`` would have; False proves that there is
    nothing, and ``start`` is called again. Without it the process ends as *outcome unknown*.
    A classmethod ``update_many(cls, processes)`` is called instead of ``update``, every
    ``poll_every`` of the class, with up to ``most_together`` pending processes of one plugin
    instance: for platforms that answer for many with one request. ``start_process`` in any of these
    methods starts another process; ``child_completed(self, child)`` is called, once for each, when
    one that it started has ended, with a ``Child``.

    Attributes:
        name: Slug of the process, unique within its plugin.
        plugin_name: The plugin that it belongs to.
        description: One line for the API's documentation.
        input_schema: JSON Schema of the parameters.
        outcome_schema: JSON Schema of the outcome, for the API's documentation.
        poll_every: Time between two calls of ``update``, in seconds or as a timedelta; may be set
            on the object too.
        most_together: Most processes in one call of ``update_many``.
        poll_again_in: Time until the next call of ``update``, this once; set it in any method.
        id: The process' id.
        status: A ProcessStatus or its value; set it to move the process on.
        outcome: JSON data, sent to the driver when it changes.
        errors: JSON data saying what went wrong.
        url: Where people find the process on the platform.
        title: Its title for people, seen in the Temporal UI.
        correlation_key: What ``Plugin.webhook_key`` gives for webhooks about this process.
        closing_at: When the engine calls ``close``: a datetime, a date or ISO 8601 text; a time
            without zone is UTC.
        parameters: What the process was started with.
        created_at: When it was started.
        state: The process' own data, kept with it.
        plugin_inst: The plugin instance that it belongs to; ``plugin`` is the same.
    """

    name: ClassVar[str]
    plugin_name: ClassVar[str]
    description: ClassVar[str] = ""
    input_schema: ClassVar[Mapping[str, Any] | None] = None
    outcome_schema: ClassVar[Mapping[str, Any] | None] = None
    most_together: ClassVar[int] = 100
    poll_every: float | timedelta | None = None
    poll_again_in: float | timedelta | None = None

    def __init__(self, context: ProcessContext, plugin: Plugin) -> None:
        self.id = context.id
        self.status: str = context.status
        self.outcome: Any = context.outcome
        self.errors: Any = context.errors
        self.url = context.url
        self.title = context.title
        self.correlation_key = context.correlation_key
        self.closing_at: datetime | date | str | None = context.closing_at
        self.parameters = context.parameters
        self.created_at = context.created_at
        self.state = context.state
        self._children = context.children
        self.plugin_inst: Any = plugin
        if context.poll_every_seconds is not None:
            self.poll_every = context.poll_every_seconds

    @property
    def plugin(self) -> Any:
        """The plugin instance that it belongs to."""
        return self.plugin_inst

    @property
    def http(self) -> Any:
        """The plugin instance's HTTP client."""
        return self.plugin_inst.http

    @property
    def idempotency_key(self) -> str:
        """A text that is the same on every try of this one call."""
        key: str = self.plugin_inst.idempotency_key
        return key

    @property
    def log(self) -> Any:
        """Structured logger that carries community, plugin and process."""
        return self.plugin_inst.log

    def now(self) -> datetime:
        """The present time, in UTC."""
        moment: datetime = self.plugin_inst.now()
        return moment

    def start_process(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        instance: str | None = None,
        ends_with_parent: bool = False,
    ) -> str:
        """Start another process of this community, once this call has been stored.

        It is a process as any other, that its community's driver sees. If this call fails, it is
        not started; however often this call is tried, it is started once.

        Args:
            name: ``{plugin}.{slug}`` of any plugin that the community has enabled.
            parameters: Its parameters, JSON data; defaults of its ``input_schema`` are filled in.
            instance: Which instance of that plugin runs it. Default: this process' own instance if
                it is of the same plugin, else the only one.
            ends_with_parent: Whether it ends when this process ends, with ``errors.code``
                ``parent_ended``; its class is not called then. Default: it goes on.

        Returns:
            Its id, which ``child_completed`` is given again.

        Raises:
            PluginCodeError: There is no such process, its parameters do not fit, or there are too
                many. That its plugin is not enabled is found when this call is stored, which then
                fails.
        """
        return self._children.start(name, parameters, instance, ends_with_parent=ends_with_parent)

    def save(self) -> None:
        """Check what was set so far; it is stored, whole, when the method returns.

        Raises:
            PluginCodeError: An attribute has a value that cannot be stored.
        """
        self.snapshot()

    def snapshot(self) -> ProcessSnapshot:
        """Read off what the method made of the process.

        Returns:
            Checked, plain data.

        Raises:
            PluginCodeError: An attribute has a value that cannot be stored; the message names it.
        """
        statuses = [status.value for status in ProcessStatus]
        if self.status not in statuses:
            raise PluginCodeError(
                f"status is {self.status!r:.80}; allowed are {', '.join(statuses)}"
            )
        return ProcessSnapshot(
            status=str(ProcessStatus(self.status).value),
            outcome=_json_attribute("outcome", self.outcome),
            errors=_json_attribute("errors", self.errors),
            url=_text_attribute("url", self.url, 2048),
            title=_text_attribute("title", self.title, 1000),
            correlation_key=_text_attribute("correlation_key", self.correlation_key, 255),
            closing_at=as_moment("closing_at", self.closing_at),
            poll_every_seconds=(
                as_seconds("poll_every", self.__dict__["poll_every"])
                if "poll_every" in self.__dict__
                else None
            ),
            poll_again_seconds=as_seconds("poll_again_in", self.poll_again_in),
            children=tuple(self._children.asked),
        )


def as_seconds(name: str, value: float | timedelta | None) -> float | None:
    """Read an interval.

    Args:
        name: The attribute's name, for the error.
        value: Seconds, a timedelta or None.

    Returns:
        Seconds, or None.

    Raises:
        PluginCodeError: It is no positive interval of up to 366 days.
    """
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise PluginCodeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    if not 1 <= seconds <= 366 * 86400:
        raise PluginCodeError(f"{name} must be from 1 second to 366 days, not {seconds} s")
    return float(seconds)


def as_moment(name: str, value: datetime | date | str | None) -> datetime | None:
    """Read a point in time.

    Args:
        name: The attribute's name, for the error.
        value: A datetime, a date (its first moment), ISO 8601 text, or None.

    Returns:
        The same moment in UTC (what has no zone is UTC), or None.

    Raises:
        PluginCodeError: It is no such thing.
    """
    if value is None or value == "":
        return None
    try:
        return closing.moment(value)
    except (TypeError, ValueError) as error:
        raise PluginCodeError(f"{name} {error}") from None


def _json_attribute(name: str, value: Any) -> Any:
    try:
        return json_safe({} if value is None else value)
    except PluginCodeError as error:
        raise PluginCodeError(f"{name} holds what JSON cannot: {error}") from None


def _text_attribute(name: str, value: str | None, longest: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise PluginCodeError(f"{name} must be a text, not {type(value).__name__}")
    if len(value) > longest or not is_storable(value):
        raise PluginCodeError(
            f"{name} must be a text of at most {longest} characters, "
            "without NUL and halves of surrogate pairs"
        )
    return value
