"""Writes the tables of plugins' pages from what the plugins declare."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.sdk.registry import PluginDeclaration, ProcessDeclaration

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
_TABLES = re.compile(f"{BEGIN}.*?{END}", re.DOTALL)
_BY_TYPE = {"string": "...", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}

Schema = Mapping[str, Any]


def refresh(page: Path, plugin: PluginDeclaration) -> bool:
    """Bring the tables of a Markdown page up to date; whether it was changed."""
    text = page.read_text()
    if not _TABLES.search(text):
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    tables = f"{BEGIN}\n{render(plugin)}\n{END}"
    fresh = _TABLES.sub(lambda _: tables, text)
    if fresh == text:
        return False
    page.write_text(fresh)
    return True


def render(plugin: PluginDeclaration) -> str:
    """Write a plugin's config, actions, events and processes as Markdown tables."""
    return "\n\n".join(
        part
        for part in (
            _section("## Config", _properties(plugin.config_schema)),
            _section("## Actions", _actions(plugin)),
            _section("## Events", _events(plugin)),
            *(_process(process) for process in plugin.processes.values()),
        )
        if part
    )


def _section(heading: str, table: str) -> str:
    return f"{heading}\n\n{table}" if table else ""


def _actions(plugin: PluginDeclaration) -> str:
    rows = [
        (
            f"`{plugin.name}.{action.slug}`",
            action.description,
            _names(action.input_schema or {}),
            _names(action.output_schema or {}, plain=True),
            render_example(action.input_schema or {}),
        )
        for action in plugin.actions.values()
    ]
    heads = ("action", "does", "parameters (needed ones bold)", "returns", "example of parameters")
    return _table(heads, rows)


def _events(plugin: PluginDeclaration) -> str:
    schemas = list(plugin.receiver.event_schemas) if plugin.receiver else []
    for task in plugin.tasks.values():
        schemas += task.event_schemas
    rows = {
        schema["type"]: (f"`{schema['type']}`", _names(schema.get("schema") or {}, plain=True))
        for schema in schemas
    }
    return _table(("event", "data"), list(rows.values()))


def _process(process: ProcessDeclaration) -> str:
    given, outcome = process.cls.input_schema or {}, process.cls.outcome_schema or {}
    parts = (
        f"## Process `{process.name}`",
        process.cls.description,
        _properties(given),
        f"Example of parameters: {render_example(given)}",
        _section("The outcome:", _properties(outcome)),
    )
    return "\n\n".join(part for part in parts if part)


def _properties(schema: Schema) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            f"**`{name}`**" if name in needed else f"`{name}`",
            _type(part),
            f"`{json.dumps(part['default'], ensure_ascii=False)}`" if "default" in part else "",
            part.get("description", ""),
        )
        for name, part in schema.get("properties", {}).items()
    ]
    return _table(("property (needed ones bold)", "type", "default", "meaning"), rows)


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    kinds = " or ".join(kind) if isinstance(kind, list) else kind
    if kind == "array" and schema.get("items"):
        return f"array of {_type(schema['items'])}"
    limits = {"minimum": "from", "maximum": "to"}
    bounds = [f"{word} {schema[key]}" for key, word in limits.items() if key in schema]
    return " ".join([kinds, *bounds])


def _names(schema: Schema, plain: bool = False) -> str:
    needed = () if plain else schema.get("required", ())
    names = schema.get("properties", {})
    return ", ".join(f"**`{name}`**" if name in needed else f"`{name}`" for name in names)


def render_example(schema: Schema) -> str:
    """Write the parameters that are needed, the first way where there are several, as JSON."""
    if schema.get("examples"):
        return f"`{json.dumps(schema['examples'][0], ensure_ascii=False)}`"
    wanted = dict.fromkeys(schema.get("required", ()))
    for one in (schema.get("oneOf") or [])[:1]:
        wanted |= dict.fromkeys(one.get("required", ()))
    properties = schema.get("properties", {})
    shown = {name: _value(properties.get(name, {})) for name in wanted}
    return f"`{json.dumps(shown, ensure_ascii=False)}`"


def _value(schema: Schema) -> Any:
    for given in (schema.get("examples"), schema.get("enum")):
        if given:
            return given[0]
    kind = schema.get("type", "string")
    if kind == "array":
        return [_value(schema.get("items", {}))]
    return schema.get("default", _BY_TYPE[kind if isinstance(kind, str) else kind[0]])


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    return "\n".join(_lines(heads, rows))


def _lines(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"
