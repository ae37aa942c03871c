"""Which plugins there are, and which of them a community has enabled."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, status
from pydantic import BaseModel, Field

from api.dependencies import (
    CommunityHeader,
    EngineDependency,
    IdempotencyKeyHeader,
    InstanceHeader,
    SentObject,
)
from api.problems import problem_responses
from engine.errors import BadRequestError, ResourceNotFoundError
from engine.requests import communities
from engine.requests.communities import ShownPlugin
from engine.resources import Engine
from engine.sdk.registry import PluginDeclaration, Registry

router = APIRouter(prefix="/api/internal", tags=["plugins"])

CONFIG = {"type": "object", "description": "The config, as the plugin's `config_schema` has it."}


class ActionShown(BaseModel):
    """An action that a plugin offers."""

    id: Annotated[str, Field(examples=["loomio.create-discussion"])]
    description: str
    parameters_schema: dict[str, Any]
    response_schema: dict[str, Any]
    is_public: bool


class ProcessShown(BaseModel):
    """A governance process that a plugin offers."""

    id: Annotated[str, Field(examples=["loomio.poll"])]
    description: str
    parameters_schema: dict[str, Any]
    response_schema: dict[str, Any]
    can_close: bool


class EventShown(BaseModel):
    """An event that a plugin declares."""

    event_type: str
    source: str
    event_schema: Annotated[dict[str, Any], Field(alias="schema")]


class TaskShown(BaseModel):
    """A task that a plugin does on a schedule."""

    name: str
    every_seconds: int | float


class PluginShown(BaseModel):
    """A registered plugin."""

    name: str
    description: str
    auth_type: str | None
    community_platform_id_key: str | None
    config_schema: dict[str, Any]
    uses_webhooks: bool
    actions: list[ActionShown]
    processes: list[ProcessShown]
    events: list[EventShown]
    tasks: list[TaskShown]


class PluginList(BaseModel):
    """The registered plugins."""

    plugins: list[PluginShown]


@router.get("/plugins", summary="List the registered plugins")
async def list_plugins(engine: EngineDependency) -> PluginList:
    """Every registered plugin with its schemas, whether it uses webhooks, and its tasks."""
    plugins = sorted(Registry.plugins.values(), key=lambda item: item.name)
    return PluginList(plugins=[_described(engine, plugin) for plugin in plugins])


@router.get("/plugin-schemas", summary="List the schemas of all plugins' configs")
async def list_config_schemas() -> dict[str, dict[str, Any]]:
    """The schema of the config of every registered plugin, by the plugin's name."""
    return {name: dict(plugin.config_schema) for name, plugin in sorted(Registry.plugins.items())}


@router.get(
    "/plugin/{name}/metadata",
    summary="Read what a plugin is",
    responses=problem_responses(404),
)
async def get_metadata(name: str, engine: EngineDependency) -> PluginShown:
    """The same as in the list of plugins."""
    plugin = Registry.plugins.get(name)
    if plugin is None:
        raise ResourceNotFoundError(f"No such plugin registered: {name:.128}")
    return _described(engine, plugin)


@router.post(
    "/plugin/{name}",
    status_code=201,
    summary="Enable a plugin for a community, or change its config",
    responses={
        200: {
            "description": "It was enabled with this config already",
            "model": ShownPlugin,
        },
        **problem_responses(400, 409, 413, 415, 422, 502, 503, 504),
    },
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": CONFIG}}}},
)
async def enable_plugin(
    name: str,
    config: SentObject,
    engine: EngineDependency,
    response: Response,
    community: CommunityHeader = None,
    instance: Annotated[
        str | None, Query(description="Name of the instance; default: the plugin's.")
    ] = None,
    named: InstanceHeader = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> ShownPlugin:
    """Other plugins of the community are left alone; 201 if the instance was made, or made anew."""
    if instance is not None and named is not None and instance != named:
        raise BadRequestError(
            f"X-Metagov-Instance is '{named:.64}', and the query's instance '{instance:.64}'"
        )
    instance = named if instance is None else instance
    shown, made = await communities.enable(
        engine, community, name, instance, config, idempotency_key
    )
    response.status_code = status.HTTP_201_CREATED if made else status.HTTP_200_OK
    return shown


@router.delete(
    "/plugin/{name}/{instance_id}",
    status_code=204,
    summary="Disable a plugin instance",
    responses=problem_responses(404, 503, 504),
)
async def disable_plugin(
    name: str, instance_id: str, engine: EngineDependency, community: CommunityHeader = None
) -> None:
    """Pending processes end with ``plugin_disabled``; other instances are left alone."""
    await communities.disable(engine, community, name, instance_id)


def _described(engine: Engine, plugin: PluginDeclaration) -> PluginShown:
    default = engine.settings.task_interval_seconds
    return PluginShown(
        name=plugin.name,
        description=plugin.cls.description,
        auth_type=plugin.cls.auth_type,
        community_platform_id_key=plugin.cls.community_platform_id_key,
        config_schema=dict(plugin.config_schema),
        uses_webhooks=plugin.uses_webhooks,
        actions=describe_actions(plugin),
        processes=describe_processes(plugin),
        events=describe_events(plugin),
        tasks=[
            TaskShown(name=task.slug, every_seconds=task.every_seconds or default)
            for task in plugin.tasks.values()
        ],
    )


def describe_actions(plugin: PluginDeclaration) -> list[ActionShown]:
    """A plugin's actions as drivers read them.

    Args:
        plugin: The plugin.

    Returns:
        One description for each action.
    """
    return [
        ActionShown(
            id=f"{plugin.name}.{action.slug}",
            description=action.description,
            parameters_schema=dict(action.input_schema or {}),
            response_schema=dict(action.output_schema or {}),
            is_public=action.is_public,
        )
        for action in plugin.actions.values()
    ]


def describe_processes(plugin: PluginDeclaration) -> list[ProcessShown]:
    """A plugin's processes as drivers read them.

    Args:
        plugin: The plugin.

    Returns:
        One description for each process.
    """
    return [
        ProcessShown(
            id=process.name,
            description=process.cls.description,
            parameters_schema=dict(process.input_schema or {}),
            response_schema=dict(process.cls.outcome_schema or {}),
            can_close=process.can_close,
        )
        for process in plugin.processes.values()
    ]


def describe_events(plugin: PluginDeclaration) -> list[EventShown]:
    """The events that a plugin declares.

    Args:
        plugin: The plugin.

    Returns:
        One description for each event.
    """
    return [
        EventShown.model_validate(
            {
                "event_type": item["type"],
                "source": plugin.name,
                "schema": dict(item.get("schema", {})),
            }
        )
        for item in plugin.event_schemas
    ]
