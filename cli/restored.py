"""``metagov restored``: marks a database as restored from a backup, and reports what is known."""

from __future__ import annotations

from collections.abc import Mapping

from cli.run import engine_lock
from cli.supervisor import StartError
from engine.activities.restored import count_unknown, notice_restored
from engine.discovery import load_plugins
from engine.resources import check_settings, open_engine
from engine.settings import Settings
from engine.store import epochs, restoring
from engine.store.database import Database
from engine.store.epochs import DatabaseEpoch
from engine.store.readiness import bring_forward

FOUND_BY = {
    restoring.COMMAND: "you said so",
    restoring.DATA_FOLDER: "the data folder remembers more",
    restoring.TEMPORAL: "Temporal remembers more",
    restoring.CURSOR: "a driver had read further",
}

AT_THE_START = (
    "Processes are put right from what Temporal knows when the engine starts: "
    "run `metagov restored` again then."
)


async def report(settings: Settings, *, again: bool, ran: bool) -> list[str]:
    """Mark the database as restored, unless it is, and report what is known of the time since."""
    check_settings(settings)
    load_plugins(settings.plugin_path, settings.disabled_plugins)
    await bring_forward(settings, may_be_new=False)
    async with open_engine(settings, lazy=True) as engine:
        if await engine.temporal.healthy():
            await engine.temporal.check_namespace()
        before = await _present(engine.database)
        await notice_restored(engine, at_once=not ran)
        if (await _present(engine.database)).epoch == before.epoch:
            with engine_lock(settings.data_dir) as stopped:
                if not stopped and (again or not before.found_by):
                    raise StartError(
                        f"An engine runs on this data ({settings.data_dir}): stop it before its "
                        "database is marked as restored"
                    )
                if stopped:
                    await restoring.mark(
                        engine.database, settings.data_dir, again=again, at_once=not ran
                    )
        present = await _present(engine.database)
        lines = _marked(present, anew=present.epoch != before.epoch)
        if present.put_right is not None:
            return [*lines, *_put_right(present.put_right), *_unknown(present.put_right)]
        if not await engine.temporal.healthy():
            return [*lines, AT_THE_START, _away(settings)]
        return [*lines, AT_THE_START, *_unknown(await count_unknown(engine, present))]


async def _present(database: Database) -> DatabaseEpoch:
    async with database.read() as session:
        return await epochs.present_epoch(session)


def _marked(present: DatabaseEpoch, *, anew: bool) -> list[str]:
    began = f"{present.began_at:%Y-%m-%d %H:%M:%S} UTC"
    first = (
        f"The database is marked as restored; its epoch is now {present.epoch}."
        if anew
        else f"The database was marked as restored at {began} "
        f"({FOUND_BY[present.found_by]}), epoch {present.epoch}; nothing shows that it was "
        "restored since. If it was, say so with --again."
    )
    known = (
        f"The last that it knows of: {present.backup_at:%Y-%m-%d %H:%M:%S} UTC."
        if present.backup_at
        else "When it was backed up is not known."
    )
    return [
        first,
        known,
        f"Positions of all communities go on after {present.continues_after}.",
        f"Cursors from before read on after {present.restored_to} at the latest: "
        "nothing is skipped, some may come again under the same id.",
    ]


def _away(settings: Settings) -> str:
    return (
        f"Temporal does not answer at {settings.temporal_target}: "
        "what else is not known any more cannot be counted."
    )


def _put_right(found: Mapping[str, int]) -> list[str]:
    return [
        "Put right from what Temporal knows:",
        f"  {found['completed']} processes were pending here and have ended: completed so",
        f"  {found['put_back']} processes began and ended since: stored again, without parameters",
        f"  {found['lost']} processes began since and were under way: ended as lost_in_restore",
    ]


def _unknown(found: Mapping[str, int]) -> list[str]:
    return [
        "Not known any more of the time since, by the traces in Temporal:",
        f"  {found['actions']} actions that were asked for; their Idempotency-Keys are forgotten: "
        "a driver that repeats one performs it again",
        f"  {found['webhooks']} webhooks that were accepted; what they changed is undone",
        f"  {found['deliveries']} deliveries that drivers got under ids unknown here",
    ]
