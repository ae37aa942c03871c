"""Registry: the decorators that make classes and methods known, and their checks at import."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, overload

from engine.errors import PluginCodeError, RegistrationError
from engine.sdk.arguments import signature_problem, takes
from engine.sdk.parameters import check_schema
from engine.sdk.plugin import Plugin
from engine.sdk.process import GovernanceProcess, as_seconds

PluginClass = TypeVar("PluginClass", bound=type[Plugin])
ProcessClass = TypeVar("ProcessClass", bound=type[GovernanceProcess])
Method = TypeVar("Method", bound=Callable[..., Any])
Schema = Mapping[str, Any]

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SLUG_RULE = "1 to 64 lower-case letters, digits, dashes and underscores, a letter or digit first"
MARK = "__metagov_declaration__"
# The package under which plugins of ``METAGOV_PLUGIN_PATH`` are imported.
OWN_PLUGINS = "metagov_plugins"
PROCESS_METHODS = frozenset(
    {
        "start",
        "close",
        "update",
        "update_many",
        "receive_webhook",
        "find_started",
        "child_completed",
    }
)
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|min|h|day)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "day": 86400.0}


@dataclass(frozen=True)
class ActionDeclaration:
    """A method that drivers can call.

    Attributes:
        slug: Its name in the URL.
        method: The method's name.
        description: For the API's documentation.
        input_schema: JSON Schema of the parameters, if declared.
        output_schema: JSON Schema of the return value, if declared.
        is_public: Whether it also stands at the public path.
        idempotent: Whether it may be called again when a first try's effect is not known.
    """

    slug: str
    method: str
    description: str
    input_schema: Schema | None
    output_schema: Schema | None
    is_public: bool
    idempotent: bool


@dataclass(frozen=True)
class ReceiverDeclaration:
    """The method that receives a plugin's webhooks.

    Attributes:
        method: The method's name.
        event_schemas: ``{"type", "schema"}`` of the events that it sends.
    """

    method: str
    event_schemas: tuple[Schema, ...]


@dataclass(frozen=True)
class TaskDeclaration:
    """A method that is called on a schedule to produce events.

    Attributes:
        slug: Its name in schedules: the method's, with dashes.
        method: The method's name.
        every_seconds: Time between two runs; None: the engine's default.
        event_schemas: ``{"type", "schema"}`` of the events that it sends.
    """

    slug: str
    method: str
    every_seconds: float | None
    event_schemas: tuple[Schema, ...]


@dataclass(frozen=True)
class ProcessDeclaration:
    """A governance process of a plugin.

    Attributes:
        slug: Its name in the URL.
        plugin: The plugin's name.
        cls: The class.
    """

    slug: str
    plugin: str
    cls: type[GovernanceProcess]

    @property
    def name(self) -> str:
        """The name that drivers use: ``{plugin}.{slug}``."""
        return f"{self.plugin}.{self.slug}"

    @property
    def can_close(self) -> bool:
        """Whether the class defines ``close``."""
        return hasattr(self.cls, "close")

    @property
    def can_update(self) -> bool:
        """Whether the class defines ``update``, to be polled one by one."""
        return hasattr(self.cls, "update") and not self.polls_together

    @property
    def polls_together(self) -> bool:
        """Whether the class defines ``update_many``, to be polled for all at once."""
        return hasattr(self.cls, "update_many")

    @property
    def can_find_started(self) -> bool:
        """Whether the class can look for what a first try of ``start`` made."""
        return getattr(self.cls, "find_started", None) is not None

    @property
    def receives_webhooks(self) -> bool:
        """Whether the class defines ``receive_webhook``."""
        return hasattr(self.cls, "receive_webhook")

    @property
    def handles_children(self) -> bool:
        """Whether the class defines ``child_completed``."""
        return hasattr(self.cls, "child_completed")

    @property
    def input_schema(self) -> Schema | None:
        """JSON Schema of the parameters, if declared."""
        return self.cls.input_schema or None

    @property
    def poll_every_seconds(self) -> float | None:
        """The class' poll interval in seconds, if it has one."""
        return as_seconds("poll_every", self.cls.poll_every)


@dataclass(frozen=True)
class PluginDeclaration:
    """A plugin with all that it declares.

    Attributes:
        name: Its slug.
        cls: The class.
        actions: By slug.
        tasks: By slug.
        receiver: Its webhook receiver, if it has one.
        processes: By slug; filled as they register.
    """

    name: str
    cls: type[Plugin]
    actions: dict[str, ActionDeclaration]
    tasks: dict[str, TaskDeclaration]
    receiver: ReceiverDeclaration | None
    processes: dict[str, ProcessDeclaration] = field(default_factory=dict)

    @property
    def config_schema(self) -> Schema:
        """JSON Schema of the config; an empty one allows anything."""
        return self.cls.config_schema or {}

    @property
    def uses_webhooks(self) -> bool:
        """Whether the platform's webhooks have somewhere to go."""
        return self.receiver is not None or any(
            process.receives_webhooks for process in self.processes.values()
        )

    @property
    def call_every_seconds(self) -> float | None:
        """The time between two calls that its rate limit asks for, if it declares one."""
        return _call_every(self.cls)

    @property
    def event_schemas(self) -> list[Schema]:
        """The schemas of all events that the plugin declares."""
        receiver = self.receiver.event_schemas if self.receiver else ()
        return [
            *receiver,
            *(schema for task in self.tasks.values() for schema in task.event_schemas),
        ]


class Registry:
    """The decorators of the SDK. Mistakes are errors at import that name the class."""

    plugins: dict[str, PluginDeclaration] = {}

    @staticmethod
    def plugin(cls: PluginClass) -> PluginClass:
        """Register a subclass of ``Plugin``.

        Args:
            cls: The class.

        Returns:
            The same class.

        Raises:
            RegistrationError: Something in its declaration is wrong.
        """
        if not (inspect.isclass(cls) and issubclass(cls, Plugin)):
            raise RegistrationError(f"{_label(cls)}: @Registry.plugin wants a subclass of Plugin")
        name = _slug(cls, getattr(cls, "name", None), "name", "tutorial")
        other = Registry.plugins.get(name)
        if other is not None and (not _is_own(cls) or _is_own(other.cls)):
            raise RegistrationError(
                f"{_label(cls)}: a plugin named '{name}' is already registered by "
                f"{_label(other.cls)}: give one of them another `name`"
            )
        _check(cls, "config_schema", cls.config_schema)
        _check_platform_id(cls)
        _check_no_init(cls, Plugin)
        _check_initialize(cls)
        _call_every(cls)
        declared = _declared_methods(cls)
        receivers = [item for item in declared if isinstance(item, ReceiverDeclaration)]
        if len(receivers) > 1:
            raise RegistrationError(
                f"{_label(cls)}: {' and '.join(item.method for item in receivers)} are both "
                "webhook receivers: keep one and let it handle all requests"
            )
        Registry.plugins[name] = PluginDeclaration(
            name=name,
            cls=cls,
            actions=_by_slug(cls, [i for i in declared if isinstance(i, ActionDeclaration)]),
            tasks=_by_slug(cls, [i for i in declared if isinstance(i, TaskDeclaration)]),
            receiver=receivers[0] if receivers else None,
        )
        setattr(cls, MARK, True)
        return cls

    @staticmethod
    def governance_process(cls: ProcessClass) -> ProcessClass:
        """Register a subclass of ``GovernanceProcess``; its plugin must come before it.

        Args:
            cls: The class.

        Returns:
            The same class.

        Raises:
            RegistrationError: Something in its declaration is wrong.
        """
        if not (inspect.isclass(cls) and issubclass(cls, GovernanceProcess)):
            raise RegistrationError(
                f"{_label(cls)}: @Registry.governance_process wants a subclass of GovernanceProcess"
            )
        slug = _slug(cls, getattr(cls, "name", None), "name", "poll")
        plugin_name = getattr(cls, "plugin_name", None)
        if not isinstance(plugin_name, str) or not plugin_name:
            raise RegistrationError(
                f"{_label(cls)}: has no `plugin_name`: set it to the `name` of its plugin"
            )
        plugin = Registry.plugins.get(plugin_name)
        if plugin is None:
            known = ", ".join(sorted(Registry.plugins)) or "none"
            raise RegistrationError(
                f"{_label(cls)}: its `plugin_name` is '{plugin_name}', but no such plugin is "
                f"registered yet (registered: {known}): declare the plugin's class before it"
            )
        if slug in plugin.processes:
            raise RegistrationError(
                f"{_label(cls)}: '{plugin_name}.{slug}' is already registered by "
                f"{_label(plugin.processes[slug].cls)}: give one of them another `name`"
            )
        _check_no_init(cls, GovernanceProcess)
        _check_process(cls)
        plugin.processes[slug] = ProcessDeclaration(slug=slug, plugin=plugin_name, cls=cls)
        setattr(cls, MARK, True)
        return cls

    @staticmethod
    def action(
        slug: str,
        description: str = "",
        input_schema: Schema | None = None,
        output_schema: Schema | None = None,
        is_public: bool = False,
        idempotent: bool = False,
    ) -> Callable[[Method], Method]:
        """Register a method of a plugin as an action.

        Args:
            slug: Its name in the URL, after ``{plugin}.``.
            description: For the API's documentation.
            input_schema: JSON Schema of the parameters; they are checked before the call.
            output_schema: JSON Schema of the return value; it is checked after the call.
            is_public: Whether the action also stands at ``/api/action/``.
            idempotent: Whether calling it twice leads to the same end as calling it once, as with
                reads, or platforms that take ``self.idempotency_key``. It is then tried again after
                a crash or a failure of the platform; else such an effect is reported as unknown.

        Returns:
            A decorator that returns the method as it was.

        Raises:
            RegistrationError: It was used without parentheses.
        """
        if callable(slug):
            raise RegistrationError(
                f"{_label(slug)}: write @Registry.action(slug=..., description=...)"
            )

        def mark(method: Method) -> Method:
            declaration = ActionDeclaration(
                slug,
                method.__name__,
                description,
                input_schema,
                output_schema,
                is_public,
                idempotent,
            )
            setattr(method, MARK, declaration)
            return method

        return mark

    @overload
    @staticmethod
    def webhook_receiver(event_schemas: Method, /) -> Method: ...
    @overload
    @staticmethod
    def webhook_receiver(event_schemas: Sequence[Schema] = ()) -> Callable[[Method], Method]: ...
    @staticmethod
    def webhook_receiver(event_schemas: Any = ()) -> Any:
        """Register the method of a plugin that receives its webhooks.

        Args:
            event_schemas: ``{"type": ..., "schema": ...}`` of each event that it sends.

        Returns:
            A decorator that returns the method as it was.
        """

        def mark(method: Method) -> Method:
            setattr(method, MARK, ReceiverDeclaration(method.__name__, tuple(schemas)))
            return method

        schemas: Sequence[Schema] = () if callable(event_schemas) else event_schemas
        return mark(event_schemas) if callable(event_schemas) else mark

    @overload
    @staticmethod
    def event_producer_task(every: Method, /) -> Method: ...
    @overload
    @staticmethod
    def event_producer_task(
        every: float | timedelta | None = None, event_schemas: Sequence[Schema] = ()
    ) -> Callable[[Method], Method]: ...
    @staticmethod
    def event_producer_task(every: Any = None, event_schemas: Sequence[Schema] = ()) -> Any:
        """Register a method of a plugin that is called on a schedule.

        Args:
            every: Time between two runs, in seconds or as a timedelta; default: a minute.
            event_schemas: ``{"type": ..., "schema": ...}`` of each event that it sends.

        Returns:
            A decorator that returns the method as it was.

        Raises:
            RegistrationError: ``every`` is no interval.
        """
        interval = None if callable(every) else every
        try:
            seconds = as_seconds("every", interval)
        except PluginCodeError as error:
            raise RegistrationError(f"@Registry.event_producer_task: {error}") from None

        def mark(method: Method) -> Method:
            name = method.__name__
            slug = name.replace("_", "-").strip("-").lower()
            setattr(method, MARK, TaskDeclaration(slug, name, seconds, tuple(event_schemas)))
            return method

        return mark(every) if callable(every) else mark


def _label(thing: object) -> str:
    module = getattr(thing, "__module__", "")
    name = getattr(thing, "__qualname__", None) or repr(thing)
    return f"class {module}.{name}" if inspect.isclass(thing) else f"{module}.{name}"


def _is_own(cls: type) -> bool:
    """Whether a class comes by ``METAGOV_PLUGIN_PATH``: its plugin replaces one of this name."""
    return cls.__module__.startswith(f"{OWN_PLUGINS}.")


def _slug(cls: type, value: object, attribute: str, example: str) -> str:
    if not isinstance(value, str) or not value:
        raise RegistrationError(
            f'{_label(cls)}: has no `{attribute}`: set it, as in {attribute} = "{example}"'
        )
    if not _SLUG.fullmatch(value):
        raise RegistrationError(
            f"{_label(cls)}: its `{attribute}` {value!r:.80} is no slug: use {_SLUG_RULE}"
        )
    return value


def _check_no_init(cls: type, base: type) -> None:
    # It would run where the engine's own work runs, and could hold that up.
    if cls.__init__ is not base.__init__:  # type: ignore[misc]
        raise RegistrationError(
            f"{_label(cls)}: has an `__init__` of its own: objects are made anew for every call: "
            "set class attributes, compute in a property, or do in `initialize` what lasts"
        )


def _check(cls: type, attribute: str, schema: object) -> None:
    if not schema:
        return
    if not isinstance(schema, Mapping):
        raise RegistrationError(
            f"{_label(cls)}: `{attribute}` must be a JSON Schema (a dict), "
            f"not {type(schema).__name__}"
        )
    try:
        check_schema(schema)
    except ValueError as error:
        raise RegistrationError(
            f"{_label(cls)}: `{attribute}` is no valid JSON Schema: {error}"
        ) from None


def _call_every(cls: type[Plugin]) -> float | None:
    limit = cls.rate_limit
    if limit is None:
        return None
    found = _RATE.fullmatch(limit) if isinstance(limit, str) else None
    if found is None:
        raise RegistrationError(
            f"{_label(cls)}: its `rate_limit` is {limit!r:.80}: write a number and s, min, h or "
            'day, as in rate_limit = "60/min"'
        )
    return _SECONDS[found[2]] / int(found[1])


def _check_initialize(cls: type[Plugin]) -> None:
    if not takes(cls.initialize, 1):
        raise RegistrationError(f"{_label(cls)}: `initialize` can be called with self alone")
    hook = getattr(cls, "on_config_change", None)
    if hook is not None and not takes(hook, 2):
        raise RegistrationError(
            f"{_label(cls)}: write `on_config_change(self, old_config)`, with just that argument"
        )
    leave = getattr(cls, "on_disable", None)
    if leave is not None and not takes(leave, 1):
        raise RegistrationError(f"{_label(cls)}: `on_disable` can be called with self alone")


def _check_process(cls: type[GovernanceProcess]) -> None:
    start = getattr(cls, "start", None)
    if not callable(start):
        raise RegistrationError(
            f"{_label(cls)}: has no `start`: define start(self, parameters), which begins it"
        )
    _check(cls, "input_schema", cls.input_schema)
    _check(cls, "outcome_schema", cls.outcome_schema)
    problem = signature_problem(start, cls.input_schema)
    if problem:
        raise RegistrationError(f"{_label(cls)}: its `start` {problem}")
    for method, wanted in (
        ("close", "self"),
        ("update", "self"),
        ("receive_webhook", "self, request"),
        ("find_started", "self, parameters"),
        ("child_completed", "self, child"),
    ):
        function = getattr(cls, method, None)
        if function is None:
            continue
        arguments = wanted.count(",") + 1
        if not callable(function) or not takes(function, arguments):
            raise RegistrationError(f"{_label(cls)}: write its `{method}` as {method}({wanted})")
    together = inspect.getattr_static(cls, "update_many", None)
    if together is not None and (
        not isinstance(together, classmethod) or not takes(cls.update_many, 1)  # type: ignore[attr-defined]
    ):
        raise RegistrationError(
            f"{_label(cls)}: write its `update_many` as a classmethod update_many(cls, processes)"
        )
    most = cls.most_together
    if type(most) is not int or not 1 <= most <= 10_000:
        raise RegistrationError(
            f"{_label(cls)}: its `most_together` is {most!r:.80}: allowed are 1 to 10000"
        )
    try:
        as_seconds("poll_every", cls.poll_every)
    except PluginCodeError as error:
        raise RegistrationError(f"{_label(cls)}: {error}") from None


def _declared_methods(
    cls: type[Plugin],
) -> list[ActionDeclaration | ReceiverDeclaration | TaskDeclaration]:
    declared = []
    names = dict.fromkeys(name for base in reversed(cls.__mro__) for name in vars(base))
    for name in names:
        function = getattr(cls, name)
        declaration = getattr(function, MARK, None)
        if declaration is None:
            continue
        if isinstance(declaration, ActionDeclaration):
            _check_action(cls, name, function, declaration)
        else:
            _check_event_schemas(cls, name, declaration.event_schemas)
            wanted = 2 if isinstance(declaration, ReceiverDeclaration) else 1
            if not takes(function, wanted):
                shape = "(self, request)" if wanted == 2 else "(self)"
                raise RegistrationError(f"{_label(cls)}: write its `{name}` as {name}{shape}")
        declared.append(declaration)
    return declared


def _check_action(
    cls: type[Plugin], name: str, function: Callable[..., Any], action: ActionDeclaration
) -> None:
    _slug(cls, action.slug, f"{name}: slug", "times-two")
    _check(cls, f"{name}: input_schema", action.input_schema)
    _check(cls, f"{name}: output_schema", action.output_schema)
    problem = signature_problem(function, action.input_schema)
    if problem:
        raise RegistrationError(f"{_label(cls)}: its action `{name}` {problem}")


def _check_platform_id(cls: type[Plugin]) -> None:
    key = cls.community_platform_id_key
    if key is not None and not (isinstance(key, str) and key):
        raise RegistrationError(
            f"{_label(cls)}: `community_platform_id_key` must be the name of a property of the "
            f"config, not {key!r:.80}"
        )
    if cls.community_platform_id_unique and key is None:
        raise RegistrationError(
            f"{_label(cls)}: `community_platform_id_unique` needs a `community_platform_id_key`"
        )


def _check_event_schemas(cls: type[Plugin], name: str, schemas: Sequence[Schema]) -> None:
    for schema in schemas:
        if not isinstance(schema, Mapping) or not isinstance(schema.get("type"), str):
            raise RegistrationError(
                f"{_label(cls)}: each of the event_schemas of `{name}` must be a dict "
                '{"type": "post_created", "schema": {...}}'
            )
        _check(cls, f"{name}: event schema of {schema['type']}", schema.get("schema"))


Declared = TypeVar("Declared", ActionDeclaration, TaskDeclaration)


def _by_slug(cls: type[Plugin], declarations: Sequence[Declared]) -> dict[str, Declared]:
    found: dict[str, Declared] = {}
    for declaration in declarations:
        other = found.setdefault(declaration.slug, declaration)
        if other is not declaration:
            raise RegistrationError(
                f"{_label(cls)}: `{other.method}` and `{declaration.method}` both have the slug "
                f"'{declaration.slug}': give one of them another"
            )
    return found
