"""What crosses Temporal: inputs, results, names and signatures of activities.

Ids travel, content does not: parameters, secrets and webhook bodies stay in the database. The one
exception is the process record, which drivers may await or query by a Temporal client.

The activities here are signatures only, so that workflows can name them without importing what
they do; ``engine/activities`` implements each under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from temporalio import activity
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

COMMUNITY_ATTRIBUTE = SearchAttributeKey.for_keyword("MetagovCommunity")
PLUGIN_ATTRIBUTE = SearchAttributeKey.for_keyword("MetagovPlugin")
INSTANCE_ATTRIBUTE = SearchAttributeKey.for_keyword("MetagovInstance")
PROCESS_ATTRIBUTE = SearchAttributeKey.for_keyword("MetagovProcess")
STATUS_ATTRIBUTE = SearchAttributeKey.for_keyword("MetagovStatus")
SEARCH_ATTRIBUTES = (
    COMMUNITY_ATTRIBUTE,
    PLUGIN_ATTRIBUTE,
    INSTANCE_ATTRIBUTE,
    PROCESS_ATTRIBUTE,
    STATUS_ATTRIBUTE,
)

CREATED = "created"
PENDING = "pending"
COMPLETED = "completed"

# Before the id of a child that has ended, among the webhooks that wait.
CHILD = "child:"

# For workflows whose recorded input does not say how long storing may take.
STORING_SECONDS = 90.0


@dataclass(frozen=True)
class ProcessRecord:
    """A governance process as drivers see it; times are ISO 8601 in UTC."""

    id: str
    name: str
    community: str
    status: str
    errors: Any
    outcome: Any
    url: str | None
    created_at: str
    updated_at: str
    completed_at: str | None = None
    closing_at: str | None = None
    webhooks_left_out: int = 0
    # None in what was written before a community could have several instances of one plugin.
    instance: str | None = None
    community_platform_id: str | None = None

    @property
    def completed(self) -> bool:
        """Whether the process has ended."""
        return self.status == COMPLETED

    @property
    def closing_moment(self) -> datetime | None:
        """``closing_at`` as a datetime."""
        return datetime.fromisoformat(self.closing_at) if self.closing_at else None


@dataclass(frozen=True)
class Capabilities:
    """What a process' class defines, so that only that is scheduled."""

    can_close: bool
    can_update: bool
    receives_webhooks: bool


@dataclass
class ProcessProgress:
    """What a running process workflow must remember; it travels through continue-as-new.

    Attributes:
        record: The record after the latest invocation; None before ``start`` has run.
        failure: Id of the invocation that failed to start the process, if it did.
        webhooks: What waits for its turn, in order: ids of received webhooks, and
            ``child:{id}`` for each child that has ended.
        invocations: How many invocations were begun; gives each its id.
        missed_closings: How often the closing time came and the process stayed open.
        polled_seconds: For how long polls have gone on that were stopped for something else.
    """

    record: ProcessRecord | None = None
    failure: str | None = None
    webhooks: list[str] = field(default_factory=list)
    invocations: int = 0
    missed_closings: int = 0
    polled_seconds: float = 0.0


@dataclass
class RunGovernanceProcess:
    """Input of the workflow of one governance process.

    Attributes:
        process_id: The process.
        community: The community's name.
        name: ``{plugin}.{slug}``.
        capabilities: What its class defines.
        invocation_timeout_seconds: How long one call may take.
        close_wait_seconds: How long a close waits for webhooks that were accepted before it.
        progress: How far a workflow before this one came.
        storing_seconds: How long the database may be waited for.
        shown_status: The status that operators searched it by when it was started.
        parent: Id of the workflow that is signalled when this one ends, if a process started it.
    """

    process_id: str
    community: str
    name: str
    capabilities: Capabilities
    invocation_timeout_seconds: float
    close_wait_seconds: float = 60
    progress: ProcessProgress = field(default_factory=ProcessProgress)
    storing_seconds: float = STORING_SECONDS
    shown_status: str = CREATED
    parent: str | None = None


@dataclass(frozen=True)
class InvokeProcess:
    """One call of a process' ``start``, ``close``, ``receive_webhook`` or ``child_completed``.

    Attributes:
        process_id: The process.
        invocation_id: The call's mark.
        method: The method.
        webhook_id: The webhook that is received.
        request_id: The request for a close, if it came by the API.
        webhooks_left_out: How many webhooks were accepted before a close that does not wait for
            them any longer.
        child_id: The child that has ended.
    """

    process_id: str
    invocation_id: str
    method: str
    webhook_id: str | None = None
    request_id: str | None = None
    webhooks_left_out: int = 0
    child_id: str | None = None


@dataclass(frozen=True)
class CloseProcess:
    """A request for a close.

    Attributes:
        request_id: The accepted request.
        after_webhooks: Whether the process is still to be signalled of webhooks accepted before it.
    """

    request_id: str
    after_webhooks: bool = False


@dataclass(frozen=True)
class EndProcess:
    """The end of a process that the engine itself brings about.

    Attributes:
        process_id: The process.
        code: Its ``errors.code``.
        message: Its ``errors.message``.
        webhooks_left_out: How many webhooks waited to be handled by it.
    """

    process_id: str
    code: str
    message: str
    webhooks_left_out: int = 0


@dataclass(frozen=True)
class PollProcess:
    """Calls of a process' ``update``, repeated until there is news.

    Attributes:
        process_id: The process.
        invocation_id: The mark of the call that brings news.
        notes_ends: Whether every try of this activity notes its end, so that one without was lost.
        polled_seconds: For how long those before it have gone on, which were stopped.
    """

    process_id: str
    invocation_id: str
    notes_ends: bool = False
    polled_seconds: float = 0.0


@dataclass(frozen=True)
class PollTogether:
    """Calls of a class' ``update_many`` for all pending processes of a plugin instance."""

    community: str
    plugin: str
    slug: str
    instance_id: str
    notes_ends: bool = False
    instance: str | None = None

    @property
    def call_id(self) -> str:
        """What the call is known by when it is lost with its worker."""
        return f"polls/{self.instance_id}/{self.slug}"

    @property
    def activity_id(self) -> str:
        """``polls/{community}/{plugin}.{slug}/{instance}``."""
        return f"polls/{self.community}/{self.plugin}.{self.slug}/{self.instance_id}"


@dataclass(frozen=True)
class ReadProcess:
    """Read a process' record, without calling plugin code."""

    process_id: str


@dataclass(frozen=True)
class InvocationOutcome:
    """What an invocation left of its process.

    Attributes:
        record: The record now.
        failure: Id of the invocation if it failed; its error lies in the database.
    """

    record: ProcessRecord
    failure: str | None = None


@dataclass(frozen=True)
class PerformAction:
    """One call of an action."""

    invocation_id: str


@dataclass(frozen=True)
class ReceiveWebhook:
    """The handling of one stored webhook."""

    webhook_id: str


@dataclass(frozen=True)
class RunTask:
    """One run of a plugin's event producer task."""

    instance_id: str
    task: str


@dataclass(frozen=True)
class RunEventProducer:
    """Input of the workflow that a schedule starts."""

    instance_id: str
    task: str
    invocation_timeout_seconds: float
    storing_seconds: float = STORING_SECONDS


@dataclass(frozen=True)
class RunCommunity:
    """Input of the workflow that applies a community's changes one at a time."""

    community: str
    change_timeout_seconds: float


@dataclass(frozen=True)
class ApplyChange:
    """One change of a community: its new desired state, or its deletion.

    Attributes:
        change_id: The change.
        timeout_seconds: How long applying it may take; None: as long as the workflow's first one.
    """

    change_id: str
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class Deliver:
    """The sending of one outbox item to its driver."""

    item_id: str


@activity.defn(name="invoke_process")
async def invoke_process(invocation: InvokeProcess) -> InvocationOutcome:
    """Call a method of a process and store what it did."""
    raise AssertionError("signature only")


@activity.defn(name="poll_process")
async def poll_process(poll: PollProcess) -> InvocationOutcome:
    """Call ``update`` now and then; fails, to be retried, as long as there is no news."""
    raise AssertionError("signature only")


@activity.defn(name="poll_processes")
async def poll_processes(poll: PollTogether) -> None:
    """Call ``update_many`` now and then; fails, to be retried, as long as the plugin is enabled."""
    raise AssertionError("signature only")


@activity.defn(name="read_process")
async def read_process(read: ReadProcess) -> InvocationOutcome:
    """Give the record as it stands."""
    raise AssertionError("signature only")


@activity.defn(name="route_webhooks")
async def route_webhooks(read: ReadProcess) -> None:
    """Signal a process of the webhooks that were accepted so far."""
    raise AssertionError("signature only")


@activity.defn(name="end_process")
async def end_process(end: EndProcess) -> InvocationOutcome:
    """End a process, and notify its driver why."""
    raise AssertionError("signature only")


@activity.defn(name="watch_workflows")
async def watch_workflows() -> None:
    """End processes whose workflow was cancelled or terminated; fails, to be retried."""
    raise AssertionError("signature only")


@activity.defn(name="perform_action")
async def perform_action(action: PerformAction) -> None:
    """Call an action and store its result."""
    raise AssertionError("signature only")


@activity.defn(name="receive_webhook")
async def receive_webhook(webhook: ReceiveWebhook) -> None:
    """Hand a stored webhook to the plugin's receiver and to the processes that it concerns."""
    raise AssertionError("signature only")


@activity.defn(name="run_task")
async def run_task(task: RunTask) -> None:
    """Run an event producer task."""
    raise AssertionError("signature only")


@activity.defn(name="apply_change")
async def apply_change(change: ApplyChange) -> None:
    """Bring a community into its desired state."""
    raise AssertionError("signature only")


@activity.defn(name="deliver")
async def deliver(delivery: Deliver) -> None:
    """Send an outbox item; fails, to be retried, until the driver has taken it."""
    raise AssertionError("signature only")


@activity.defn(name="reconcile")
async def reconcile() -> None:
    """Put right what a crash left half-way between the database and Temporal."""
    raise AssertionError("signature only")


@activity.defn(name="hand_out_pending")
async def start_pending() -> None:
    """Start an activity for each webhook and delivery that is pending in the database."""
    raise AssertionError("signature only")


def webhook_activity_id(community: str, plugin: str, webhook_id: str) -> str:
    """The id of the activity that handles a webhook.

    Args:
        community: The community's name.
        plugin: The plugin's name.
        webhook_id: The stored webhook.

    Returns:
        ``webhook/{community}/{plugin}/{id}``.
    """
    return f"webhook/{community}/{plugin}/{webhook_id}"


def delivery_activity_id(community: str, item_id: str) -> str:
    """The id of the activity that delivers an outbox item.

    Args:
        community: The community's name.
        item_id: The item.

    Returns:
        ``delivery/{community}/{id}``.
    """
    return f"delivery/{community}/{item_id}"


def process_workflow_id(community: str, name: str, process_id: str) -> str:
    """The id of a process' workflow.

    Args:
        community: The community's name.
        name: ``{plugin}.{slug}``.
        process_id: The process' id.

    Returns:
        ``process/{community}/{plugin}.{slug}/{id}``.
    """
    return f"process/{community}/{name}/{process_id}"


def process_attributes(record: ProcessRecord) -> TypedSearchAttributes:
    """What operators search processes by.

    Args:
        record: The process.

    Returns:
        Community, plugin, instance, name and status. One whose ``start`` runs is shown as pending
        already: to change that afterwards would cost each start a write of Temporal's.
    """
    plugin = record.name.partition(".")[0]
    pairs: list[SearchAttributePair[str]] = [
        SearchAttributePair(COMMUNITY_ATTRIBUTE, record.community),
        SearchAttributePair(PLUGIN_ATTRIBUTE, plugin),
        SearchAttributePair(INSTANCE_ATTRIBUTE, record.instance or plugin),
        SearchAttributePair(PROCESS_ATTRIBUTE, record.name),
        SearchAttributePair(STATUS_ATTRIBUTE, shown_status(record)),
    ]
    return TypedSearchAttributes(pairs)


def shown_status(record: ProcessRecord) -> str:
    """The status that operators search a process by.

    Args:
        record: The process.
    """
    return PENDING if record.status == CREATED else record.status


def instance_attributes(
    community: str, name: str | None = None, instance: str | None = None
) -> TypedSearchAttributes:
    """What operators search everything else by.

    Args:
        community: The community's name.
        name: A plugin's name, or that of one of its actions; None if it is about no plugin.
        instance: The plugin instance's name; default: the plugin's.

    Returns:
        Community, plugin and instance.
    """
    pairs: list[SearchAttributePair[str]] = [SearchAttributePair(COMMUNITY_ATTRIBUTE, community)]
    if name is not None:
        plugin = name.partition(".")[0]
        pairs.append(SearchAttributePair(PLUGIN_ATTRIBUTE, plugin))
        pairs.append(SearchAttributePair(INSTANCE_ATTRIBUTE, instance or plugin))
    return TypedSearchAttributes(pairs)
