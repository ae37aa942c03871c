"""The engine's story in under a minute: a Loomio poll from its start to the driver's callback.

Starts an engine on free ports with data of its own, a twin of Loomio and a small driver.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from examples.driver import Callbacks, Engine
from sandbox.loomio.api import create_app
from sandbox.loomio.state import API_KEY, GROUP, LoomioTwin
from sandbox.loomio.webhooks import EVENT_KINDS
from sandbox.ports import free_ports
from sandbox.serving import serve_in_thread

COMMUNITY = "park-friends-8f3a"
VOTES = [(502, "Grace", "agree"), (503, "Linus", "agree"), (504, "Mary", "disagree")]


def say(text: str) -> None:
    """Print a line of the story at once."""
    print(text, flush=True)


def main() -> None:
    """Play the story."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, to look around")
    keep: bool = parser.parse_args().keep
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metagov-demo-")))
        say("1. Starting an engine (Temporal server, API, worker) and a twin of Loomio ...")
        ports = free_ports(4)
        engine_url = stack.enter_context(_engine(folder, ports))
        twin = LoomioTwin()
        stack.enter_context(serve_in_thread(create_app(twin), ports[3]))
        ui = f"http://127.0.0.1:{ports[2]}"
        say(f"   API {engine_url}   API docs {engine_url}/docs   Temporal UI {ui}")
        say(f"   Loomio's twin {twin.base_url}")
        record = _story(engine_url, twin)
        workflow = quote(f"process/{COMMUNITY}/loomio.poll/{record['id']}", safe="")
        say("\nLook at it in the Temporal UI" + ("" if keep else " (with --keep, it stays up)"))
        say(f"   the poll's workflow  {ui}/namespaces/default/workflows/{workflow}")
        say(f"   all of its community {ui}/namespaces/default/workflows")
        if keep:
            say("\nCtrl-C ends it.")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                say("")


def _story(engine_url: str, twin: LoomioTwin) -> dict[str, Any]:
    driver, callbacks = Engine(engine_url, COMMUNITY), Callbacks()
    say(f"\n2. The driver enables Loomio for the community {COMMUNITY}.")
    config = {
        "server_url": twin.base_url,
        "api_key": API_KEY,
        "group_id": GROUP,
        "webhook_slug": "b3nch",
    }
    body = {
        "name": COMMUNITY,
        "readable_name": "Park friends",
        "plugins": [{"name": "loomio", "config": config}],
    }
    driver.request("PUT", f"/api/internal/community/{COMMUNITY}", body)
    hooks, _ = driver.request("GET", f"/api/internal/community/{COMMUNITY}/hooks")
    twin.chatbots.append({"server": engine_url + hooks["hooks"][0], "event_kinds": EVENT_KINDS})
    say(f"   Loomio sends its webhooks to {hooks['hooks'][0]}")

    say("\n3. It starts a poll.")
    closing_at = datetime.now(UTC) + timedelta(days=7)
    poll = {
        "callback_url": callbacks.url,
        "title": "Buy a bench for the park?",
        "options": ["agree", "disagree"],
        "poll_type": "proposal",
        "closing_at": closing_at.isoformat(),
    }
    record, headers = driver.request("POST", "/api/internal/process/loomio.poll", poll)
    say(f"   202 Accepted, {headers.get('Location') or headers['location']}")
    say(f"   status {record['status']}, closes at {record['closing_at']}, {record['url']}")

    say("\n4. Members vote on Loomio; each vote comes to the driver by callback.")
    key = record["url"].rpartition("/")[2]
    for user, name, option in VOTES:
        _post(f"{twin.base_url}/sandbox/polls/{key}/vote", {"user": user, "option": option})
        callback = callbacks.received.get(timeout=20)
        counts = {name: vote["count"] for name, vote in callback["outcome"]["votes"].items()}
        say(f"   {name} votes {option}; the driver receives {counts}")

    say("\n5. A member closes the poll on Loomio.")
    _post(f"{twin.base_url}/sandbox/polls/{key}/close", {})
    done = callbacks.completed(seconds=20)
    say("   The driver receives the outcome:")
    say("   " + json.dumps(done["outcome"], indent=2).replace("\n", "\n   "))
    return done


@contextmanager
def _engine(folder: Path, ports: list[int]) -> Iterator[str]:
    url = f"http://127.0.0.1:{ports[0]}"
    log = (folder / "engine.log").open("wb")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("METAGOV_")},
        "METAGOV_DATA_DIR": str(folder / "data"),
        "METAGOV_PORT": str(ports[0]),
        "METAGOV_TEMPORAL_PORT": str(ports[1]),
        "METAGOV_TEMPORAL_UI_PORT": str(ports[2]),
        "METAGOV_WORKER_GRACE_SECONDS": "2",
    }
    if "METAGOV_TEMPORAL_BIN" in os.environ:
        environment["METAGOV_TEMPORAL_BIN"] = os.environ["METAGOV_TEMPORAL_BIN"]
    engine = subprocess.Popen(
        [sys.executable, "-m", "cli", "run"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    assert engine.stdout is not None
    try:
        for line in engine.stdout:
            if b"is running" in line:
                break
        else:
            raise SystemExit((folder / "engine.log").read_text()[-2000:])
        yield url
    finally:
        engine.send_signal(signal.SIGINT)
        engine.wait(60)
        log.close()


def _post(url: str, body: Any) -> None:
    request = urllib.request.Request(  # noqa: S310
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310
        pass


if __name__ == "__main__":
    main()
