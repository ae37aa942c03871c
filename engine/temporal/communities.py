"""Changes of communities: one workflow for each applies them in their order."""

from __future__ import annotations

import asyncio
import builtins
from datetime import timedelta

from temporalio.client import WithStartWorkflowOperation, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from engine.errors import UnavailableError
from engine.messages import ApplyChange, RunCommunity, instance_attributes
from engine.temporal.rpc import OUT_OF_REACH, Rpc, slow_or_unavailable
from engine.workflows.community import CommunityChanges


class Communities:
    """The workflows that change communities.

    Args:
        rpc: How they are reached.
    """

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc

    async def apply_change(self, community: str, change_id: str, timeout: timedelta) -> None:
        """Have a change of a community applied, after those before it; wait for its end.

        Args:
            community: The community's name.
            change_id: The change; its result lies in the database.
            timeout: How long applying it may take, unless the database is out.

        Raises:
            PluginTimeoutError: It did not end in time; it may still end.
            UnavailableError: Temporal does not answer; it may be applied when it does.
        """
        longest = (timeout + self._rpc.storing).total_seconds()

        async def apply() -> None:
            await self._rpc.client.execute_update_with_start_workflow(
                CommunityChanges.apply,
                ApplyChange(change_id, longest),
                id=change_id,
                start_workflow_operation=WithStartWorkflowOperation(
                    CommunityChanges.run,
                    RunCommunity(community, longest),
                    id=f"community/{community}",
                    task_queue=self._rpc.settings.task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    static_summary=f"changes of {community}",
                    search_attributes=instance_attributes(community),
                ),
            )

        try:
            async with asyncio.timeout((self._rpc.wait + timeout).total_seconds()):
                for _ in range(5):
                    try:
                        await self._rpc.reach(apply)
                        return
                    except WorkflowUpdateFailedError:
                        # The workflow ended between two changes: the next try starts a new one.
                        continue
                    except RPCError as error:
                        if error.status != RPCStatusCode.NOT_FOUND:
                            raise
        except (builtins.TimeoutError, *OUT_OF_REACH) as error:
            raise slow_or_unavailable(error) from error
        raise UnavailableError("The community is being changed by others; try again")
