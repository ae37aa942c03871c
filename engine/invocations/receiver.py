"""The call of a plugin's webhook receiver."""

from __future__ import annotations

from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from engine.errors import EngineError, PluginPausedError, UnavailableError
from engine.invocations.effects import FollowUp, store_effects
from engine.invocations.loading import load_plugin
from engine.invocations.lost_calls import is_suspect
from engine.invocations.policy import RECEIVER
from engine.invocations.run import Call, Done
from engine.resources import Engine
from engine.sdk.registry import ReceiverDeclaration
from engine.sdk.webhook import WebhookRequest
from engine.store import invocations
from engine.store.communities import EnabledInstance
from engine.store.invocations import mark_of
from engine.store.webhooks import ReceivedWebhook


def request_of(row: ReceivedWebhook) -> WebhookRequest:
    """A stored webhook, as plugin code reads it."""
    return WebhookRequest(body=row.body, headers=row.headers, query=row.query, path=row.path)


class ReceiverCall(Call[EngineError | None]):
    """A webhook, handed to the plugin's receiver; gives why that failed, if it did.

    Args:
        engine: What all activities share.
        row: The webhook.
        enabled: The instance that received it.
    """

    def __init__(self, engine: Engine, row: ReceivedWebhook, enabled: EnabledInstance) -> None:
        super().__init__(engine, f"webhook:{row.reference}", RECEIVER)
        self.row = row
        self.enabled = enabled
        self._receiver: ReceiverDeclaration | None = None

    @property
    def what(self) -> str:
        """``the webhook receiver of '{plugin}'``."""
        return f"the webhook receiver of '{self.row.plugin}'"

    async def load(self) -> Done[EngineError | None] | None:
        """Load the instance; done where the plugin has no receiver, or it was called."""
        suspect = await is_suspect(self.engine, self.id, self.enabled)
        async with self.engine.database.read() as session:
            self.plugin = await load_plugin(self.engine, session, self.enabled, self.id)
            self.plugin.isolated |= suspect
            self._receiver = self.plugin.declaration.receiver
            if self._receiver is None:
                return Done(None)
            mark = await invocations.get_invocation(session, self.id)
        return Done(None, self.row.community, FollowUp.of(mark)) if mark is not None else None

    async def make(self) -> None:
        """Call the receiver."""
        assert self.plugin is not None and self._receiver is not None
        method = getattr(self.plugin.plugin, self._receiver.method)
        await self.call(method, request_of(self.row))

    async def store(self, session: AsyncSession, made: Any) -> Done[EngineError | None]:
        """Store what it did."""
        assert self.plugin is not None and self._receiver is not None
        mark = await invocations.get_invocation(session, self.id)
        if mark is not None:
            return Done(None, self.row.community, FollowUp.of(mark))
        items = await store_effects(self.engine, session, self.plugin)
        follow_up = FollowUp(items=items)
        target = self._receiver.method
        session.add(mark_of(self.id, self.plugin.instance, target, follow_up.as_result()))
        return Done(None, self.row.community, follow_up)

    def next_try(self, error: EngineError) -> float | None:
        """Tried again here only if it was not called: else its processes are signalled first."""
        if isinstance(error, PluginPausedError | UnavailableError):
            return self.policy.next_try(error, self.row.tries + 1)
        return None

    async def fail(self, error: EngineError) -> EngineError:
        """Return the failure, for the activity that handles the webhook."""
        return error
