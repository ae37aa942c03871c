"""The Open Collective plugin against its twin, through the whole engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from sandbox.opencollective.api import create_app
from sandbox.opencollective.models import BOT, EMOJI, LEGACY_ID, SLUG, Conversation
from sandbox.opencollective.state import API_KEY, OpenCollectiveTwin
from tests.engine.conftest import RunningEngine, one_database
from tests.servers import eventually, serve

pytestmark = one_database
UP, DOWN = EMOJI[0], EMOJI[1]


@pytest.fixture
async def twin() -> AsyncIterator[OpenCollectiveTwin]:
    twin = OpenCollectiveTwin()
    async with serve(create_app(twin)) as url:
        twin.base_url = url
        yield twin


def config(twin: OpenCollectiveTwin, **more: Any) -> dict[str, Any]:
    settings = {
        "access_token": API_KEY,
        "collective_slug": SLUG,
        "api_url": twin.base_url,
        "webhook_slug": "s3cr3t-slug",
    }
    return {"name": "opencollective", "config": settings | more}


class Collective:
    """A community on the twin, whose webhooks reach the engine."""

    def __init__(self, running: RunningEngine, twin: OpenCollectiveTwin, community: str) -> None:
        self.running = running
        self.twin = twin
        self.community = community

    async def act(self, name: str, **parameters: Any) -> Any:
        answer = await self.running.act(self.community, f"opencollective.{name}", **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def vote(self, **parameters: Any) -> tuple[str, Conversation]:
        body = parameters if "conversation_id" in parameters else {"title": "Camp?"} | parameters
        answer = await self.running.start(self.community, "opencollective.vote", **body)
        assert answer.status_code == 202, answer.text
        return answer.headers["location"], list(self.twin.conversations.values())[-1]

    async def record(self, location: str) -> dict[str, Any]:
        return dict((await self.running.http.get(location)).json())

    async def close(self, location: str) -> dict[str, Any]:
        answer = await self.running.http.delete(location)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def events(self) -> list[dict[str, Any]]:
        params: dict[str, Any] = {"community": self.community, "limit": 500}
        delivered = (await self.running.http.get("/api/internal/events", params=params)).json()
        return [item["data"] for item in delivered["events"] if "event_type" in item["data"]]

    @property
    def hook_path(self) -> str:
        return f"/api/hooks/{self.community}/opencollective/s3cr3t-slug"

    async def hook(self, body: Any) -> None:
        answer = await self.running.http.post(self.hook_path, json=body)
        assert answer.status_code == 200, answer.text

    async def delivered(self, *kinds: str) -> list[dict[str, Any]]:
        async def all_delivered() -> bool:
            return set(kinds) <= {event["event_type"] for event in await self.events()}

        await eventually(all_delivered, 30)
        return [event for event in await self.events() if event["event_type"] in kinds]


@pytest.fixture
async def collective(running: RunningEngine, twin: OpenCollectiveTwin) -> Collective:
    found = Collective(running, twin, await running.community(config(twin)))
    # Where the engine takes itself to be reached is not where the test serves it.
    twin.webhooks[0].url = f"{running.http.base_url}{found.hook_path}"
    return found


async def put(running: RunningEngine, name: str, *plugins: dict[str, Any]) -> httpx.Response:
    body = {"name": name, "readable_name": "", "plugins": list(plugins)}
    return await running.http.put(f"/api/internal/community/{name}", json=body)


async def test_the_webhook_is_registered_once_and_taken_away(
    running: RunningEngine, twin: OpenCollectiveTwin
) -> None:
    name = await running.community(config(twin))
    (hook,) = twin.webhooks
    assert hook.url.endswith(f"/api/hooks/{name}/opencollective/s3cr3t-slug")
    assert (
        await put(running, name, config(twin, website_url="https://oc.test"))
    ).status_code == 200
    assert [known.id for known in twin.webhooks] == [hook.id]
    assert (await put(running, name, config(twin, webhook_slug="another-slug"))).status_code == 200
    (other,) = twin.webhooks
    assert other.url.endswith("/another-slug")
    assert (await put(running, name)).status_code == 200
    assert twin.webhooks == []


async def test_without_a_webhook_of_its_own(
    running: RunningEngine, twin: OpenCollectiveTwin
) -> None:
    twin.public_webhooks_only = True
    refused = await put(running, "hookless", config(twin))
    assert refused.status_code == 502
    assert "Not a valid URL" in refused.text
    await running.community(config(twin, register_webhook=False))


@pytest.mark.parametrize(
    ("more", "status", "named"),
    [
        ({"access_token": "revoked"}, 400, "access_token"),
        ({"collective_slug": "nobody"}, 502, "collective_slug"),
        ({"collective_slug": "No Slug"}, 400, "collective_slug"),
    ],
)
async def test_a_config_that_does_not_work_is_reported(
    running: RunningEngine, twin: OpenCollectiveTwin, more: dict[str, str], status: int, named: str
) -> None:
    answer = await put(running, "tokenless", config(twin, **more))
    assert answer.status_code == status, answer.text
    assert named in answer.text
    assert "revoked" not in answer.text


async def test_a_token_that_is_no_admins_is_reported(
    running: RunningEngine, twin: OpenCollectiveTwin
) -> None:
    twin.is_admin = False
    answer = await put(running, "adminless", config(twin))
    assert answer.status_code == 400
    assert "admin" in answer.text


async def test_actions(collective: Collective) -> None:
    twin = collective.twin
    members = (await collective.act("list-members"))["members"]
    assert [member["slug"] for member in members] == [BOT, "ada", "grace", "mary"]
    backers = (await collective.act("list-members", roles=["BACKER"]))["members"]
    assert [member["slug"] for member in backers] == ["grace"]
    made = await collective.act("create-conversation", title="Camp?", html="<p>Camp</p>")
    assert made["url"] == f"https://opencollective.com/{SLUG}/conversations/camp-{made['id']}"
    edited = await collective.act(
        "edit-conversation", id=made["id"], title="Summer camp?", tags=["summer"]
    )
    assert edited["title"] == "Summer camp?"
    await collective.act("edit-conversation", id=made["id"], title="A camp?")
    conversation = twin.conversations[made["id"]]
    assert (conversation.title, conversation.tags) == ("A camp?", ["summer"])
    comment = await collective.act(
        "create-comment", html="<p>I am in</p>", conversation_id=made["id"]
    )
    assert [c.id for c in conversation.comments] == [comment["id"]]
    reacted = await collective.act("react", comment_id=conversation.body.id, emoji="👍🏾")
    assert reacted == {"reactions": {UP: 1}}
    taken = await collective.act("react", comment_id=conversation.body.id, emoji="👍", remove=True)
    assert taken == {"reactions": {}}
    update = twin.publish("ada", "News", "<p>Hi</p>")
    assert (await collective.act("react", update_id=update.id, emoji="❤"))["reactions"]
    expense = twin.file_expense("ada", "Tents", 9900)
    await collective.act("create-comment", html="<p>Fine</p>", expense_id=expense.id)
    for action, status in {"APPROVE": "APPROVED", "PAY": "PAID"}.items():
        done = await collective.act("process-expense", expense_id=expense.id, action=action)
        assert done == {"id": expense.id, "legacy_id": expense.number, "status": status}


async def test_what_is_refused_is_reported(collective: Collective) -> None:
    twin = collective.twin
    expense = twin.file_expense("ada", "Tents", 9900)
    for name, parameters, status, reason in (
        ("process-expense", {"expense_id": expense.id, "action": "PAY"}, 502, "must be APPROVED"),
        ("process-expense", {"expense_id": "none", "action": "PAY"}, 502, "Not Found"),
        ("process-expense", {"expense_id": expense.id, "action": "EAT"}, 400, "action"),
        ("create-comment", {"html": "x", "conversation_id": "none"}, 502, "Not Found"),
        ("create-comment", {"html": "x"}, 400, "conversation_id"),
        ("react", {"comment_id": "none", "emoji": "🍕"}, 502, "only"),
    ):
        answer = await collective.running.act(
            collective.community, f"opencollective.{name}", **parameters
        )
        assert answer.status_code == status, answer.text
        assert reason in answer.text
    twin.scopes.discard("conversations")
    answer = await collective.running.act(
        collective.community, "opencollective.create-conversation", title="Camp?", html="x"
    )
    assert answer.status_code == 502
    assert answer.json()["type"].endswith(":authentication"), answer.text
    twin.rate_limited = 1
    answer = await collective.running.act(
        collective.community, "opencollective.create-conversation", title="Camp?", html="x"
    )
    assert "rate" in answer.json()["type"], answer.text


async def test_events_are_read_back(collective: Collective) -> None:
    twin = collective.twin
    expense = twin.file_expense("grace", "Tents", 9900)
    (created,) = await collective.delivered("expense_created")
    assert created["initiator"] == {"user_id": "grace", "provider": "opencollective"}
    assert created["data"]["expense"]["id"] == expense.id
    assert created["data"]["expense"]["amount"] == 9900
    for action in ("APPROVE", "HOLD", "PAY"):
        twin.process("ada", expense, action)
    twin.publish("ada", "News", "<p>Hi</p>")
    twin.join("linus")
    twin.comment("mary", twin.converse("ada", "Camp?", "<p>Camp</p>", []), "<p>Yes</p>")
    delivered = await collective.delivered(
        "expense_approved",
        "expense_put_on_hold",
        "expense_paid",
        "update_published",
        "member_joined",
        "conversation_created",
        "conversation_comment_created",
    )
    assert len(delivered) == 7
    by_kind = {event["event_type"]: event["data"] for event in delivered}
    assert by_kind["update_published"]["update"]["title"] == "News"
    assert by_kind["conversation_created"]["conversation"]["title"] == "Camp?"
    assert by_kind["member_joined"]["from_account"]["slug"] == "linus"
    order = [event["event_type"] for event in await collective.events()]
    assert order.index("expense_approved") < order.index("expense_paid")
    assert len(order) == 8


async def test_a_webhook_is_a_hint_and_no_more(
    collective: Collective, caplog: pytest.LogCaptureFixture
) -> None:
    forged = {"type": "collective.expense.paid", "CollectiveId": LEGACY_ID, "data": {"amount": 1}}
    collective.twin.webhooks.clear()
    collective.twin.file_expense("grace", "Tents", 9900)
    await collective.hook(forged | {"CollectiveId": 4242})
    await eventually(lambda: "webhook about another collective ignored" in caplog.text)
    assert await collective.events() == []
    await collective.hook(forged)
    (created,) = await collective.delivered("expense_created")
    assert created["data"]["expense"]["amount"] == 9900
    assert len(await collective.events()) == 1


async def test_a_vote_that_a_driver_closes_tells_its_outcome(collective: Collective) -> None:
    template = "<p>${title}: ${winner}, ${yes} to ${no} ($$0), by the ${closed_by}</p>"
    location, conversation = await collective.vote(
        title="A camp & a boat?", html="<p>Read this.</p>", tags=["camp"], closing_comment=template
    )
    assert "<p>Read this.</p>" in conversation.body.html
    assert conversation.tags[0] == "camp"
    for who, emoji in {"ada": UP, "grace": DOWN, "mary": UP}.items():
        collective.twin.react(who, conversation.body, emoji)
    record = await collective.close(location)
    assert record["outcome"] == {
        "votes": {"yes": {"count": 2}, "no": {"count": 1}},
        "voters": 3,
        "winner": ["yes"],
        "closed_by": "driver",
    }
    (comment,) = conversation.comments
    assert comment.html == "<p>A camp &amp; a boat?: yes, 2 to 1 ($0), by the driver</p>"


async def test_a_vote_ends_at_its_closing_time(collective: Collective) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=3)
    location, conversation = await collective.vote(closing_at=soon.isoformat(), quorum_votes=2)
    collective.twin.react("ada", conversation.body, DOWN)
    record = await collective.running.completed(location)
    assert record["outcome"]["closed_by"] == "deadline"
    assert record["outcome"]["quorum_met"] is False
    assert record["outcome"]["winner"] == ["no"]
    assert conversation.comments == []


async def test_a_vote_on_a_conversation_that_there_is_may_be_decided_at_once(
    collective: Collective,
) -> None:
    conversation = collective.twin.converse("ada", "Camp?", "<p>Camp</p>", [])
    for who in ("ada", "grace"):
        collective.twin.react(who, conversation.body, UP)
    location, same = await collective.vote(
        conversation_id=conversation.id, threshold_votes=2, quorum_votes=2
    )
    assert same is conversation
    record = await collective.running.completed(location)
    assert record["outcome"]["closed_by"] == "decided"
    assert record["outcome"]["winner"] == ["yes"]
    unknown = await collective.running.start(
        collective.community, "opencollective.vote", conversation_id="none"
    )
    assert unknown.status_code == 502
    assert "knows no conversation 'none'" in unknown.json()["detail"]


async def test_a_start_whose_answer_was_lost_is_found(collective: Collective) -> None:
    collective.twin.late_failures = [502]
    location, conversation = await collective.vote()
    assert len(collective.twin.conversations) == 1
    collective.twin.react("ada", conversation.body, UP)
    assert (await collective.close(location))["outcome"]["winner"] == ["yes"]


async def test_a_conversation_that_is_deleted_ends_the_vote(collective: Collective) -> None:
    location, conversation = await collective.vote()
    del collective.twin.conversations[conversation.id]
    record = await collective.close(location)
    assert record["status"] == "completed"
    assert record["errors"]["code"] == "conversation_deleted"
