"""Which plugins there are, and which of them a community has enabled."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, status

from api.dependencies import (
    CommunityHeader,
    EngineDependency,
    IdempotencyKeyHeader,
    JsonObject,
)
from api.problems import problem_responses
from engine.errors import ResourceNotFoundError
from engine.requests import communities
from engine.requests.communities import ShownPlugin
from engine.resources import Engine
from engine.sdk.registry import PluginDeclaration, Registry

router = APIRouter(prefix="/api/internal", tags=["plugins"])

CONFIG = {"type": "object", "description": "The config, as the plugin's `config_schema` has it."}


@router.get("/plugins", summary="List the registered plugins")
async def list_plugins(engine: EngineDependency) -> dict[str, Any]:
    """Every registered plugin with its schemas, whether it uses webhooks, and its tasks."""
    plugins = sorted(Registry.plugins.values(), key=lambda item: item.name)
    return {"plugins": [_described(engine, plugin) for plugin in plugins]}


@router.get("/plugin-schemas", summary="List the schemas of all plugins' configs")
async def list_config_schemas() -> dict[str, Any]:
    """The schema of the config of every registered plugin, by the plugin's name."""
    return {name: plugin.config_schema for name, plugin in sorted(Registry.plugins.items())}


@router.get(
    "/plugin/{name}/metadata",
    summary="Read what a plugin is",
    responses=problem_responses(404),
)
async def get_metadata(name: str, engine: EngineDependency) -> dict[str, Any]:
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
        200: {"description": "It was enabled with this config already"},
        **problem_responses(400, 409, 413, 415, 422, 502, 503, 504),
    },
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": CONFIG}}}},
)
async def enable_plugin(
    name: str,
    config: JsonObject,
    engine: EngineDependency,
    response: Response,
    community: CommunityHeader = None,
    instance: Annotated[
        str | None, Query(description="Name of the instance; default: the plugin's.")
    ] = None,
    idempotency_key: IdempotencyKeyHeader = None,
) -> ShownPlugin:
    """Other plugins of the community are left alone; 201 if the instance was made, or made anew."""
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
async def disable_plugin(name: str, instance_id: str, engine: EngineDependency) -> None:
    """Pending processes end with ``plugin_disabled``; other instances are left alone."""
    await communities.disable(engine, name, instance_id)


def _described(engine: Engine, plugin: PluginDeclaration) -> dict[str, Any]:
    default = engine.settings.task_interval_seconds
    return {
        "name": plugin.name,
        "description": plugin.cls.description,
        "auth_type": plugin.cls.auth_type,
        "community_platform_id_key": plugin.cls.community_platform_id_key,
        "config_schema": plugin.config_schema,
        "uses_webhooks": plugin.uses_webhooks,
        "actions": describe_actions(plugin),
        "processes": describe_processes(plugin),
        "events": describe_events(plugin),
        "tasks": [
            {"name": task.slug, "every_seconds": task.every_seconds or default}
            for task in plugin.tasks.values()
        ],
    }


def describe_actions(plugin: PluginDeclaration) -> list[dict[str, Any]]:
    """A plugin's actions as drivers read them.

    Args:
        plugin: The plugin.

    Returns:
        One description for each action.
    """
    return [
        {
            "id": f"{plugin.name}.{action.slug}",
            "description": action.description,
            "parameters_schema": action.input_schema or {},
            "response_schema": action.output_schema or {},
            "is_public": action.is_public,
        }
        for action in plugin.actions.values()
    ]


def describe_processes(plugin: PluginDeclaration) -> list[dict[str, Any]]:
    """A plugin's processes as drivers read them.

    Args:
        plugin: The plugin.

    Returns:
        One description for each process.
    """
    return [
        {
            "id": process.name,
            "description": process.cls.description,
            "parameters_schema": process.input_schema or {},
            "response_schema": process.cls.outcome_schema or {},
            "can_close": process.can_close,
        }
        for process in plugin.processes.values()
    ]


def describe_events(plugin: PluginDeclaration) -> list[dict[str, Any]]:
    """The events that a plugin declares.

    Args:
        plugin: The plugin.

    Returns:
        One description for each event.
    """
    return [
        {"event_type": item["type"], "source": plugin.name, "schema": item.get("schema", {})}
        for item in plugin.event_schemas
    ]
