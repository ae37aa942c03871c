"""Children: the processes that a process starts, and what it is given when one ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from engine.errors import PluginCodeError
from engine.sdk.parameters import fill_defaults, json_safe, validate

_CHILDREN = UUID("5d0b6d0c-3f0a-4b8e-9c55-7a3f4a1e2b90")


@dataclass(frozen=True)
class Child:
    """A process that a process started, as it has ended: given to ``child_completed``.

    Attributes:
        id: Its id, as ``start_process`` returned it.
        name: ``{plugin}.{slug}``.
        status: ``completed``.
        outcome: Its outcome.
        errors: What went wrong; empty if nothing did.
        url: Where people find it on its platform.
        created_at: When it was started.
        completed_at: When it ended.
    """

    id: str
    name: str
    status: str
    outcome: Any
    errors: Any
    url: str | None
    created_at: datetime
    completed_at: datetime


@dataclass(frozen=True)
class ChildLimits:
    """How many children there may be.

    Attributes:
        most: Of one process, that have not ended.
        levels: Below a process that a driver started.
        parameters_max_bytes: Largest parameters of one, as bytes of JSON.
    """

    most: int = 20
    levels: int = 5
    parameters_max_bytes: int = 1_048_576


@dataclass(frozen=True)
class NewChild:
    """A child that a call asked for, checked as far as that is possible without the database.

    Attributes:
        id: Its id.
        plugin: Its plugin's name.
        slug: Its slug.
        parameters: Plain data that fits its schema, defaults filled in.
        instance: Which of its plugin's instances runs it, if that was said.
        ends_with_parent: Whether it is ended when its parent ends.
    """

    id: str
    plugin: str
    slug: str
    parameters: dict[str, Any]
    instance: str | None
    ends_with_parent: bool

    @property
    def name(self) -> str:
        """``{plugin}.{slug}``."""
        return f"{self.plugin}.{self.slug}"


class Children:
    """The children that a process has started, and those that this call asks for.

    Args:
        call: What the call is known by, the same on every try.
        level: How many levels it is below a process that a driver started.
        before: How many children it has started in earlier calls.
        limits: How many there may be.

    Attributes:
        asked: Those that this call asks for.
    """

    def __init__(self, call: str, level: int, before: int, limits: ChildLimits) -> None:
        self._call = call
        self._level = level
        self._before = before
        self._limits = limits
        self.asked: list[NewChild] = []

    def start(
        self,
        name: str,
        parameters: Mapping[str, Any] | None,
        instance: str | None,
        *,
        ends_with_parent: bool,
    ) -> str:
        """Ask for a child.

        Args:
            name: ``{plugin}.{slug}``.
            parameters: Its parameters.
            instance: Which of its plugin's instances runs it.
            ends_with_parent: Whether it is ended when its parent ends.

        Returns:
            Its id: the same on every try of this call.

        Raises:
            PluginCodeError: There is no such process, the parameters do not fit its schema, or
                there are too many children.
        """
        what = f"start_process({name!r:.140})"
        if self._level >= self._limits.levels:
            raise PluginCodeError(
                f"{what}: this process is {self._level} levels below the one that a driver "
                f"started; allowed are {self._limits.levels} levels of children"
            )
        if len(self.asked) >= self._limits.most:
            raise PluginCodeError(
                f"{what}: a process may have {self._limits.most} children that have not ended, "
                "and this call has started so many"
            )
        plugin, slug, schema = _declared(what, name)
        filled = _filled(what, parameters, schema, self._limits.parameters_max_bytes)
        # The tries of a poll are calls of one name. Each is stored only if the process is as it was
        # read, so none takes another's number.
        number = self._before + len(self.asked) + 1
        child_id = str(uuid5(_CHILDREN, f"{self._call} {number}"))
        child = NewChild(child_id, plugin, slug, filled, instance, bool(ends_with_parent))
        self.asked.append(child)
        return child_id


def _declared(what: str, name: str) -> tuple[str, str, Mapping[str, Any]]:
    """Plugin, slug and input schema of a process."""
    # The registry is made of the classes that this module serves.
    from engine.sdk.registry import Registry

    plugin, _, slug = name.partition(".") if isinstance(name, str) else ("", "", "")
    declaration = Registry.plugins.get(plugin)
    process = declaration.processes.get(slug) if declaration is not None else None
    if process is None:
        some = [declaration] if declaration is not None else Registry.plugins.values()
        known = ", ".join(sorted(one.name for each in some for one in each.processes.values()))
        raise PluginCodeError(f"{what}: there is no such process; there are: {known or 'none'}")
    return plugin, slug, process.input_schema or {}


def _filled(
    what: str, parameters: Mapping[str, Any] | None, schema: Mapping[str, Any], most: int
) -> dict[str, Any]:
    """Parameters as they are stored: plain data that fits the schema, defaults filled in."""
    if not isinstance(parameters, Mapping | None):
        raise PluginCodeError(
            f"{what}: its parameters must be a dict, not {type(parameters).__name__}"
        )
    try:
        filled = fill_defaults(json_safe(parameters or {}), schema)
    except PluginCodeError as error:
        raise PluginCodeError(f"{what}: its parameters hold what JSON cannot: {error}") from None
    size = len(json.dumps(filled))
    if size > most:
        raise PluginCodeError(
            f"{what}: its parameters are {size} bytes of JSON; allowed are {most}"
        )
    violations = validate(filled, schema) if schema else []
    if violations:
        places = "; ".join(f"{v.path or '/'}: {v.message}" for v in violations[:5])
        raise PluginCodeError(f"{what}: its parameters do not fit its input_schema: {places}")
    return filled
