"""Which plugins there are, and which of them a community has enabled."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.dependencies import EngineDependency
from engine.sdk.registry import PluginDeclaration, Registry

router = APIRouter(prefix="/api/internal", tags=["plugins"])


@router.get("/plugins", summary="List the registered plugins")
async def list_plugins(engine: EngineDependency) -> dict[str, Any]:
    """Every registered plugin with its schemas, whether it uses webhooks, and its tasks."""
    default = engine.settings.task_interval_seconds
    return {
        "plugins": [
            {
                "name": plugin.name,
                "description": plugin.cls.description,
                "auth_type": plugin.cls.auth_type,
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
            for plugin in sorted(Registry.plugins.values(), key=lambda item: item.name)
        ]
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
