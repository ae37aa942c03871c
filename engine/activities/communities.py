"""Brings a community into its desired state: all of it, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.activities.batched_polls import poll_together
from engine.errors import (
    AuthenticationError,
    EngineError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    UnavailableError,
    describe,
)
from engine.invocations.effects import append_record, start_deliveries, store_effects
from engine.invocations.heartbeat import (
    before_plugin_code,
    last_unforeseen_try,
    with_heartbeat,
)
from engine.invocations.loading import LoadedPlugin, build_plugin
from engine.invocations.plugin_code import call
from engine.messages import ApplyChange, ProcessRecord
from engine.resources import Engine
from engine.schedules import TaskSchedule
from engine.sdk import plugin as sdk
from engine.sdk.registry import Registry
from engine.store import communities, invocations, processes, webhooks
from engine.store.communities import (
    ACCEPTED,
    APPLIED,
    APPLYING,
    REFUSED,
    Community,
    CommunityChange,
    PluginInstance,
)
from engine.store.database import is_outage, new_id, utc_now

log = structlog.get_logger()

# Longer than any change takes.
ABANDONED_AFTER = timedelta(hours=2)


@dataclass
class _Plan:
    """What has to change for a community to be as desired."""

    readable_name: str
    positions: dict[str, int]
    gone: list[PluginInstance] = field(default_factory=list)
    kept: list[PluginInstance] = field(default_factory=list)
    reconfigured: list[tuple[PluginInstance, dict[str, Any], LoadedPlugin]] = field(
        default_factory=list
    )
    fresh: list[tuple[dict[str, Any], LoadedPlugin]] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    leaving: list[tuple[PluginInstance, str]] = field(default_factory=list)


class CommunityActivities:
    """The activity that applies a community's change.

    Args:
        engine: What all activities share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="apply_change")
    async def apply_change(self, change: ApplyChange) -> None:
        """Bring a community into its desired state; the result is recorded with the change.

        Args:
            change: Which change.
        """
        await with_heartbeat(self._apply(change.change_id))

    async def _apply(self, change_id: str) -> None:
        with before_plugin_code():
            async with self._engine.database.read() as session:
                change = await session.get_one(CommunityChange, change_id)
        if change.status in (ACCEPTED, APPLYING):
            try:
                if change.desired_encrypted is None:
                    items, records = await self._delete(change)
                else:
                    desired = self._engine.secrets.decrypt(change.desired_encrypted)
                    items, records = await self._put(change, desired)
            except EngineError as error:
                await self._refuse(change, error)
                return
            except ApplicationError:
                raise
            except Exception as error:
                if is_outage(error) or not last_unforeseen_try():
                    raise
                log.exception("community not changed", community=change.community)
                await self._refuse(change, EngineError("The engine failed; its log tells more"))
                return
            log.info("community changed", community=change.community, change=change_id)
        else:
            items, records = [], []
            if change.status == APPLIED:
                # A first try was cut off after its commit: what it was to hand out is found.
                await self._engine.schedules.start_reconciliation()
        if change.status != REFUSED:
            await self._follow_up(change.community, items, records)

    async def _put(
        self, change: CommunityChange, desired: dict[str, Any]
    ) -> tuple[list[str], list[ProcessRecord]]:
        with before_plugin_code():
            plan = await self._plan(change.community, desired)
            await self._begin(change)
        await self._enable(plan)
        for instance, readable_name in plan.leaving:
            await self._disable(instance, readable_name)
        return await self._engine.database.persist(
            lambda session: self._store(session, change, plan)
        )

    async def _begin(self, change: CommunityChange) -> None:
        """Note that plugins may be called from now on, unless they may have been before."""
        if not await communities.begin_change(self._engine.database, change):
            raise OutcomeUnknownError(
                "A first try was cut off; the community is as it was, but whether "
                "its plugins had an effect on a platform is not known"
            )

    async def _enable(self, plan: _Plan) -> None:
        """Call the plugins that come or change; if one fails, those that came leave again."""
        came: list[LoadedPlugin] = []
        try:
            for _, loaded in plan.fresh:
                await call(
                    loaded, f"initialize of '{loaded.declaration.name}'", loaded.plugin.initialize
                )
                came.append(loaded)
            for _, old_config, loaded in plan.reconfigured:
                await call(
                    loaded,
                    f"on_config_change of '{loaded.declaration.name}'",
                    loaded.plugin.on_config_change,  # type: ignore[attr-defined]
                    old_config,
                )
        except EngineError:
            for loaded in came:
                await _call_on_disable(loaded)
            raise

    async def _disable(self, instance: PluginInstance, readable_name: str) -> None:
        """Call the plugin of an instance that goes, if it is installed and wants to know."""
        declaration = Registry.plugins.get(instance.plugin)
        if declaration is None or not hasattr(declaration.cls, "on_disable"):
            return
        state = await self._engine.database.recall(
            lambda session: communities.load_state(session, instance.id)
        )
        loaded = build_plugin(
            self._engine,
            instance_id=instance.id,
            plugin=instance.plugin,
            community=sdk.Community(instance.community, readable_name),
            config=self._engine.secrets.decrypt(instance.config_encrypted),
            state=state,
            key=f"on_disable:{instance.id}",
        )
        await _call_on_disable(loaded)

    async def _store(
        self, session: AsyncSession, change: CommunityChange, plan: _Plan
    ) -> tuple[list[str], list[ProcessRecord]]:
        row = await communities.lock_community(session, change.community)
        if row is None:
            row = Community(name=change.community)
            session.add(row)
            await session.flush()
            created = True
        else:
            created = False
        await communities.lock_instances(session, change.community)
        row.readable_name, row.updated_at = plan.readable_name, utc_now()
        items, records = await self._end_processes(session, plan.gone)
        replaced = list(plan.replaced.values())
        await communities.delete_instances(session, [i.id for i in plan.gone] + replaced)
        await session.flush()
        for config, loaded in plan.fresh:
            session.add(
                PluginInstance(
                    id=loaded.instance_id,
                    community=change.community,
                    plugin=loaded.declaration.name,
                    position=plan.positions[loaded.declaration.name],
                    config_encrypted=self._engine.secrets.encrypt(config),
                )
            )
            await session.flush()
            items += await store_effects(self._engine, session, loaded)
            old_id = plan.replaced.get(loaded.declaration.name)
            if old_id is not None:
                for process in await processes.unfinished_of_instance(session, old_id):
                    process.instance_id = loaded.instance_id
                await webhooks.move_unhandled(session, old_id, loaded.instance_id)
        for instance, _, loaded in plan.reconfigured:
            stored = await session.get_one(PluginInstance, instance.id)
            stored.position = plan.positions[instance.plugin]
            stored.config_encrypted = self._engine.secrets.encrypt(dict(loaded.plugin.config))
            items += await store_effects(self._engine, session, loaded)
        for instance in plan.kept:
            stored = await session.get_one(PluginInstance, instance.id)
            stored.position = plan.positions[instance.plugin]
        mark = await _begun(session, change)
        mark.status, mark.created, mark.desired_encrypted = APPLIED, created, None
        return items, records

    async def _plan(self, community: str, desired: dict[str, Any]) -> _Plan:
        """Compare what is with what is wanted; configs are validated and complete already."""
        engine = self._engine
        wanted = {item["name"]: item["config"] for item in desired["plugins"]}
        facts = sdk.Community(community, desired["readable_name"])
        plan = _Plan(desired["readable_name"], {n: i for i, n in enumerate(wanted)})
        async with engine.database.read() as session:
            present = {i.plugin: i for i in await communities.instances_of(session, community)}
            states = {
                i.plugin: await communities.load_state(session, i.id) for i in present.values()
            }
            row = await communities.get_community(session, community)
        called_now = row.readable_name if row else ""
        plan.gone = [i for name, i in present.items() if name not in wanted]
        plan.leaving = [(instance, called_now) for instance in plan.gone]
        for name, config in wanted.items():
            instance = present.get(name)
            old = engine.secrets.decrypt(instance.config_encrypted) if instance else None
            if instance is not None and old == config:
                plan.kept.append(instance)
                continue
            keeps = hasattr(Registry.plugins[name].cls, "on_config_change")
            stays = instance is not None and keeps
            instance_id = instance.id if instance is not None and stays else new_id()
            loaded = build_plugin(
                engine,
                instance_id=instance_id,
                plugin=name,
                community=facts,
                config=config,
                state=states[name] if stays else {},
                key=f"{'on_config_change' if stays else 'initialize'}:{instance_id}",
            )
            if instance is not None and stays:
                plan.reconfigured.append((instance, old or {}, loaded))
            else:
                plan.fresh.append((config, loaded))
                if instance is not None:
                    plan.replaced[name] = instance.id
                    plan.leaving.append((instance, called_now))
        return plan

    async def _delete(self, change: CommunityChange) -> tuple[list[str], list[ProcessRecord]]:
        with before_plugin_code():
            async with self._engine.database.read() as session:
                community = await communities.get_community(session, change.community)
                leaving = await communities.instances_of(session, change.community)
            await self._begin(change)
        for instance in leaving:
            await self._disable(instance, community.readable_name if community else "")
        async with self._engine.database.write() as session:
            row = await communities.lock_community(session, change.community)
            if row is None:
                raise ResourceNotFoundError(f"Community '{change.community}' not found")
            instances = await communities.lock_instances(session, change.community)
            items, records = await self._end_processes(session, instances)
            await communities.delete_instances(session, [i.id for i in instances])
            await session.delete(row)
            (await _begun(session, change)).status = APPLIED
        return items, records

    async def _end_processes(
        self, session: Any, instances: Any
    ) -> tuple[list[str], list[ProcessRecord]]:
        items: list[str] = []
        records: list[ProcessRecord] = []
        for instance in instances:
            for process in await processes.unfinished_of_instance(session, instance.id):
                process.complete(
                    {
                        "code": "plugin_disabled",
                        "message": f"Plugin '{instance.plugin}' was disabled for community "
                        f"'{instance.community}' while the process was pending",
                    }
                )
                items += await append_record(session, process)
                records.append(process.record())
        return items, records

    async def _refuse(self, change: CommunityChange, error: EngineError) -> None:

        async def refuse(session: AsyncSession) -> None:
            mark = await session.get_one(CommunityChange, change.id, with_for_update=True)
            if mark.status not in (ACCEPTED, APPLYING):
                return
            # Whatever `initialize` fails of, it is the plugin's failure to be told: 502. Only
            # credentials that do not work are the request's own fault.
            told = describe(error) | ({"status": 502} if error.status == 500 else {})
            told |= {"status": 400} if isinstance(error, AuthenticationError) else {}
            mark.status, mark.error, mark.desired_encrypted = REFUSED, told, None

        await self._engine.database.persist(refuse)
        log.warning(
            "community not changed",
            community=change.community,
            kind=error.kind,
            detail=error.detail,
        )

    async def _follow_up(
        self, community: str, items: list[str], records: list[ProcessRecord]
    ) -> None:
        """Bring Temporal in line with the database."""
        await start_deliveries(self._engine, community, items)
        for record in records:
            await self._engine.temporal.processes.tell_to_reload(record)
        wanted = {task.id: task for task in await tasks_of(self._engine, community)}
        for task in wanted.values():
            await self._engine.schedules.schedule_task(task)
        await poll_together(self._engine, community)
        for plugin in Registry.plugins.values():
            for slug in plugin.tasks:
                task = TaskSchedule(community, plugin.name, slug, "", 1)
                if task.id not in wanted:
                    await self._engine.schedules.unschedule_task(task.id)


async def _begun(session: AsyncSession, change: CommunityChange) -> CommunityChange:
    """Give the change's row, unless another try has ended it: then nothing of this one stands."""
    mark = await session.get_one(CommunityChange, change.id, with_for_update=True)
    if mark.status != APPLYING:
        raise OutcomeUnknownError("The change was given up meanwhile")
    return mark


async def _call_on_disable(loaded: LoadedPlugin) -> None:
    """Let a plugin clean up on its platform; if that fails, it is disabled all the same."""
    name = loaded.declaration.name
    if not hasattr(loaded.plugin, "on_disable"):
        return
    try:
        await call(loaded, f"on_disable of '{name}'", loaded.plugin.on_disable)
    except EngineError as error:
        log.warning(
            "on_disable failed", community=loaded.community, plugin=name, detail=error.detail
        )


async def withdraw_abandoned_changes(engine: Engine) -> int:
    """Refuse changes whose request died before it handed them over, and forget their configs.

    Args:
        engine: What all activities share.

    Returns:
        How many there were.
    """
    async with engine.database.write() as session:
        abandoned = await communities.changes_before(session, utc_now() - ABANDONED_AFTER)
        for change in abandoned:
            never = describe(UnavailableError("The change was never applied; ask again"))
            if await communities.withdraw_change(engine.database, session, change.id, never):
                await invocations.forget_key(session, change.id)
            else:
                unknown = OutcomeUnknownError("The change was begun, and never ended")
                await communities.refuse_change(session, change.id, describe(unknown))
            log.warning("change withdrawn", community=change.community, change=change.id)
    return len(abandoned)


async def tasks_of(engine: Engine, community: str | None = None) -> list[TaskSchedule]:
    """The schedules that there should be.

    Args:
        engine: What all activities share.
        community: Only this community's.

    Returns:
        One for each task of each plugin instance.
    """
    async with engine.database.read() as session:
        instances = (
            await communities.all_instances(session)
            if community is None
            else await communities.instances_of(session, community)
        )
    return [
        TaskSchedule(
            community=instance.community,
            plugin=instance.plugin,
            task=task.slug,
            instance_id=instance.id,
            every_seconds=task.every_seconds or engine.settings.task_interval_seconds,
        )
        for instance in instances
        if instance.plugin in Registry.plugins
        for task in Registry.plugins[instance.plugin].tasks.values()
    ]
