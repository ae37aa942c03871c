"""The durable workflow of one governance process: start, wait, complete."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from engine.messages import (
        CHILD,
        STATUS_ATTRIBUTE,
        CloseProcess,
        EndProcess,
        InvocationOutcome,
        InvokeProcess,
        PollProcess,
        ProcessRecord,
        ReadProcess,
        RunGovernanceProcess,
        end_process,
        invoke_process,
        poll_process,
        read_process,
        route_webhooks,
    )

HEARTBEAT_TIMEOUT = timedelta(seconds=15)
LONGEST_ID = 128
# How often is the activity's own decision; this bounds what nobody foresaw to some hours.
INVOCATION_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=200,
)
# While the database is out for long there is nothing else that could be done.
END_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=10_000,
)
# How long after a close at the closing time that left the process open the next one is tried.
FIRST_REPEAT = timedelta(minutes=1)
LONGEST_REPEAT = timedelta(hours=1)
# The activity says after each poll when the next one is due; this is the pace after a crash.
POLL_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1.0)


class _CloseRequest:
    """A request to close the process, and its outcome."""

    # Not a dataclass: the sandbox would make its methods anew for every workflow that starts.

    def __init__(
        self, behind: int, request_id: str | None = None, *, by_deadline: bool = False
    ) -> None:
        self.asked_at = workflow.now()
        # How many webhooks were accepted before it and are not handled yet.
        self.behind = behind
        self.request_id = request_id
        self.by_deadline = by_deadline
        # What ``close`` left.
        self.outcome: InvocationOutcome | None = None


@workflow.defn
class GovernanceProcess:
    """One governance process, from its start to its completion.

    Invocations run one at a time, in ``run``. Messages only leave word of what is to be done. A
    close waits for the webhooks that were accepted before it, up to ``close_wait_seconds``, as it
    does for children that have ended:

    - update ``started``: waits until ``start`` has run, and gives what it left.
    - update ``close``: asks for ``close``, and gives what it left. An update, for drivers wait for
      the answer. The validator refuses it where the class has no ``close``.
    - signal ``receive_webhook``: a stored webhook concerns this process.
    - signal ``child_completed``: a process that this one started has ended.
    - signal ``reload``: the record was changed from outside (its plugin was disabled).
    - query ``record``: the record after the latest invocation.

    The result is the completed record. One that is cancelled ends its record as cancelled.
    """

    @workflow.init
    def __init__(self, process: RunGovernanceProcess) -> None:
        self._process = process
        self._progress = process.progress
        self._close_requests: list[_CloseRequest] = []
        self._answered = False
        self._reload = False
        self._poll: workflow.ActivityHandle[InvocationOutcome] | None = None
        self._polling_since = workflow.now()
        self._next_closing: datetime | None = None

    @workflow.run
    async def run(self, process: RunGovernanceProcess) -> ProcessRecord:
        """Run the process until it is completed.

        Args:
            process: Which process this is, and what its class defines.

        Returns:
            The completed record.
        """
        try:
            await self._run()
        except (asyncio.CancelledError, ActivityError) as error:
            if not is_cancelled_exception(error):
                raise
            if self._poll is not None:
                self._poll.cancel()
            await self._end("cancelled", "The workflow of the process was cancelled")
            self._answer_all()
            await self._signal_parent()
            await workflow.wait_condition(workflow.all_handlers_finished)
            raise
        await self._stop_polling()
        self._answer_all()
        await self._signal_parent()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._record

    async def _run(self) -> None:
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
                # A handler that asks for a close meanwhile waits for it, so it must be done first.
                await workflow.wait_condition(
                    lambda: workflow.all_handlers_finished() or not self._may_continue_as_new()
                )
                if self._may_continue_as_new() and not self._record.completed:
                    self._process.progress = self._progress
                    workflow.continue_as_new(self._process)

    @workflow.update
    async def started(self) -> InvocationOutcome:
        """Wait until ``start`` has run.

        Returns:
            What it left; ``failure`` names the invocation if it failed.
        """
        await workflow.wait_condition(lambda: self._progress.record is not None)
        return InvocationOutcome(self._record, self._progress.failure)

    @workflow.update
    async def close(self, asked: CloseProcess | None = None) -> InvocationOutcome:
        """Close the process.

        Args:
            asked: The accepted request; None if it did not come by the API.

        Returns:
            What ``close`` left; the record as it stands if the process completed otherwise.
        """
        if asked is not None and asked.after_webhooks:
            await self._route_webhooks(always=True)
        elif asked is None:
            await self._route_webhooks()
        request = _CloseRequest(len(self._progress.webhooks), asked.request_id if asked else None)
        if self._answered:
            return InvocationOutcome(self._record)
        self._close_requests.append(request)
        await workflow.wait_condition(lambda: request.outcome is not None)
        assert request.outcome is not None
        return request.outcome

    @close.validator
    def _check_close(self, asked: CloseProcess | None = None) -> None:
        if not self._process.capabilities.can_close:
            raise ApplicationError(
                f"{self._process.name} does not support manually closing the process",
                type="not_supported",
            )

    @workflow.signal
    def receive_webhook(self, webhook_id: str = "") -> None:
        """Take note of a stored webhook.

        Args:
            webhook_id: Its id; what is none is ignored.
        """
        if not 0 < len(webhook_id) <= LONGEST_ID or not webhook_id.isascii():
            workflow.logger.warning("a signal names no webhook")
        elif webhook_id not in self._progress.webhooks:
            self._progress.webhooks.append(webhook_id)

    @workflow.signal
    def child_completed(self, child_id: str = "") -> None:
        """Take note that a process which this one started has ended.

        Args:
            child_id: Its id; what is none is ignored.
        """
        if not 0 < len(child_id) <= LONGEST_ID or not child_id.isascii():
            workflow.logger.warning("a signal names no child")
        elif f"{CHILD}{child_id}" not in self._progress.webhooks:
            self._progress.webhooks.append(f"{CHILD}{child_id}")

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
                    retry_policy=END_RETRY,
                )
            )
        elif self._close_requests and self._may_close():
            await self._close()
        elif self._progress.webhooks:
            message = self._progress.webhooks[0]
            method = "child_completed" if message.startswith(CHILD) else "receive_webhook"
            self._take(await self._invoke(method, message))
            self._progress.webhooks.pop(0)
            for request in self._close_requests:
                request.behind = max(0, request.behind - 1)
        elif self._next_closing is not None and self._next_closing <= workflow.now():
            await self._route_webhooks()
            self._next_closing = None
            self._close_requests.append(
                _CloseRequest(len(self._progress.webhooks), by_deadline=True)
            )
            if not self._progress.webhooks:
                await self._close()

    def _may_close(self) -> bool:
        """Whether nothing goes before the close that was asked for first."""
        request = self._close_requests[0]
        if not request.behind or not workflow.patched("close-after-earlier-webhooks"):
            return True
        longest = timedelta(seconds=self._process.close_wait_seconds)
        return workflow.now() >= request.asked_at + longest

    async def _close(self) -> None:
        """Do what the first close asks for."""
        request = self._close_requests[0]
        moment = self._record.closing_moment
        if request.by_deadline and not self._is_due(moment):
            # A webhook that went before it has moved the closing time, or taken it away.
            self._close_requests.pop(0)
            self._plan_closing()
            return
        request.outcome = await self._invoke("close", close=request)
        self._take(request.outcome)
        self._close_requests.pop(0)
        if request.by_deadline:
            self._progress.missed_closings += 1
            self._plan_closing()

    def _is_due(self, moment: datetime | None) -> bool:
        if moment is None:
            return not workflow.patched("no-close-without-closing-time")
        return moment <= workflow.now()

    async def _route_webhooks(self, *, always: bool = False) -> None:
        """Have the webhooks that were accepted so far signalled to this process."""
        if not self._process.capabilities.receives_webhooks:
            return
        # Older histories hold no request that asks for it.
        if not always and not workflow.patched("route-webhooks-before-close"):
            return
        try:
            await workflow.execute_activity(
                route_webhooks,
                ReadProcess(self._process.process_id),
                start_to_close_timeout=self._longest_call(),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                retry_policy=INVOCATION_RETRY,
                summary="webhooks accepted before the close",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.error("webhooks accepted before a close could not be routed")

    def _answer_all(self) -> None:
        """Answer all closes that still wait: the process has ended."""
        self._answered = True
        for request in self._close_requests:
            request.outcome = request.outcome or InvocationOutcome(self._record)

    async def _end(self, code: str, message: str) -> InvocationOutcome:
        """End the record without a call of plugin code."""
        outcome = await workflow.execute_activity(
            end_process,
            EndProcess(self._process.process_id, code, message, self._webhooks_among_first(None)),
            start_to_close_timeout=self._longest_call(),
            heartbeat_timeout=HEARTBEAT_TIMEOUT,
            retry_policy=END_RETRY,
            summary=code,
        )
        self._take(outcome)
        return outcome

    async def _signal_parent(self) -> None:
        """Signal the process that started this one; it may have ended before."""
        if self._process.parent is None:
            return
        parent = workflow.get_external_workflow_handle_for(
            GovernanceProcess.run, self._process.parent
        )
        try:
            await parent.signal(GovernanceProcess.child_completed, self._process.process_id)
        except FailureError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.info("the parent of the process has ended")

    def _webhooks_among_first(self, count: int | None) -> int:
        """How many of the first messages that wait are webhooks; None: of all."""
        return sum(not one.startswith(CHILD) for one in self._progress.webhooks[:count])

    async def _invoke(
        self, method: str, message: str | None = None, close: _CloseRequest | None = None
    ) -> InvocationOutcome:
        self._progress.invocations += 1
        number = message or str(self._progress.invocations)
        child = message.removeprefix(CHILD) if method == "child_completed" and message else None
        try:
            return await workflow.execute_activity(
                invoke_process,
                InvokeProcess(
                    process_id=self._process.process_id,
                    invocation_id=f"{self._process.process_id}:{number}",
                    method=method,
                    webhook_id=message if child is None else None,
                    request_id=close.request_id if close else None,
                    webhooks_left_out=self._webhooks_among_first(close.behind) if close else 0,
                    child_id=child,
                ),
                start_to_close_timeout=self._longest_call(),
                heartbeat_timeout=HEARTBEAT_TIMEOUT,
                # A message may wait for as long as its platform wants no calls.
                retry_policy=END_RETRY if message else INVOCATION_RETRY,
                summary=method,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            return await self._end("engine_failed", f"The engine failed in {method}; see its log")

    def _longest_call(self) -> timedelta:
        # A call may have to wait for the database twice: for its turn, and to store what it did.
        return timedelta(
            seconds=self._process.invocation_timeout_seconds + 2 * self._process.storing_seconds
        )

    def _keep_polling(self) -> None:
        if self._poll is not None or not self._process.capabilities.can_update:
            return
        self._progress.invocations += 1
        self._polling_since = workflow.now()
        self._poll = workflow.start_activity(
            poll_process,
            PollProcess(
                process_id=self._process.process_id,
                invocation_id=f"{self._process.process_id}:{self._progress.invocations}",
                notes_ends=True,
                polled_seconds=self._progress.polled_seconds,
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
            self._progress.polled_seconds = 0.0
        except ActivityError:
            polled = workflow.now() - self._polling_since
            self._progress.polled_seconds += polled.total_seconds()
            # It had no news, unless it is the workflow itself that is cancelled.
            if workflow.cancellation_reason() is not None:
                raise

    def _take(self, outcome: InvocationOutcome) -> None:
        before = self._progress.record
        record = self._progress.record = outcome.record
        shown = before.status if before is not None else self._process.shown_status
        if shown != record.status:
            workflow.upsert_search_attributes([STATUS_ATTRIBUTE.value_set(record.status)])
        workflow.set_current_details(_details(record))
        if before is not None and before.closing_at != record.closing_at:
            self._progress.missed_closings = 0
            self._plan_closing()

    def _plan_closing(self) -> None:
        if self._process.capabilities.can_close:
            missed = self._progress.missed_closings
            self._next_closing = _next_closing(self._record.closing_moment, missed, workflow.now())


def _details(record: ProcessRecord) -> str:
    """What an operator reads in the Temporal UI."""
    lines = [f"**{record.status}**"]
    if record.url:
        lines.append(f"[on the platform]({record.url})")
    if record.closing_at and not record.completed:
        lines.append(f"closes at {record.closing_at}")
    return "  \n".join(lines)


def _next_closing(closing_at: datetime | None, missed: int, now: datetime) -> datetime | None:
    """The closing time; after a missed one a minute from now, doubling each time up to an hour."""
    if closing_at is None or missed == 0 or closing_at > now:
        return closing_at
    doublings = min(missed - 1, 10)
    return now + min(FIRST_REPEAT * (1 << doublings), LONGEST_REPEAT)
