"""Every limit and address of the engine: one typed class, read from METAGOV_* variables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engine.errors import EngineError


class SettingsError(EngineError):
    """The environment holds a setting that is not valid."""

    kind = "settings"
    title = "Settings not valid"


class Settings(BaseSettings):
    """The engine's settings; each is the variable ``METAGOV_`` plus its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="METAGOV_", extra="ignore", frozen=True)

    data_dir: Path = Field(
        Path(".metagov"), description="Folder for the embedded engine's data and generated keys."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address that the API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port of the API.")
    temporal_port: int = Field(
        7233, ge=1, le=65535, description="Port of the embedded Temporal server."
    )
    temporal_ui_port: int = Field(
        8233, ge=1, le=65535, description="Port of the embedded Temporal UI."
    )
    public_url: str | None = Field(
        None, description="Base URL under which platforms reach the API; default: the API's own."
    )
    temporal_address: str | None = Field(
        None, description="host:port of a Temporal cluster; unset: the embedded server."
    )
    temporal_namespace: str = Field("default", min_length=1, description="Temporal namespace.")
    temporal_api_key: SecretStr | None = Field(
        None, description="API key of a Temporal cluster; switches TLS on."
    )
    temporal_tls: bool = Field(False, description="Whether to speak TLS with the cluster.")
    temporal_bin: Path | None = Field(
        None, description="Path of the temporal binary; default: the one that is installed with us."
    )
    temporal_retention_days: int = Field(
        30, ge=1, le=3650, description="Days that the embedded server keeps closed workflows."
    )
    task_queue: str = Field(
        "metagov", min_length=1, description="Task queue of workflows and activities."
    )
    database_url: SecretStr | None = Field(
        None, description="postgresql:// or sqlite:// URL; default: SQLite in the data folder."
    )
    database_pool_size: int = Field(
        10,
        ge=1,
        le=200,
        description="Connections per process for reading, and as many for writing.",
    )
    database_timeout_seconds: float = Field(
        20, gt=0, le=600, description="How long to wait for a connection or for SQLite's lock."
    )
    database_outage_seconds: float = Field(
        60,
        ge=0,
        le=600,
        description="How long what plugin code did waits to be stored while the database is out.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Fernet key(s) that encrypt plugin configs, comma-separated, the first one "
        "encrypts; default: made once in the data folder.",
    )
    driver_event_receiver_url: str | None = Field(
        None, description="Where events are POSTed; unset: they are recorded, not sent."
    )
    driver_webhook_secret: SecretStr | None = Field(
        None,
        description="Standard Webhooks secret(s) (whsec_...) that sign deliveries to endpoints "
        "without a secret of their own, comma-separated; default: made once in the data folder.",
    )
    delivery_timeout_seconds: float = Field(
        15, gt=0, le=120, description="How long a driver may take to answer a delivery."
    )
    delivery_retry_days: float = Field(
        3, gt=0, le=30, description="Days during which a failed delivery is tried again."
    )
    delivery_first_retry_seconds: float = Field(
        5, gt=0, le=3600, description="Wait before a delivery's second try; it doubles each time."
    )
    delivery_longest_retry_seconds: float = Field(
        3600, gt=0, le=86400, description="Longest wait between two tries of a delivery."
    )
    max_tries_per_host: int = Field(
        10, ge=1, le=1000, description="Deliveries at once to one host, in one worker."
    )
    delivery_retention_days: float = Field(
        30, gt=0, le=36500, description="Days that ended deliveries and recorded events are kept."
    )
    webhook_retention_days: float = Field(
        30, gt=0, le=36500, description="Days that handled webhooks are kept."
    )
    plugin_path: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Further folders with plugins, colon-separated."
    )
    disabled_plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Plugins that are left out, comma-separated."
    )
    invocation_timeout_seconds: float = Field(
        30, gt=0, le=3600, description="How long one call of plugin code may take."
    )
    worker_wait_seconds: float = Field(
        10, gt=0, le=600, description="How long a request waits for a free worker (then 503)."
    )
    poll_interval_seconds: float = Field(
        60, ge=1, le=86400, description="Default time between two polls of a pending process."
    )
    task_interval_seconds: float = Field(
        60, ge=1, le=86400, description="Default time between two runs of an event producer task."
    )
    max_concurrent_invocations: int = Field(
        100, ge=1, le=2000, description="Calls of plugin code at once in one worker."
    )
    max_concurrent_webhook_handlers: int = Field(
        12, ge=1, le=2000, description="Received webhooks handled at once in one worker."
    )
    max_concurrent_webhook_handlers_per_instance: int = Field(
        3, ge=1, le=2000, description="Those of one plugin instance among them."
    )
    max_concurrent_deliveries: int = Field(
        100, ge=1, le=2000, description="Deliveries at once in one worker."
    )
    close_wait_seconds: float = Field(
        60,
        ge=0,
        le=600,
        description="How long a close waits for webhooks that were accepted before it.",
    )
    most_children: int = Field(
        20, ge=1, le=1000, description="Children of one process that have not ended."
    )
    most_child_levels: int = Field(
        5, ge=1, le=100, description="Levels of children below a process that a driver started."
    )
    most_lost_calls: int = Field(
        3,
        ge=1,
        le=100,
        description="How often a call may take its worker down before it is not made again.",
    )
    most_lost_actions: int = Field(
        3,
        ge=1,
        le=1_000_000,
        description="How many calls of an action may be lost with their workers, each within ten "
        "minutes of the one before, before calls of its plugin instance run in processes of their "
        "own; for actions that are not idempotent.",
    )
    lost_calls_pause_seconds: float = Field(
        600,
        ge=0,
        le=86400,
        description="How long a plugin instance that took so many workers down is not called.",
    )
    worker_grace_seconds: float = Field(
        20, ge=0, le=600, description="How long a stopping worker lets calls of plugin code finish."
    )
    stall_seconds: float = Field(
        20,
        ge=0,
        le=600,
        description="How long the event loop of an API or worker process may stand still, held up "
        "by plugin code, before the process ends to be started again; 0: for ever.",
    )
    max_concurrent_requests: int = Field(
        200, ge=1, le=10000, description="Requests of drivers at once in one API process."
    )
    max_concurrent_webhooks: int = Field(
        2, ge=1, le=10000, description="Webhooks at once in one API process."
    )
    max_concurrent_readers: int = Field(
        1000, ge=1, le=100000, description="Requests that read or wait, at once in one API process."
    )
    capacity_wait_seconds: float = Field(
        5, ge=0, le=60, description="How long a request over these limits waits (then 503)."
    )
    request_arrival_seconds: float = Field(
        10, gt=0, le=600, description="How long a request's head, and its body, may take to arrive."
    )
    request_least_bytes_per_second: int = Field(
        16_384,
        ge=1,
        description="A body may take a second more for every so many bytes that have arrived.",
    )
    max_concurrent_bodies: int = Field(
        1000, ge=1, le=100000, description="Bodies that arrive at once in one API process."
    )
    max_waiting_body_bytes: int = Field(
        67_108_864,
        ge=1024,
        description="Bytes of bodies that arrive or wait for their turn, in one API process.",
    )
    request_max_bytes: int = Field(
        1_048_576, ge=1024, description="Largest body of a request, in bytes."
    )
    request_max_depth: int = Field(
        64, ge=4, le=200, description="Deepest nesting of JSON in a request."
    )
    record_max_bytes: int = Field(
        262_144, ge=1024, le=1_500_000, description="Largest outcome or errors of a process, bytes."
    )
    result_max_bytes: int = Field(
        1_048_576, ge=1024, description="Largest result of an action, in bytes of JSON."
    )
    event_max_bytes: int = Field(
        262_144, ge=1024, description="Largest event of a plugin, in bytes of JSON."
    )
    response_max_bytes: int = Field(
        10_485_760,
        ge=1024,
        description="Largest body of a platform's response, in bytes, as sent and decoded.",
    )
    idempotency_hours: float = Field(
        24, gt=0, le=720, description="Hours that an Idempotency-Key is remembered."
    )
    invocation_retention_days: float = Field(
        30, gt=0, le=36500, description="Days that finished invocations and changes are kept."
    )
    outbound_allow_loopback: bool | None = Field(
        None,
        description="Whether callbacks and plugins may call this machine; default: yes if the API "
        "itself listens on loopback.",
    )
    outbound_allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Private networks (CIDR, comma-separated) that may be called."
    )
    log_format: Literal["console", "json"] = Field(
        "json", description="Lines for people (console) or for machines (json)."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )

    @field_validator("plugin_path", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(":") if part)
        return value

    @field_validator("outbound_allowed_networks", "disabled_plugins", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        found = list(self._contradictions())
        if found:
            raise PydanticCustomError("contradiction", "{found}", {"found": "; ".join(found)})
        return self

    def _contradictions(self) -> Iterator[str]:
        """Settings that are valid each, and with which the engine cannot do its work."""
        if self.temporal_address is None:
            ports: dict[int, str] = {}
            for name in ("port", "temporal_port", "temporal_ui_port"):
                port = getattr(self, name)
                if port in ports:
                    yield (
                        f"{_variable(ports[port])} and {_variable(name)} are both {port}; "
                        "each needs a port of its own"
                    )
                ports.setdefault(port, name)
            # The embedded server speaks neither.
            for name in ("temporal_tls", "temporal_api_key"):
                if getattr(self, name):
                    yield (
                        f"{_variable(name)} is set without METAGOV_TEMPORAL_ADDRESS; it is for a "
                        "cluster, whose address is needed too"
                    )
        # The server refuses every delivery whose first wait is longer than the longest.
        if self.delivery_first_retry_seconds > self.delivery_longest_retry_seconds:
            yield (
                f"METAGOV_DELIVERY_FIRST_RETRY_SECONDS ({self.delivery_first_retry_seconds:g}) is "
                f"more than METAGOV_DELIVERY_LONGEST_RETRY_SECONDS "
                f"({self.delivery_longest_retry_seconds:g}); at most the same is allowed"
            )
        # One wait for a lock would be longer than all waiting may be; 0 asks for no waiting at all.
        if 0 < self.database_outage_seconds < self.database_timeout_seconds:
            yield (
                f"METAGOV_DATABASE_OUTAGE_SECONDS ({self.database_outage_seconds:g}) is less than "
                f"METAGOV_DATABASE_TIMEOUT_SECONDS ({self.database_timeout_seconds:g}); allowed is "
                "0, or at least that"
            )
        # The key of an action under way would be forgotten, and its effect made a second time.
        if self.idempotency_hours * 3600 < self.longest_action_seconds:
            yield (
                f"METAGOV_IDEMPOTENCY_HOURS ({self.idempotency_hours:g}) is less than an action "
                "may take with METAGOV_INVOCATION_TIMEOUT_SECONDS "
                f"({self.invocation_timeout_seconds:g}), METAGOV_DATABASE_OUTAGE_SECONDS "
                f"({self.database_outage_seconds:g}), METAGOV_DATABASE_TIMEOUT_SECONDS "
                f"({self.database_timeout_seconds:g}) and METAGOV_WORKER_WAIT_SECONDS "
                f"({self.worker_wait_seconds:g}); at least "
                f"{self.longest_action_seconds / 3600:.3g} hours are needed"
            )
        # A key that is remembered would lead to a result that is forgotten.
        if self.invocation_retention_days * 24 < self.idempotency_hours:
            yield (
                f"METAGOV_INVOCATION_RETENTION_DAYS ({self.invocation_retention_days:g}) is less "
                f"than METAGOV_IDEMPOTENCY_HOURS ({self.idempotency_hours:g}); at least "
                f"{self.idempotency_hours / 24:.3g} days are needed"
            )

    @property
    def storing_seconds(self) -> float:
        """How long what a call of plugin code did may have to wait until it is stored."""
        return self.database_outage_seconds + self.database_timeout_seconds

    @property
    def longest_action_seconds(self) -> float:
        """How long an action may be under way, with its further tries."""
        return self.worker_wait_seconds + 3 * (
            self.invocation_timeout_seconds + self.storing_seconds
        )

    @property
    def temporal_target(self) -> str:
        """The host:port of the Temporal server in use."""
        return self.temporal_address or f"{self.host}:{self.temporal_port}"

    @property
    def api_url(self) -> str:
        """The API's own base URL, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL under which platforms reach the API."""
        return (self.public_url or self.api_url).rstrip("/")

    @property
    def allow_loopback(self) -> bool:
        """Whether outbound requests may go to this machine."""
        if self.outbound_allow_loopback is not None:
            return self.outbound_allow_loopback
        return self.host in {"127.0.0.1", "::1", "localhost"}

    @property
    def webhooks_task_queue(self) -> str:
        """The task queue of received webhooks, so that a flood of them delays nothing else."""
        return f"{self.task_queue}-webhooks"

    @property
    def deliveries_task_queue(self) -> str:
        """The task queue of deliveries, so that slow drivers hold up nobody's plugin calls."""
        return f"{self.task_queue}-deliveries"


def _variable(name: str) -> str:
    return f"METAGOV_{name.upper()}"


def unknown_settings(names: Iterable[str]) -> list[str]:
    """Find environment variables that look like settings and are none.

    Args:
        names: The environment's variables.

    Returns:
        A sentence for each.
    """
    known = [_variable(name) for name in Settings.model_fields]
    found = []
    for name in sorted(names):
        if name.startswith(_variable("")) and name not in known:
            alike = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            advice = f"; did you mean {alike[0]}?" if alike else ""
            found.append(f"{name} is no setting{advice}")
    return found


def load_settings() -> Settings:
    """Read the settings from the environment.

    Returns:
        The settings.

    Raises:
        SettingsError: A variable is not valid; the message names it and what is allowed,
            without its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{_variable(str(item['loc'][0]))}: {item['msg']}" if item["loc"] else item["msg"]
            for item in error.errors()
        )
        raise SettingsError(f"Settings not valid: {problems}") from None
