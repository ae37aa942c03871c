"""Brings a community into its desired state: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession
from temporalio import activity
from temporalio.exceptions import ApplicationError

from engine.activities.batched_polls import poll_together
from engine.errors import (
    AuthenticationError,
    ConflictError,
    EngineError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    UnavailableError,
    describe,
)
from engine.invocations.effects import FollowUp, hand_over, store_effects
from engine.invocations.heartbeat import (
    before_plugin_code,
    last_unforeseen_try,
    with_heartbeat,
)
from engine.invocations.loading import LoadedPlugin, build_plugin
from engine.invocations.plugin_code import call
from engine.invocations.process import complete
from engine.messages import COMPLETED, ApplyChange
from engine.resources import Engine
from engine.schedules import TaskSchedule, task_schedule_id
from engine.sdk import plugin as sdk
from engine.sdk.registry import Registry
from engine.store import communities, processes, webhooks
from engine.store.communities import (
    ACCEPTED,
    APPLIED,
    APPLYING,
    PLATFORM_ID_MAX_LENGTH,
    REFUSED,
    Community,
    CommunityChange,
    PluginInstance,
)
from engine.store.database import is_outage, new_id, utc_now

log = structlog.get_logger()

# Longer than any change takes.
ABANDONED_AFTER = timedelta(hours=2)


@dataclass(frozen=True)
class _Entry:
    """A plugin instance as it is wanted; its config is validated and complete."""

    plugin: str
    instance: str
    config: dict[str, Any]
    position: int


@dataclass
class _Plan:
    """What has to change for a community to be as desired."""

    readable_name: str
    gone: list[PluginInstance] = field(default_factory=list)
    kept: list[tuple[PluginInstance, _Entry]] = field(default_factory=list)
    reconfigured: list[tuple[PluginInstance, dict[str, Any], _Entry, LoadedPlugin]] = field(
        default_factory=list
    )
    fresh: list[tuple[_Entry, LoadedPlugin]] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    leaving: list[tuple[PluginInstance, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _Applied:
    """What follows from a change that was stored."""

    follow_up: FollowUp = field(default_factory=FollowUp)
    gone: Sequence[PluginInstance] = ()


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
                    applied = await self._delete(change)
                else:
                    wanted = self._engine.secrets.decrypt(change.desired_encrypted)
                    applied = await self._put(change, wanted)
            except EngineError as error:
                await self._refuse(change, error)
                return
            except ApplicationError:
                raise
            except Exception as error:
                if is_outage(error) or not last_unforeseen_try():
                    raise
                log.exception("community not changed", community=change.community)
                await self._refuse(change, EngineError("The engine failed; see its log"))
                return
            log.info("community changed", community=change.community, change=change_id)
        else:
            applied = _Applied()
            if change.status == APPLIED:
                # A first try was cut off after its commit: reconciliation does what it left.
                await self._engine.schedules.start_reconciliation()
        if change.status != REFUSED:
            await self._follow_up(change.community, applied)

    async def _put(self, change: CommunityChange, wanted: dict[str, Any]) -> _Applied:
        with before_plugin_code():
            plan = await self._plan(change.community, wanted)
            await self._begin(change)
        await self._enable(plan)
        for instance, readable_name in plan.leaving:
            await self._disable(instance, readable_name)
        whole = "plugins" in wanted
        try:
            return await self._engine.database.persist(
                lambda session: self._store(session, change, plan, whole=whole)
            )
        except IntegrityError:
            # Another community was quicker, in a workflow of its own.
            for _, loaded in plan.fresh:
                await _call_on_disable(loaded)
            raise ConflictError(
                f"A plugin of community '{change.community}' is enabled for another community "
                "with the same community_platform_id"
            ) from None

    async def _begin(self, change: CommunityChange) -> None:
        """Note that plugins may be called from now on, unless they may have been before."""
        if not await communities.CHANGES.begin(self._engine.database, change):
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
            for _, old_config, _, loaded in plan.reconfigured:
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
            instance=instance.instance,
            community=sdk.Community(instance.community, readable_name),
            config=self._engine.secrets.decrypt(instance.config_encrypted),
            state=state,
            key=f"on_disable:{instance.id}",
        )
        await _call_on_disable(loaded)

    async def _store(
        self, session: AsyncSession, change: CommunityChange, plan: _Plan, *, whole: bool
    ) -> _Applied:
        row = await communities.lock_community(session, change.community)
        created = row is None if whole else bool(plan.fresh or plan.reconfigured)
        if row is None:
            if not whole:
                raise _no_community(change.community)
            row = Community(name=change.community)
            session.add(row)
            await session.flush()
        await communities.lock_instances(session, change.community)
        row.readable_name, row.updated_at = plan.readable_name, utc_now()
        follow_up = await self._end_processes(session, plan.gone)
        replaced = list(plan.replaced.values())
        await communities.delete_instances(session, [i.id for i in plan.gone] + replaced)
        await session.flush()
        for entry, loaded in plan.fresh:
            session.add(
                PluginInstance(
                    id=loaded.instance_id,
                    community=change.community,
                    plugin=entry.plugin,
                    instance=entry.instance,
                    position=entry.position,
                    config_encrypted=self._engine.secrets.encrypt(entry.config),
                    **_platform_id(entry),
                )
            )
            await session.flush()
            follow_up += FollowUp(await store_effects(self._engine, session, loaded))
            old_id = plan.replaced.get(entry.instance)
            if old_id is not None:
                for process in await processes.unfinished_of_instance(session, old_id):
                    process.instance_id = loaded.instance_id
                await webhooks.move_unhandled(session, old_id, loaded.instance_id)
        for instance, _, _, loaded in plan.reconfigured:
            stored = await session.get_one(PluginInstance, instance.id)
            stored.config_encrypted = self._engine.secrets.encrypt(dict(loaded.plugin.config))
            follow_up += FollowUp(await store_effects(self._engine, session, loaded))
        stay = plan.kept + [(instance, entry) for instance, _, entry, _ in plan.reconfigured]
        for instance, entry in stay:
            stored = await session.get_one(PluginInstance, instance.id)
            stored.position = entry.position
            for name, value in _platform_id(entry).items():
                setattr(stored, name, value)
        mark = await _begun(session, change)
        mark.status, mark.created, mark.desired_encrypted = APPLIED, created, None
        return _Applied(follow_up, plan.gone)

    async def _plan(self, community: str, wanted: dict[str, Any]) -> _Plan:
        """Compare what is with what is wanted."""
        engine = self._engine
        async with engine.database.read() as session:
            present = await communities.instances_of(session, community)
            states = {i.id: await communities.load_state(session, i.id) for i in present}
            row = await communities.get_community(session, community)
        called_now = row.readable_name if row else ""
        entries = {entry.instance: entry for entry in self._entries(community, present, wanted)}
        plan = _Plan(wanted.get("readable_name", called_now))
        await self._check_platform_ids(community, entries.values())
        facts = sdk.Community(community, plan.readable_name)
        # An instance of another plugin under the same name is another instance.
        there = {
            one.instance: one
            for one in present
            if one.instance in entries and entries[one.instance].plugin == one.plugin
        }
        plan.gone = [one for one in present if one.instance not in there]
        plan.leaving = [(instance, called_now) for instance in plan.gone]
        for name, entry in entries.items():
            instance = there.get(name)
            old = engine.secrets.decrypt(instance.config_encrypted) if instance else None
            if instance is not None and old == entry.config:
                plan.kept.append((instance, entry))
                continue
            keeps = hasattr(Registry.plugins[entry.plugin].cls, "on_config_change")
            stays = instance is not None and keeps
            instance_id = instance.id if instance is not None and stays else new_id()
            loaded = build_plugin(
                engine,
                instance_id=instance_id,
                plugin=entry.plugin,
                instance=name,
                community=facts,
                config=entry.config,
                state=states[instance_id] if stays else {},
                key=f"{'on_config_change' if stays else 'initialize'}:{instance_id}",
            )
            if instance is not None and stays:
                plan.reconfigured.append((instance, old or {}, entry, loaded))
            else:
                plan.fresh.append((entry, loaded))
                if instance is not None:
                    plan.replaced[name] = instance.id
                    plan.leaving.append((instance, called_now))
        return plan

    def _entries(
        self, community: str, present: Sequence[PluginInstance], wanted: dict[str, Any]
    ) -> list[_Entry]:
        """The instances that are wanted: all are named, or one that comes or goes."""
        if "plugins" in wanted:
            items = wanted["plugins"]
        else:
            items = [
                {
                    "name": one.plugin,
                    "instance": one.instance,
                    "config": self._engine.secrets.decrypt(one.config_encrypted),
                }
                for one in present
                if one.id != wanted.get("without")
            ]
            if "without" in wanted and len(items) == len(present):
                raise ResourceNotFoundError(
                    f"No plugin instance {wanted['without']} in community '{community}'"
                )
            if "with" in wanted:
                names = [item["instance"] for item in items]
                entry = wanted["with"]
                at = names.index(entry["instance"]) if entry["instance"] in names else len(items)
                items[at : at + 1] = [entry]
        return [
            # What was asked for before an instance had a name of its own has its plugin's.
            _Entry(item["name"], item.get("instance", item["name"]), item["config"], position)
            for position, item in enumerate(items)
        ]

    async def _check_platform_ids(self, community: str, entries: Iterable[_Entry]) -> None:
        """Refuse what another community or instance has, before a plugin is called for it."""
        here = set[tuple[str, str]]()
        for entry in entries:
            facts = _platform_id(entry)
            if not facts.get("exclusive"):
                continue
            found = (entry.plugin, facts["community_platform_id"])
            if found in here:
                raise ConflictError(
                    f"Plugin '{entry.plugin}' is enabled twice with community_platform_id "
                    f"'{found[1]}'"
                )
            here.add(found)
            async with self._engine.database.read() as session:
                others = await communities.instances_of_plugin(session, entry.plugin)
            for other in others:
                config = self._engine.secrets.decrypt(other.config_encrypted)
                theirs = sdk.platform_id(Registry.plugins[entry.plugin].cls, config)
                if other.community != community and theirs == found[1]:
                    raise ConflictError(
                        f"Plugin '{entry.plugin}' is enabled for another community with "
                        f"community_platform_id '{theirs}'"
                    )

    async def _delete(self, change: CommunityChange) -> _Applied:
        with before_plugin_code():
            async with self._engine.database.read() as session:
                community = await communities.get_community(session, change.community)
                leaving = await communities.instances_of(session, change.community)
            await self._begin(change)
        for instance in leaving:
            await self._disable(instance, community.readable_name if community else "")

        async def store(session: AsyncSession) -> _Applied:
            row = await communities.lock_community(session, change.community)
            if row is None:
                raise _no_community(change.community)
            instances = await communities.lock_instances(session, change.community)
            follow_up = await self._end_processes(session, instances)
            await communities.delete_instances(session, [i.id for i in instances])
            await session.delete(row)
            (await _begun(session, change)).status = APPLIED
            return _Applied(follow_up, instances)

        return await self._engine.database.persist(store)

    async def _end_processes(
        self, session: AsyncSession, instances: Sequence[PluginInstance]
    ) -> FollowUp:
        follow_up = FollowUp()
        for instance in instances:
            for process in await processes.unfinished_of_instance(session, instance.id):
                if process.status == COMPLETED:
                    continue  # It has just ended with the one that started it.
                disabled = {
                    "code": "plugin_disabled",
                    "message": f"Plugin '{instance.plugin}' was disabled for community "
                    f"'{instance.community}' while the process was pending",
                }
                follow_up += await complete(session, process, disabled)
                follow_up += FollowUp(ended=[process.id])
        return follow_up

    async def _refuse(self, change: CommunityChange, error: EngineError) -> None:

        async def refuse(session: AsyncSession) -> None:
            mark = await session.get_one(CommunityChange, change.id, with_for_update=True)
            if mark.status not in (ACCEPTED, APPLYING):
                return
            # Whatever `initialize` fails of is reported as the plugin's failure: 502. Only
            # credentials that do not work are the request's own fault.
            reason = describe(error) | ({"status": 502} if error.status == 500 else {})
            reason |= {"status": 400} if isinstance(error, AuthenticationError) else {}
            mark.status, mark.error, mark.desired_encrypted = REFUSED, reason, None

        await self._engine.database.persist(refuse)
        log.warning(
            "community not changed",
            community=change.community,
            kind=error.kind,
            detail=error.detail,
        )

    async def _follow_up(self, community: str, applied: _Applied) -> None:
        """Bring Temporal in line with the database."""
        await hand_over(self._engine, community, applied.follow_up)
        wanted = {task.id: task for task in await tasks_of(self._engine, community)}
        for task in wanted.values():
            await self._engine.schedules.schedule_task(task)
        await poll_together(self._engine, community)
        for instance in applied.gone:
            plugin = Registry.plugins.get(instance.plugin)
            for slug in plugin.tasks if plugin else ():
                schedule = task_schedule_id(community, instance.instance, slug)
                if schedule not in wanted:
                    await self._engine.schedules.unschedule_task(schedule)


def _no_community(name: str) -> ResourceNotFoundError:
    return ResourceNotFoundError(f"Community '{name}' not found")


def _platform_id(entry: _Entry) -> dict[str, Any]:
    """The columns for the platform's own id of the community."""
    declaration = Registry.plugins.get(entry.plugin)
    if declaration is None:
        return {}
    found = sdk.platform_id(declaration.cls, entry.config)
    exclusive = declaration.cls.community_platform_id_unique and found is not None
    return {"community_platform_id": found, "exclusive": exclusive or None}


async def _begun(session: AsyncSession, change: CommunityChange) -> CommunityChange:
    """Lock the change's row; OutcomeUnknownError if another try has ended it."""
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
    """Refuse changes whose request died before Temporal had them; gives how many."""
    async with engine.database.write() as session:
        abandoned = await communities.changes_before(session, utc_now() - ABANDONED_AFTER)
        for change in abandoned:
            never = describe(UnavailableError("The change was never applied; ask again"))
            if not await communities.withdraw_change(engine.database, session, change.id, never):
                unknown = OutcomeUnknownError("The change was begun, and never ended")
                await communities.refuse_change(session, change.id, describe(unknown))
            log.warning("change withdrawn", community=change.community, change=change.id)
    return len(abandoned)


async def note_platform_ids(engine: Engine) -> int:
    """Note the platforms' ids of communities that were enabled without; gives how many."""
    async with engine.database.read() as session:
        instances = await communities.all_instances(session)
    noted = 0
    for instance in instances:
        plugin = Registry.plugins.get(instance.plugin)
        if plugin is None or plugin.cls.community_platform_id_key is None:
            continue
        if instance.community_platform_id is None:
            config = engine.secrets.decrypt(instance.config_encrypted)
            found = sdk.platform_id(plugin.cls, config)
            if found is not None and len(found) <= PLATFORM_ID_MAX_LENGTH:
                noted += await communities.note_platform_id(engine.database, instance, found)
    return noted


async def tasks_of(engine: Engine, community: str | None = None) -> list[TaskSchedule]:
    """The schedules that there should be: one for each task of each plugin instance."""
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
            instance=instance.instance,
            task=task.slug,
            instance_id=instance.id,
            every_seconds=task.every_seconds or engine.settings.task_interval_seconds,
        )
        for instance in instances
        if instance.plugin in Registry.plugins
        for task in Registry.plugins[instance.plugin].tasks.values()
    ]
