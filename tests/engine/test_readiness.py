"""``/readyz`` is about working: what keeps a running engine from its work is shown there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import text
from temporalio.client import Client
from temporalio.common import SearchAttributeKey

from engine.messages import SEARCH_ATTRIBUTES, process_workflow_id
from engine.resources import check_settings
from engine.settings import Settings, SettingsError
from engine.store.communities import Community, PluginInstance
from engine.store.schema import newest_revision
from engine.store.secrets import SecretBox
from engine.temporal import ensure_search_attributes
from tests.conftest import new_database
from tests.engine.conftest import RunningEngine, run_engine
from tests.servers import eventually

VOTE = "troublesome.fragile"
OTHER_KEY = "YW5vdGhlciBrZXkgZm9yIHRlc3RzLCAzMiBieXRlcy4="


async def not_ready(running: RunningEngine) -> str:
    """Why an engine is not ready."""
    answer = await running.http.get("/readyz")
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    detail: str = answer.json()["detail"]
    assert detail.startswith("Not ready: ")
    return detail


async def run_sql(running: RunningEngine, statement: str) -> None:
    async with running.engine.database.write() as session:
        await (await session.connection()).execute(text(statement))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_another_schema_or_key_is_not_ready(
    temporal: Client, plugins: None, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url = new_database(kind, tmp_path, request)
    async with run_engine(temporal, url, tmp_path) as running:
        assert (await running.http.get("/readyz")).json()["status"] == "ready"
        await run_sql(running, "UPDATE alembic_version SET version_num = '9999'")
        assert "schema 9999" in await not_ready(running)
        await run_sql(running, f"UPDATE alembic_version SET version_num = '{newest_revision()}'")
        assert (await running.http.get("/readyz")).status_code == 200
        config = SecretBox([OTHER_KEY]).encrypt({})
        async with running.engine.database.write() as session:
            session.add(Community(name="c"))
            await session.flush()
            session.add(
                PluginInstance(community="c", plugin="p", instance="p", config_encrypted=config)
            )
        assert "does not open all the configs" in await not_ready(running)


async def test_a_temporal_server_that_no_worker_has_prepared_is_not_ready(
    running: RunningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = (*SEARCH_ATTRIBUTES, SearchAttributeKey.for_keyword("MetagovUnknown"))
    with monkeypatch.context() as patched:
        patched.setattr("engine.temporal.SEARCH_ATTRIBUTES", unknown)
        assert "no worker has prepared the Temporal server" in await not_ready(running)
    assert (await running.http.get("/readyz")).status_code == 200


async def test_a_read_only_postgresql_is_not_ready(
    temporal: Client, plugins: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = new_database("postgresql", tmp_path, request)
    name = url.partition("?")[0].rpartition("/")[2]
    async with run_engine(temporal, url, tmp_path) as running:
        community = await running.community({"name": "tutorial", "config": {"api_key": "x"}})
        others = "pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        await run_sql(running, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await run_sql(running, f"SELECT pg_terminate_backend(pid) FROM {others}")
        assert "it is read-only" in await not_ready(running)
        stored = await running.http.post(f"/api/hooks/{community}/tutorial", content="{}")
        assert (stored.status_code, stored.json()["title"]) == (503, "Temporarily unavailable")


@pytest.mark.parametrize("damage", ["overwritten", "truncated", "removed"])
async def test_a_damaged_sqlite_file_is_not_ready(
    temporal: Client, plugins: None, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "x.sqlite"
    async with run_engine(temporal, f"sqlite:///{path}", tmp_path) as running:
        await running.community()
        await run_sql(running, "SELECT 1")
        assert (await running.http.get("/readyz")).status_code == 200
        if damage == "overwritten":
            path.write_bytes(os.urandom(path.stat().st_size))
            Path(f"{path}-wal").write_bytes(b"")
        elif damage == "truncated":
            os.truncate(path, 0)
        else:
            path.unlink()
        assert "the database: it is " in await not_ready(running)
        if damage == "overwritten":
            assert (await running.http.get("/api/internal/process")).status_code == 503


async def test_waiting_follows_the_setting(temporal: Client, plugins: None, tmp_path: Path) -> None:
    """What plugin code did for a process, a task or a change waits as long as a database is out."""
    limits = {"database_outage_seconds": 600, "database_timeout_seconds": 50}
    async with run_engine(
        temporal, f"sqlite:///{tmp_path / 'x.sqlite'}", tmp_path, **limits
    ) as running:
        community = await running.community(
            {"name": "troublesome", "config": {}}, {"name": "tutorial", "config": {"api_key": "k"}}
        )
        started = await running.start(community, VOTE)
        process = started.headers["location"].rpartition("/")[2]
        task = f"task/{community}/tutorial.count-calls"
        await temporal.get_schedule_handle(task).trigger()
        ours = (process_workflow_id(community, VOTE, process), task, f"community/{community}")
        for workflow in ours:
            limit = await eventually(lambda workflow=workflow: _limit(temporal, workflow))
            assert limit >= 3 + 600 + 50


async def _limit(temporal: Client, workflow: str) -> int:
    """How long the first activity of a workflow may take; 0 if it has none yet."""
    prefix = f"WorkflowId STARTS_WITH '{workflow}'"
    async for execution in temporal.list_workflows(prefix):
        history = await temporal.get_workflow_handle(
            execution.id, run_id=execution.run_id
        ).fetch_history()
        for event in history.events:
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.start_to_close_timeout.seconds:
                return scheduled.start_to_close_timeout.seconds
    return 0


async def test_a_namespace_that_is_not_there_is_named(temporal: Client) -> None:
    config = temporal.service_client.config
    client = await Client.connect(config.target_host, namespace="nowhere")
    with pytest.raises(SettingsError, match=r"no namespace 'nowhere'; make it there"):
        await ensure_search_attributes(client, SEARCH_ATTRIBUTES)


def test_a_broken_secret_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "driver-webhook-secret").write_text("nonsense")
    with pytest.raises(SettingsError, match=f"The secret in {tmp_path}/driver-webhook-secret must"):
        check_settings(Settings(data_dir=tmp_path))
