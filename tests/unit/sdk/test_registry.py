"""Mistakes in a declaration are errors at import that name the class and what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from engine.plugins import GovernanceProcess, Plugin, RegistrationError, Registry
from engine.sdk.plugin import InvocationContext
from engine.sdk.process import ProcessContext


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Registry, "plugins", {})


def own_init() -> None:
    @Registry.plugin
    class Hasty(Plugin):
        name = "hasty"

        def __init__(self, context: InvocationContext) -> None:
            super().__init__(context)


def no_name() -> None:
    @Registry.plugin
    class Nameless(Plugin):
        pass


def bad_name() -> None:
    @Registry.plugin
    class Shouting(Plugin):
        name = "Not A Slug"


def no_plugin() -> None:
    @Registry.plugin
    class Plain:  # type: ignore[type-var]
        name = "plain"


def twice() -> None:
    for _ in range(2):

        @Registry.plugin
        class Double(Plugin):
            name = "double"


def bad_config_schema() -> None:
    @Registry.plugin
    class Misconfigured(Plugin):
        name = "m"
        config_schema = {"type": "objekt"}


def bad_action_schema() -> None:
    @Registry.plugin
    class BadAction(Plugin):
        name = "m"

        @Registry.action(slug="a", description="", input_schema={"properties": []})
        def act(self) -> None: ...


def same_slug() -> None:
    @Registry.plugin
    class SameSlug(Plugin):
        name = "m"

        @Registry.action(slug="a", description="")
        def one(self) -> None: ...

        @Registry.action(slug="a", description="")
        def two(self) -> None: ...


def two_receivers() -> None:
    @Registry.plugin
    class TwoEars(Plugin):
        name = "m"

        @Registry.webhook_receiver()
        def left(self, request: object) -> None: ...

        @Registry.webhook_receiver
        def right(self, request: object) -> None: ...


def deaf_receiver() -> None:
    @Registry.plugin
    class Deaf(Plugin):
        name = "m"

        @Registry.webhook_receiver()
        def hear(self) -> None: ...


def unknown_argument() -> None:
    @Registry.plugin
    class Misnamed(Plugin):
        name = "m"

        @Registry.action(slug="a", description="", input_schema={"properties": {"value": {}}})
        def act(self, value: int, other: int) -> None: ...


def one_argument_without_schema() -> None:
    @Registry.plugin
    class Guessing(Plugin):
        name = "m"

        @Registry.action(slug="a", description="")
        def act(self, value: int) -> None: ...


def hurried_task() -> None:
    @Registry.plugin
    class Hurried(Plugin):
        name = "m"

        @Registry.event_producer_task(every=timedelta(milliseconds=1))
        def task(self) -> None: ...


def bad_event_schema() -> None:
    @Registry.plugin
    class Eventful(Plugin):
        name = "m"

        @Registry.webhook_receiver(event_schemas=[{"name": "x"}])
        def hear(self, request: object) -> None: ...


def action_without_parentheses() -> None:
    @Registry.plugin
    class Bare(Plugin):
        name = "m"

        @Registry.action  # type: ignore[arg-type]
        def act(self) -> None: ...  # type: ignore[misc]


def with_plugin(define: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        @Registry.plugin
        class Home(Plugin):
            name = "home"

        define()

    run.__name__ = define.__name__
    return run


def process_before_plugin() -> None:
    @Registry.governance_process
    class Early(GovernanceProcess):
        name = "early"
        plugin_name = "late"

        def start(self, parameters: object) -> None: ...


@with_plugin
def no_start() -> None:
    @Registry.governance_process
    class Startless(GovernanceProcess):
        name = "p"
        plugin_name = "home"


@with_plugin
def no_process_name() -> None:
    @Registry.governance_process
    class Anonymous(GovernanceProcess):
        plugin_name = "home"

        def start(self, parameters: object) -> None: ...


@with_plugin
def no_plugin_name() -> None:
    @Registry.governance_process
    class Homeless(GovernanceProcess):
        name = "p"

        def start(self, parameters: object) -> None: ...


@with_plugin
def same_process() -> None:
    for _ in range(2):

        @Registry.governance_process
        class Again(GovernanceProcess):
            name = "p"
            plugin_name = "home"

            def start(self, parameters: object) -> None: ...


@with_plugin
def bad_input_schema() -> None:
    @Registry.governance_process
    class Unreadable(GovernanceProcess):
        name = "p"
        plugin_name = "home"
        input_schema = {"type": 7}

        def start(self, parameters: object) -> None: ...


@with_plugin
def bad_close() -> None:
    @Registry.governance_process
    class Closing(GovernanceProcess):
        name = "p"
        plugin_name = "home"

        def start(self, parameters: object) -> None: ...

        def close(self, why: str) -> None: ...


def bad_rate() -> None:
    @Registry.plugin
    class Hurried(Plugin):
        name = "m"
        rate_limit = "often"


@with_plugin
def bad_look_up() -> None:
    @Registry.governance_process
    class Blind(GovernanceProcess):
        name = "p"
        plugin_name = "home"

        def start(self, parameters: object) -> None: ...

        def find_started(self) -> bool:
            return True


@with_plugin
def bad_together() -> None:
    @Registry.governance_process
    class Crowd(GovernanceProcess):
        name = "p"
        plugin_name = "home"

        def start(self, parameters: object) -> None: ...

        def update_many(self, processes: object) -> None: ...


@with_plugin
def own_process_init() -> None:
    @Registry.governance_process
    class Impatient(GovernanceProcess):
        name = "p"
        plugin_name = "home"

        def __init__(self, context: ProcessContext, plugin: Plugin) -> None:
            super().__init__(context, plugin)

        def start(self, parameters: object) -> None: ...


@with_plugin
def bad_interval() -> None:
    @Registry.governance_process
    class Restless(GovernanceProcess):
        name = "p"
        plugin_name = "home"
        poll_every = 0

        def start(self, parameters: object) -> None: ...


@pytest.mark.parametrize(
    ("define", "cls", "advice"),
    [
        (own_init, "Hasty", "do in `initialize` what lasts"),
        (own_process_init, "Impatient", "made anew for every call"),
        (no_name, "Nameless", "has no `name`: set it"),
        (bad_name, "Shouting", "lower-case"),
        (no_plugin, "Plain", "subclass of Plugin"),
        (twice, "Double", "already registered"),
        (bad_config_schema, "Misconfigured", "`config_schema` is no valid JSON Schema"),
        (bad_action_schema, "BadAction", "act: input_schema"),
        (same_slug, "SameSlug", "`one` and `two` both have the slug 'a'"),
        (two_receivers, "TwoEars", "keep one"),
        (deaf_receiver, "Deaf", "hear(self, request)"),
        (unknown_argument, "Misnamed", "name them alike"),
        (
            one_argument_without_schema,
            "Guessing",
            "its action `act` takes the argument value, but has no input_schema: "
            "call it `parameters`",
        ),
        (hurried_task, "event_producer_task", "from 1 second"),
        (bad_event_schema, "Eventful", '"type"'),
        (action_without_parentheses, "act", "write @Registry.action(slug="),
        (process_before_plugin, "Early", "declare the plugin's class before it"),
        (no_start, "Startless", "define start(self, parameters)"),
        (no_process_name, "Anonymous", "has no `name`"),
        (no_plugin_name, "Homeless", "has no `plugin_name`"),
        (same_process, "Again", "already registered"),
        (bad_input_schema, "Unreadable", "`input_schema` is no valid JSON Schema"),
        (bad_close, "Closing", "close(self)"),
        (bad_interval, "Restless", "poll_every"),
        (bad_rate, "Hurried", "60/min"),
        (bad_look_up, "Blind", "find_started(self, parameters)"),
        (bad_together, "Crowd", "update_many(cls, processes)"),
    ],
)
def test_mistake_is_reported(define: Callable[[], None], cls: str, advice: str) -> None:
    with pytest.raises(RegistrationError) as caught:
        define()
    assert cls in str(caught.value)
    assert advice in str(caught.value)


def test_what_a_class_defines_is_known() -> None:
    @Registry.plugin
    class Home(Plugin):
        name = "home"

    @Registry.governance_process
    class Able(GovernanceProcess):
        name = "able"
        plugin_name = "home"
        poll_every = timedelta(minutes=2)

        def start(self, parameters: object) -> None: ...

        def update(self) -> None: ...

    able = Registry.plugins["home"].processes["able"]
    assert (able.can_close, able.can_update, able.receives_webhooks) == (False, True, False)
    assert able.poll_every_seconds == 120
    assert able.name == "home.able"


def test_what_may_be_left_out_is_allowed_beyond_what_is_given() -> None:
    @Registry.plugin
    class Home(Plugin):
        name = "home"

        def initialize(self, again: bool = False) -> None: ...

        def on_config_change(self, old_config: object, *more: object) -> None: ...

        def on_disable(self, **options: object) -> None: ...

        @Registry.webhook_receiver()
        def hear(self, request: object, log: object = None) -> None: ...

        @Registry.event_producer_task()
        def look(self, since: object = None) -> None: ...

        @Registry.action(slug="a", description="")
        def act(self, parameters: object, dry: bool = False) -> None: ...

    @Registry.governance_process
    class Able(GovernanceProcess):
        name = "able"
        plugin_name = "home"

        def start(self, parameters: object, voters: object = None) -> None: ...

        def close(self, voter_list: object = None) -> None: ...

        def update(self, *, force: bool = False) -> None: ...

        def receive_webhook(self, request: object, kind: str = "") -> None: ...

        @classmethod
        def update_many(cls, processes: object, most: int = 3) -> None: ...

    assert list(Registry.plugins["home"].processes) == ["able"]
