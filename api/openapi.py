"""OpenAPI: one operation for every action and process of the loaded plugins."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import PROBLEM_SCHEMA, problem_responses
from engine.sdk.registry import ActionDeclaration, ProcessDeclaration, Registry

COMMUNITY_HEADER = {
    "name": "X-Metagov-Community",
    "in": "header",
    "required": True,
    "description": "Name of the community.",
    "schema": {"type": "string"},
    "example": "my-community-1234",
}
INSTANCE_HEADER = {
    "name": "X-Metagov-Instance",
    "in": "header",
    "required": False,
    "description": "Name of the plugin instance, where the community has several of the plugin.",
    "schema": {"type": "string"},
}
PLATFORM_ID = {
    "type": "string",
    "description": "The platform's own id of the community, which chooses an instance as well.",
}
PLATFORM_ID_QUERY = {
    "name": "community_platform_id",
    "in": "query",
    "required": False,
    "schema": PLATFORM_ID,
}
IDEMPOTENCY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same body gives the first request's answer, and the "
    "call is made once.",
    "schema": {"type": "string", "maxLength": 255},
}
PROCESS_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "The process' id.",
}
WAIT = {
    "name": "wait",
    "in": "query",
    "required": False,
    "schema": {"type": "number", "minimum": 0, "maximum": 60, "default": 0},
    "description": "Seconds to wait for its completion.",
}
_TIME = {"type": "string", "format": "date-time"}
_TIME_OR_NULL = {"type": ["string", "null"], "format": "date-time"}
RECORD_SCHEMA: dict[str, Any] = {
    "title": "ProcessRecord",
    "description": "A governance process.",
    "type": "object",
    "required": ["id", "name", "community", "status", "errors", "outcome", "created_at"],
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string", "examples": ["loomio.poll"]},
        "community": {"type": "string"},
        "instance": {"type": "string", "description": "The plugin instance that runs it."},
        "community_platform_id": {"type": ["string", "null"]},
        "status": {"enum": ["created", "pending", "completed"]},
        "errors": {"description": "What went wrong, if anything."},
        "outcome": {"description": "The outcome so far."},
        "url": {"type": ["string", "null"], "description": "Where people find it."},
        "created_at": _TIME,
        "updated_at": _TIME,
        "completed_at": _TIME_OR_NULL,
        "closing_at": _TIME_OR_NULL,
    },
}


def install_openapi(app: FastAPI) -> None:
    """Add the loaded plugins to an application's OpenAPI document.

    Args:
        app: The application.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = PROBLEM_SCHEMA
            schemas["ProcessRecord"] = RECORD_SCHEMA
            for plugin in Registry.plugins.values():
                for action in plugin.actions.values():
                    document["paths"].update(_action_paths(plugin.name, action))
                for process in plugin.processes.values():
                    document["paths"].update(_process_paths(process))
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _action_paths(plugin: str, action: ActionDeclaration) -> dict[str, Any]:
    name = f"{plugin}.{action.slug}"
    parameters = _inline(action.input_schema) or {"type": "object"}
    properties = {"parameters": parameters, "community_platform_id": PLATFORM_ID}
    body: dict[str, Any] = {"type": "object", "properties": properties}
    if parameters.get("required"):
        body["required"] = ["parameters"]
    operation = {
        "tags": [f"{plugin}: actions"],
        "operationId": f"perform {name}",
        "summary": action.description or name,
        "parameters": [COMMUNITY_HEADER, INSTANCE_HEADER, PLATFORM_ID_QUERY, IDEMPOTENCY_HEADER],
        "requestBody": {
            "required": bool(parameters.get("required")),
            "content": {
                "application/json": {
                    "schema": body,
                    "example": {"parameters": example_of(parameters)},
                }
            },
        },
        "responses": {
            "200": {
                "description": "What the action returned; an empty body if it returns nothing.",
                "content": {"application/json": {"schema": _inline(action.output_schema) or {}}},
            },
            **_problems(400, 404, 413, 415, 422, 500, 502, 503, 504),
        },
    }
    paths = {f"/api/internal/action/{name}": {"post": operation}}
    if action.is_public:
        public = {**operation, "operationId": f"perform {name} publicly"}
        paths[f"/api/action/{name}"] = {"post": public}
    return paths


def _process_paths(process: ProcessDeclaration) -> dict[str, Any]:
    tags = [f"{process.plugin}: processes"]
    record: dict[str, Any] = {"$ref": "#/components/schemas/ProcessRecord"}
    if process.cls.outcome_schema:
        outcome = _inline(process.cls.outcome_schema)
        record = {"allOf": [record, {"type": "object", "properties": {"outcome": outcome}}]}
    content = {"application/json": {"schema": record}}
    body = _inline(process.input_schema) or {"type": "object"}
    body.setdefault("type", "object")
    body["properties"] = {
        "callback_url": {
            "type": "string",
            "format": "uri",
            "description": "Where the record is POSTed when the outcome changes and at the end.",
        },
        "community_platform_id": PLATFORM_ID,
        **body.get("properties", {}),
    }
    parameters = {"type": "object", **(process.input_schema or {})}
    example = {"callback_url": "https://driver.example/outcome/4", **example_of(parameters)}
    start = {
        "tags": tags,
        "operationId": f"start {process.name}",
        "summary": f"Start {process.name}",
        "description": process.cls.description,
        "parameters": [COMMUNITY_HEADER, INSTANCE_HEADER, PLATFORM_ID_QUERY, IDEMPOTENCY_HEADER],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": example}},
        },
        "responses": {
            "202": {
                "description": "Started; `Location` is its URL.",
                "headers": {"Location": {"schema": {"type": "string"}}},
                "content": content,
            },
            **_problems(400, 404, 413, 415, 422, 500, 502, 503, 504),
        },
    }
    read = {
        "tags": tags,
        "operationId": f"read {process.name}",
        "summary": f"Read a {process.name}",
        "parameters": [PROCESS_ID, WAIT],
        "responses": {
            "200": {"description": "The record.", "content": content},
            **_problems(400, 404),
        },
    }
    close = {
        "tags": tags,
        "operationId": f"close {process.name}",
        "summary": f"Close a {process.name}",
        "parameters": [PROCESS_ID],
        "responses": {
            "200": {"description": "The completed record.", "content": content},
            **_problems(400, 404, 405, 500, 502, 503, 504),
        },
    }
    if not process.can_close:
        close["description"] = "This process does not support it: the answer is 405."
    return {
        f"/api/internal/process/{process.name}": {"post": start},
        f"/api/internal/process/{process.name}/{{id}}": {"get": read, "delete": close},
    }


def example_of(schema: Any) -> Any:
    """Make an example of a document from its schema.

    Args:
        schema: JSON Schema.

    Returns:
        Its own example or default where it has one, else a plain value of its type.
    """
    if not isinstance(schema, dict):
        return None
    for name in ("example", "default", "const"):
        if name in schema:
            return schema[name]
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    kind = schema.get("type")
    if "properties" in schema or kind == "object":
        properties = schema.get("properties", {})
        chosen = schema.get("required") or list(properties)
        return {name: example_of(properties[name]) for name in chosen if name in properties}
    if kind == "array":
        return [example_of(schema.get("items", {}))]
    if schema.get("format") == "date":
        return "2027-01-01"
    if schema.get("format") == "date-time":
        return "2027-01-01T12:00:00Z"
    plain: dict[Any, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True}
    return plain.get(kind if isinstance(kind, str) else "string")


def _inline(schema: Any) -> dict[str, Any]:
    return deepcopy(dict(schema)) if schema else {}


def _problems(*statuses: int) -> dict[str, Any]:
    return {str(status): value for status, value in problem_responses(*statuses).items()}
