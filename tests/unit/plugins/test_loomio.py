"""The Loomio plugin: its pure functions, and its own methods against the twin over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import engine.plugins.loomio
from engine.connections import Connections
from engine.outbound import OutboundPolicy
from engine.plugins import (
    AuthenticationError,
    Community,
    Parameters,
    PlatformRejectedError,
    State,
    WebhookRequest,
)
from engine.plugins.loomio.outcome import moment, outcome_of, poll_keys, soonest_closing
from engine.plugins.loomio.plugin import Loomio, Poll
from engine.plugins.loomio.schemas import EVENT_KINDS, OUTCOME, POLL, POLL_TYPES
from engine.sdk.children import ChildLimits, Children
from engine.sdk.parameters import validate
from engine.sdk.plugin import InvocationContext
from engine.sdk.process import ProcessContext
from sandbox.loomio.api import create_app
from sandbox.loomio.state import API_KEY, GROUP, LoomioTwin
from sandbox.serving import serve_in_thread

PAYLOADS = Path(engine.plugins.loomio.__file__).parent / "payloads"
HOUR = timedelta(hours=1)


@pytest.fixture
def twin() -> Iterator[LoomioTwin]:
    twin = LoomioTwin()
    with serve_in_thread(create_app(twin)):
        yield twin


class Enabled:
    """A community's plugin instance and one poll of it, as the engine would hold them."""

    def __init__(self, twin: LoomioTwin, **config: Any) -> None:
        self.twin = twin
        settings = {"server_url": twin.base_url, "api_key": API_KEY, "group_id": GROUP} | config
        self.context = InvocationContext(
            community=Community("c"),
            config=settings,
            state=State({}, lambda module: False),
            idempotency_key="k",
            webhook_url="",
            connections=Connections(OutboundPolicy(allow_loopback=True)),
            clock=twin.now,
        )
        self.plugin = Loomio(self.context)

    def poll(self, **given: Any) -> Poll:
        in_three_hours = (self.twin.now() + 3 * HOUR).isoformat()
        values = {"title": "Lunch?", "closing_at": in_three_hours} | given
        assert validate(values, POLL) == []
        parameters = Parameters(values, POLL)
        context = ProcessContext(
            id="1",
            status="created",
            parameters=parameters,
            outcome={},
            errors={},
            url=None,
            title=None,
            correlation_key=None,
            closing_at=None,
            poll_every_seconds=None,
            created_at=self.twin.now(),
            state=State({}, lambda module: False),
            children=Children("1", 0, 0, ChildLimits()),
        )
        poll = Poll(context, self.plugin)
        poll.start(parameters)
        return poll


def on_platform(twin: LoomioTwin, poll: Poll) -> Any:
    assert poll.correlation_key
    return twin.find(poll.correlation_key)


def example(contracts: Path, name: str) -> Any:
    return json.loads((contracts / "loomio" / name).read_text())


# Pure functions


@pytest.mark.parametrize(
    ("name", "votes", "winner", "closed_by"),
    [
        ("b2_poll_show_open", [3, 1, 0], None, None),
        ("b2_poll_show_closed", [3, 1, 0], ["Agree"], "deadline"),
        ("b2_poll_show_hidden_results", None, None, None),
    ],
)
def test_outcome_of_the_contract_examples(
    contracts: Path, name: str, votes: list[int] | None, winner: Any, closed_by: Any
) -> None:
    outcome = outcome_of(example(contracts, f"examples/{name}.json")["polls"][0])
    assert validate(outcome, OUTCOME) == []
    reported = outcome.get("votes")
    assert (reported and [vote["count"] for vote in reported.values()]) == votes
    assert (outcome.get("winner"), outcome.get("closed_by")) == (winner, closed_by)
    assert (outcome["voters"], outcome["eligible"], outcome["undecided"]) == (4, 6, 2)
    assert "quorum_pct" not in outcome


@pytest.mark.parametrize(("percent", "reached"), [(66, True), (67, False)])
def test_quorum_is_reported_where_there_is_one(
    contracts: Path, percent: int, reached: bool
) -> None:
    poll = example(contracts, "examples/b2_poll_show_open.json")["polls"][0]
    outcome = outcome_of(poll | {"quorum_pct": percent})
    assert (outcome["quorum_pct"], outcome["quorum_met"]) == (percent, reached)


def test_seats_are_not_won_by_the_highest_score(contracts: Path) -> None:
    poll = example(contracts, "examples/b2_poll_show_closed.json")["polls"][0]
    assert "winner" not in outcome_of(poll | {"poll_type": "stv"})


def test_keys_of_every_webhook_of_the_contract(contracts: Path) -> None:
    for path in sorted((contracts / "loomio/webhooks").glob("*.json")):
        body = json.dumps(json.loads(path.read_text())["body"])
        linked = "connection_test" not in path.name and "discord" not in path.name
        expected = [("aBcD1234" if "2021" in path.name else "polKEY01")] if linked else []
        assert poll_keys(body) == expected, path.name


@pytest.mark.parametrize("payload", sorted(path.name for path in PAYLOADS.glob("*.json")))
def test_keys_of_our_payloads(payload: str) -> None:
    about_a_poll = payload.startswith(("poll", "stance"))
    text = (PAYLOADS / payload).read_text()
    assert poll_keys(text) == (["k3yBench"] if about_a_poll else [])
    server = "https://www.loomio.org" if "2021" in payload else "https://www.loomio.com/"
    assert poll_keys(text, server) == poll_keys(text)
    assert poll_keys(text, "https://vote.example.org") == []


def test_links_elsewhere_are_no_polls_and_slashes_may_be_escaped() -> None:
    text = r'{"text": "see https:\/\/pics.example\/p\/CxYz and http:\/\/Our.example:81\/p\/abc\/x"}'
    assert poll_keys(text, "http://our.example:81") == ["abc"]


def test_soonest_closing_leaves_time_for_the_request() -> None:
    nine = datetime(2026, 12, 1, 9, tzinfo=UTC)
    assert soonest_closing(nine) == nine + HOUR
    assert soonest_closing(nine + timedelta(minutes=58, seconds=59)) == nine + HOUR
    assert soonest_closing(nine + timedelta(minutes=59, seconds=1)) == nine + 2 * HOUR


def test_times_have_a_zone() -> None:
    assert moment("2027-01-01") == datetime(2027, 1, 1, tzinfo=UTC)
    assert moment("2027-01-01T02:00:00+02:00") == datetime(2027, 1, 1, tzinfo=UTC)
    assert moment(None) is None


@pytest.mark.parametrize(
    "given",
    [
        {"poll_type": "ranked_choice", "options": ["a"]},
        {"poll_type": "score"},
        {"topic_id": 1, "discussion_id": 2},
        {"closing_at": "soon"},
        {"poll_type": "count", "options": ["a"], "anonymous": True},
        {"poll_type": "question", "options": ["a"]},
        {"poll_type": "meeting", "options": ["tomorrow"]},
        {"poll_type": "poll", "options": ["a"], "dots_per_person": 3},
        {"stance_reason_required": "maybe"},
    ],
)
def test_input_that_could_not_become_a_poll_is_refused(given: dict[str, Any]) -> None:
    assert validate({"title": "t", "closing_at": "2027-01-01"} | given, POLL)


def test_every_type_of_the_contract_can_be_asked_for(contracts: Path) -> None:
    rules = example(contracts, "poll_types.json")["types"]
    assert set(rules) == set(POLL_TYPES)
    fitting = {"meeting": ["2027-01-01T10:00:00Z", "2027-01-02"]}
    for kind, rule in rules.items():
        least = rule["min_options"]
        options = fitting.get(kind, ["a", "b"])
        given: dict[str, Any] = {"title": "t", "closing_at": "2027-01-01", "poll_type": kind}
        assert not validate(given | ({"options": options} if least else {}), POLL), kind
        if least and kind != "proposal":
            assert validate(given | {"options": options[: least - 1]}, POLL), kind
        if not rule.get("anonymous", True):
            anonymous = given | {"options": options, "anonymous": True}
            assert validate(anonymous, POLL), kind


def test_what_is_sent_the_platform_takes(contracts: Path) -> None:
    api = example(contracts, "openapi.b2.governance.json")
    taken = set(api["components"]["schemas"]["PollInput"]["properties"])
    own = {"discussion_id"}
    assert set(POLL["properties"]) - own <= taken
    kinds = example(contracts, "webhook_event_kinds.json")["kinds"]
    assert kinds == EVENT_KINDS


# Against the twin


def test_poll_is_made_as_asked(twin: LoomioTwin) -> None:
    poll = Enabled(twin).poll(poll_type="score", options=["a", "b"], max_score=3, quorum_pct=50)
    shown = on_platform(twin, poll)
    assert poll.url == f"{twin.base_url}/p/{shown.key}"
    assert poll.closing_at == shown.closing_at
    assert shown.fields["max_score"] == 3
    assert shown.fields["notify_on_open"] is False
    twin.vote(shown.key, 502, {"a": 3, "b": 1})
    poll.update()
    assert poll.outcome["votes"]["a"] == {"count": 1, "score": 3, "voters": [502]}
    assert poll.outcome["quorum_met"] is False


def test_only_those_invited_are_voters(twin: LoomioTwin) -> None:
    poll = Enabled(twin).poll(specified_voters_only=True, recipient_user_ids=[503])
    assert poll.outcome["eligible"] == 1
    with pytest.raises(ValueError, match="none of the poll's voters"):
        twin.vote(str(poll.correlation_key), 502, {"agree": 1})


def test_poll_in_a_discussion(twin: LoomioTwin) -> None:
    member = Enabled(twin)
    given = {"title": "Budget", "description": "", "private": True, "notify_group": False}
    discussion = member.plugin.create_discussion(Parameters(given))
    poll = member.poll(discussion_id=discussion["id"])
    assert on_platform(twin, poll).topic_id == discussion["topic_id"]


def test_closing_time_that_rounds_into_the_past_is_refused_before_anything_is_made(
    twin: LoomioTwin,
) -> None:
    soon = twin.now().replace(minute=59, second=59)
    with pytest.raises(PlatformRejectedError, match=r"must be in the future: .* full hour"):
        Enabled(twin).poll(closing_at=soon.isoformat())
    assert not twin.requests


def test_orphan_that_cannot_be_removed_is_named(twin: LoomioTwin) -> None:
    twin.makes_orphans = True
    twin.failures = [200, 500]
    with pytest.raises(PlatformRejectedError, match=r"removing poll \d+ failed"):
        Enabled(twin).poll(options=["a"])


def test_close_at_the_closing_time_leaves_it_to_loomios_job(twin: LoomioTwin) -> None:
    twin.job_lag = timedelta(minutes=5)
    poll = Enabled(twin).poll()
    closing_at = on_platform(twin, poll).closing_at
    twin.skew = closing_at - datetime.now(UTC) + timedelta(seconds=1)
    poll.close()
    assert poll.status == "pending"
    assert on_platform(twin, poll).closing_at == closing_at, "not put off"
    assert "PATCH /api/b2/polls/{id}" not in twin.requests
    twin.skew += timedelta(minutes=5)
    twin.expire()
    poll.close()
    assert (poll.status, poll.outcome["closed_by"]) == ("completed", "deadline")


def test_close_at_a_time_that_was_put_off_keeps_to_the_new_one(twin: LoomioTwin) -> None:
    poll = Enabled(twin).poll()
    shown = on_platform(twin, poll)
    passed, shown.closing_at = shown.closing_at, shown.closing_at + timedelta(days=7)
    twin.skew = passed - datetime.now(UTC) + timedelta(seconds=1)
    poll.close()
    assert (poll.status, poll.closing_at) == ("pending", shown.closing_at)
    assert "PATCH /api/b2/polls/{id}" not in twin.requests


def test_close_after_the_end_was_brought_forward_leaves_it_to_loomios_job(
    twin: LoomioTwin,
) -> None:
    twin.job_lag = timedelta(days=1)
    poll = Enabled(twin).poll()
    shown = on_platform(twin, poll)
    shown.closing_at = brought_forward = twin.now() - timedelta(minutes=1)
    poll.close()
    assert (poll.status, poll.closing_at) == ("pending", brought_forward.replace(microsecond=0))


def test_early_close_moves_the_end_up_once_and_says_so(twin: LoomioTwin) -> None:
    poll = Enabled(twin).poll()
    for _ in range(2):
        with pytest.raises(PlatformRejectedError, match="cannot close a poll") as reported:
            poll.close()
        closing_at = on_platform(twin, poll).closing_at
        assert twin.now() < closing_at <= twin.now() + HOUR + timedelta(minutes=1)
        assert f"{closing_at:%Y-%m-%d %H:%M} UTC" in reported.value.detail
        assert str(poll.url) in reported.value.detail
    assert twin.requests["PATCH /api/b2/polls/{id}"] == 1
    twin.close(str(poll.correlation_key))
    poll.close()
    assert (poll.status, poll.outcome["closed_by"]) == ("completed", "platform")


@pytest.mark.parametrize("gone", [False, True])
def test_discarded_poll_ends_in_an_error(twin: LoomioTwin, gone: bool) -> None:
    twin.discarded_are_gone = gone
    poll = Enabled(twin).poll()
    on_platform(twin, poll).discarded_at = twin.now()
    poll.update()
    assert (poll.status, poll.errors["code"]) == ("completed", "poll_deleted")


def test_webhook_without_a_link_of_this_server_concerns_every_poll(twin: LoomioTwin) -> None:
    plugin = Enabled(twin).plugin
    other = WebhookRequest(b'{"text": "https://www.loomio.org/p/abc/x"}', {})
    assert plugin.webhook_key(other) is None
    ours = json.dumps({"text": f"[x]({twin.base_url}/p/polKEY7/x)"}).encode()
    assert plugin.webhook_key(WebhookRequest(ours, {})) == ["polKEY7"]


@pytest.mark.parametrize("wrong", [{"api_key": "stale-key"}, {"group_id": 8}])
def test_wrong_key_or_group_is_reported_without_the_key(
    twin: LoomioTwin, wrong: dict[str, Any]
) -> None:
    with pytest.raises(AuthenticationError, match=r"api_key .* group [78]") as reported:
        Enabled(twin, **wrong).plugin.initialize()
    assert "stale-key" not in reported.value.detail
    Enabled(twin).plugin.initialize()
