"""The durable workflow of one governance process: start, wait, complete."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from engine.messages import (
        STATUS_ATTRIBUTE,
        InvocationOutcome,
        InvokeProcess,
        PollProcess,
        ProcessRecord,
        ReadProcess,
        RunGovernanceProcess,
        invoke_process,
        poll_process,
        read_process,
    )
    from engine.workflows.closing_time import next_closing

HEARTBEAT_TIMEOUT = timedelta(seconds=15)
# What a call did may have to wait for the database before it is stored.
STORING = timedelta(minutes=3)
INVOCATION_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1)
)
# The activity says after each poll when the next one is due; this is the pace after a crash.
POLL_RETRY = RetryPolicy(initial_interval=timedelta(seconds=60), backoff_coefficient=1.0)


@dataclass
class _CloseRequest:
    """A driver's wish to close the process, and what came of it."""

    outcome: InvocationOutcome | None = None


@workflow.defn
class GovernanceProcess:
    """One governance process, from its start to its completion.

    Invocations run one at a time, in ``run``. Messages only leave word of what is to be done:

    - update ``started``: waits until ``start`` has run, and gives what it left.
    - update ``close``: asks for ``close``, and gives what it left. An update, for drivers wait for
      the answer.
    - signal ``receive_webhook``: a stored webhook concerns this process.
    - signal ``reload``: the record was changed from outside (its plugin was disabled).
    - query ``record``: the record after the latest invocation.

    The result is the completed record.
    """

    @workflow.init
    def __init__(self, process: RunGovernanceProcess) -> None:
        self._process = process
        self._progress = process.progress
        self._close_requests: list[_CloseRequest] = []
        self._reload = False
        self._poll: workflow.ActivityHandle[InvocationOutcome] | None = None
        self._next_closing: datetime | None = None

    @workflow.run
    async def run(self, process: RunGovernanceProcess) -> ProcessRecord:
        """Run the process until it is completed.

        Args:
            process: Which process this is, and what its class defines.

        Returns:
            The completed record.
        """
        if self._progress.record is None:
            outcome = await self._invoke("start")
            self._progress.failure = outcome.failure
            self._take(outcome)
        self._plan_closing()
        while not self._record.completed:
            await self._wait_for_work()
            await self._work()
            if workflow.info().is_continue_as_new_suggested() and self._may_continue_as_new():
                await self._stop_polling()
                await workflow.wait_condition(workflow.all_handlers_finished)
                if self._may_continue_as_new() and not self._record.completed:
                    process.progress = self._progress
                    workflow.continue_as_new(process)
        await self._stop_polling()
        for request in self._close_requests:
            request.outcome = InvocationOutcome(self._record)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._record

    @workflow.update
    async def started(self) -> InvocationOutcome:
        """Wait until ``start`` has run.

        Returns:
            What it left; ``failure`` names the invocation if it failed.
        """
        await workflow.wait_condition(lambda: self._progress.record is not None)
        return InvocationOutcome(self._record, self._progress.failure)

    @workflow.update
    async def close(self) -> InvocationOutcome:
        """Close the process.

        Returns:
            What ``close`` left; the record as it stands if the process completed otherwise.
        """
        request = _CloseRequest()
        self._close_requests.append(request)
        await workflow.wait_condition(lambda: request.outcome is not None)
        assert request.outcome is not None
        return request.outcome

    @workflow.signal
    def receive_webhook(self, webhook_id: str) -> None:
        """Take note of a stored webhook.

        Args:
            webhook_id: Its id.
        """
        if webhook_id not in self._progress.webhooks:
            self._progress.webhooks.append(webhook_id)

    @workflow.signal
    def reload(self) -> None:
        """Take note that the record was changed from outside."""
        self._reload = True

    @workflow.query
    def record(self) -> ProcessRecord | None:
        """The record after the latest invocation; None while ``start`` is running."""
        return self._progress.record

    @property
    def _record(self) -> ProcessRecord:
        assert self._progress.record is not None
        return self._progress.record

    def _idle(self) -> bool:
        return not (self._reload or self._close_requests or self._progress.webhooks)

    def _may_continue_as_new(self) -> bool:
        # Webhooks that wait travel along; who waits for an answer does not.
        return not (self._reload or self._close_requests)

    async def _wait_for_work(self) -> None:
        self._keep_polling()
        until_closing = None
        if self._next_closing is not None:
            until_closing = max(self._next_closing - workflow.now(), timedelta(0))
        try:
            await workflow.wait_condition(
                lambda: not self._idle() or (self._poll is not None and self._poll.done()),
                timeout=until_closing,
                timeout_summary="closing time",
            )
        except TimeoutError:
            return

    async def _work(self) -> None:
        """Run what is due, one invocation after the other."""
        await self._stop_polling()
        if self._record.completed:
            return
        if self._reload:
            self._reload = False
            self._take(
                await workflow.execute_activity(
                    read_process,
                    ReadProcess(self._process.process_id),
                    start_to_close_timeout=timedelta(seconds=30),
                    retry_policy=INVOCATION_RETRY,
                )
            )
        elif self._close_requests:
            outcome = await self._invoke("close")
            self._take(outcome)
            self._close_requests.pop(0).outcome = outcome
        elif self._progress.webhooks:
            webhook_id = self._progress.webhooks[0]
            self._take(await self._invoke("receive_webhook", webhook_id))
            self._progress.webhooks.pop(0)
        elif self._next_closing is not None and self._next_closing <= workflow.now():
            self._take(await self._invoke("close"))
            self._progress.missed_closings += 1
            self._plan_closing()

    async def _invoke(self, method: str, webhook_id: str | None = None) -> InvocationOutcome:
        self._progress.invocations += 1
        number = webhook_id or str(self._progress.invocations)
        return await workflow.execute_activity(
            invoke_process,
            InvokeProcess(
                process_id=self._process.process_id,
                invocation_id=f"{self._process.process_id}:{number}",
                method=method,
                webhook_id=webhook_id,
            ),
            start_to_close_timeout=self._longest_call(),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=INVOCATION_RETRY,
            summary=method,
        )

    def _longest_call(self) -> timedelta:
        return timedelta(seconds=self._process.invocation_timeout_seconds) + STORING

    def _keep_polling(self) -> None:
        if self._poll is not None or not self._process.capabilities.can_update:
            return
        self._progress.invocations += 1
        self._poll = workflow.start_activity(
            poll_process,
            PollProcess(
                process_id=self._process.process_id,
                invocation_id=f"{self._process.process_id}:{self._progress.invocations}",
            ),
            start_to_close_timeout=self._longest_call(),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=POLL_RETRY,
            # A poll under way is waited for, so that nothing else runs beside it.
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            summary="poll",
        )

    async def _stop_polling(self) -> None:
        if self._poll is None:
            return
        poll, self._poll = self._poll, None
        if not poll.done():
            poll.cancel()
        try:
            self._take(await poll)
        except ActivityError:
            return

    def _take(self, outcome: InvocationOutcome) -> None:
        before = self._progress.record
        record = self._progress.record = outcome.record
        if before is None or before.status != record.status:
            workflow.upsert_search_attributes([STATUS_ATTRIBUTE.value_set(record.status)])
        workflow.set_current_details(_details(record))
        if before is not None and before.closing_at != record.closing_at:
            self._progress.missed_closings = 0
            self._plan_closing()

    def _plan_closing(self) -> None:
        if self._process.capabilities.can_close:
            self._next_closing = next_closing(
                self._record.closing_moment, self._progress.missed_closings, workflow.now()
            )


def _details(record: ProcessRecord) -> str:
    """What an operator reads in the Temporal UI."""
    lines = [f"**{record.status}**"]
    if record.url:
        lines.append(f"[on the platform]({record.url})")
    if record.closing_at and not record.completed:
        lines.append(f"closes at {record.closing_at}")
    return "  \n".join(lines)
