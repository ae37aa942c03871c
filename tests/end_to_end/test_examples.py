"""The example driver, the demo and what the README prints, run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from sandbox.loomio.api import create_app
from sandbox.loomio.state import API_KEY, GROUP, LoomioTwin
from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import EngineProcess
from tests.servers import serve


def run(*arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("METAGOV_")}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_driver_written_for_the_original(engine: EngineProcess) -> None:
    import asyncio

    twin = LoomioTwin()
    async with serve(create_app(twin)) as url:
        config = json.dumps({"server_url": url, "api_key": API_KEY, "group_id": GROUP})
        output = await asyncio.to_thread(
            run, "examples.driver", "--engine", engine.url, "--loomio", config
        )
    assert "/api/hooks/my-community-1234/loomio" in output
    assert re.search(r"drawn by chance: [0-6]\n", output)
    assert re.search(r"outcome by callback: {'winner': '(soup|salad)'}", output)


def test_demo_tells_its_story() -> None:
    output = run("examples.demo")
    for words in ("Grace votes agree", '"winner": [', '"Agree"', "namespaces/default/workflows/"):
        assert words in output


@pytest.mark.parametrize(
    "name", ["README.md", "docs/driver-tutorial.md", "docs/plugin-tutorial.md"]
)
def test_curl_sessions_work_as_printed(engine: EngineProcess, name: str) -> None:
    """Each block marked ``console`` is run; what follows a command must come back."""
    text = (REPOSITORY / name).read_text()
    later = f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}"
    variables: dict[str, str] = {}
    commands = 0
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        # A command goes on in lines that are indented; what follows is what must come back.
        for command, expected in re.findall(
            r"^\$ (.*\n(?:    .*\n)*)((?:(?!\$ ).*\n)*)", block, re.MULTILINE
        ):
            shell = command.strip().replace("http://127.0.0.1:8000", engine.url)
            shell = shell.replace("2027-01-01", later)
            if not shell.startswith(("curl", "LOCATION=")):
                continue
            if shell.startswith("LOCATION="):
                shell += '; echo "location: $LOCATION"'
            done = subprocess.run(
                ["/bin/bash", "-c", shell],
                env=os.environ | variables,
                capture_output=True,
                text=True,
                timeout=60,
            )
            commands += 1
            assert done.returncode == 0, (shell, done.stderr)
            location = re.search(r"^location: (\S+)", done.stdout, re.MULTILINE | re.IGNORECASE)
            if location:
                variables["LOCATION"] = location.group(1)
            for line in expected.splitlines():
                pattern = ".*".join(re.escape(part.strip()) for part in line.split("…"))
                assert re.search(pattern, done.stdout, re.DOTALL), (shell, line, done.stdout)
    assert commands >= 3
