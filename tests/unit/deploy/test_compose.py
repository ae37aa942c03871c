"""docker-compose.yml and what it needs: secrets, health checks, versions, files."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.health import router as health
from engine.settings import Settings
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")
ONE_OFFS = {
    name
    for service in SERVICES.values()
    for name, needed in service.get("depends_on", {}).items()
    if needed["condition"] == "service_completed_successfully"
}


def test_every_secret_must_be_given() -> None:
    """A secret is a required variable, alone or inside a URL."""
    secrets = {
        (name, key): value
        for name, service in SERVICES.items()
        for key, value in service.get("environment", {}).items()
        if re.search(r"PASSWORD|PWD|SECRET|_KEY$", key)
    }
    assert len(secrets) >= 5
    for place, value in secrets.items():
        assert REQUIRED.fullmatch(str(value)), f"{place} is not a required variable"
    for service in SERVICES.values():
        for value in service.get("environment", {}).values():
            if credentials := re.search(r"://[^:/@]*:(?P<password>.+)@", str(value)):
                assert REQUIRED.fullmatch(credentials["password"])


def test_every_service_that_stays_up_is_checked() -> None:
    """What stays up has a health check and is started again; what ends has neither."""
    assert {"temporal-schema", "temporal-namespace", "migrate"} == ONE_OFFS
    for name, service in SERVICES.items():
        stays_up = name not in ONE_OFFS
        assert ("healthcheck" in service) is stays_up, name
        assert (service["restart"] == "unless-stopped") is stays_up, name


def test_dependencies_can_be_waited_for() -> None:
    """Who waits for health waits for a service that has a health check."""
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_OFFS else "service_healthy"
            assert needed in SERVICES, name
            assert how["condition"] == expected, f"{name} waits for {needed}"


def test_the_api_is_asked_whether_it_is_ready() -> None:
    """The path of the API's health check is one that it serves."""
    (path,) = re.findall(r":8000(/\w+)", SERVICES["api"]["healthcheck"]["test"][-1])
    assert path in {route.path for route in health.routes}  # type: ignore[attr-defined]


def test_images_are_pinned() -> None:
    """Each image names a version; ours is the project's."""
    for name, service in SERVICES.items():
        _, mark, tag = service["image"].partition(":")
        assert mark, f"{name} has no tag"
        assert re.match(r"\d", tag), f"{name} has the tag {tag}"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert COMPOSE["x-engine"]["image"] == f"metagov-engine:{project['version']}"


def test_temporal_is_the_embedded_one() -> None:
    """The cluster has the version that `make run` starts and that the tests run against."""
    output = subprocess.run(
        [Path(sys.executable).parent / "temporal", "--version"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    server, ui = re.findall(r"(?:Server|UI) ([\d.]+)", output)
    assert SERVICES["temporal"]["image"] == f"temporalio/server:{server}"
    assert SERVICES["temporal-schema"]["image"] == f"temporalio/admin-tools:{server}"
    assert SERVICES["temporal-namespace"]["image"] == f"temporalio/admin-tools:{server}"
    assert SERVICES["temporal-ui"]["image"] == f"temporalio/ui:{ui}"


def test_every_variable_is_a_setting() -> None:
    """A METAGOV_ variable that the engine does not know would be silently without effect."""
    used = set(re.findall(r"METAGOV_(\w+)", TEXT))
    assert "DATABASE_URL" in used
    assert used <= {name.upper() for name in Settings.model_fields}


def test_the_settings_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine accepts the environment that its containers get."""
    given = variables()
    for key, value in COMPOSE["x-engine"]["environment"].items():
        if value is not None:
            value = re.sub(r"\$\{(\w+):-([^}]+)\}", r"\2", value)
            monkeypatch.setenv(key, REQUIRED.sub(lambda found: given[found[1]], value))
    settings = Settings()
    assert settings.temporal_target == "temporal:7233"
    assert settings.base_url == "http://127.0.0.1:8000"
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == (
        f"postgresql://metagov:{given['POSTGRES_PASSWORD']}@postgres:5432/metagov"
    )
    assert not settings.allow_loopback
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > settings.worker_grace_seconds


def test_mounted_files_exist() -> None:
    """Each mounted file is there, and each path under /deploy is mounted."""
    for name, service in SERVICES.items():
        mounts = [mount.split(":") for mount in service.get("volumes", [])]
        for source, *_ in mounts:
            exists = (REPOSITORY / source).is_file()
            assert exists if source.startswith("./") else source in COMPOSE["volumes"], source
        named = [*service.get("entrypoint", []), *service.get("environment", {}).values()]
        wanted = {path for path in named if str(path).startswith("/deploy/")}
        assert wanted <= {target for _, target, *_ in mounts}, name


def test_the_image_gets_what_it_copies() -> None:
    """Each file that the Dockerfile copies exists and is not ignored."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert "requirements.lock" in copied
    for source in copied:
        path = REPOSITORY / source
        assert path.exists(), source
        assert f"!{source}{'/' if path.is_dir() else ''}" in ignored, source
    health_check = SERVICES["worker"]["healthcheck"]["test"][-1]
    assert f"COPY deploy/worker_health.py {health_check}" in dockerfile


def test_compose_accepts_it() -> None:
    """Docker's own reader accepts the file, and refuses it without the secrets."""
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("docker with its compose plugin is not here")
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    command = [
        docker,
        "compose",
        "--env-file",
        os.devnull,
        "-f",
        str(REPOSITORY / "docker-compose.yml"),
    ]
    for environment, accepted in ((bare | variables(), True), (bare, False)):
        output = subprocess.run(
            [*command, "config", "--quiet"], env=environment, capture_output=True, text=True
        )
        assert (output.returncode == 0) is accepted, output.stderr


def variables() -> dict[str, str]:
    """Values for the variables that must be given."""
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    return {
        "POSTGRES_PASSWORD": os.urandom(24).hex(),
        "METAGOV_SECRET_KEY": key,
        "METAGOV_DRIVER_WEBHOOK_SECRET": f"whsec_{key}",
    }
