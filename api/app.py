"""The application: what it holds open, its routers in one list, its one error handler."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from asgi_correlation_id import CorrelationIdMiddleware, correlation_id
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from temporalio.client import Client

from api import (
    actions,
    communities,
    deliveries,
    endpoints,
    events,
    health,
    journal,
    plugins,
    processes,
    webhooks,
)
from api.bodies import Bodies
from api.capacity import Capacity
from api.dependencies import refuse_nul
from api.openapi import install_openapi
from api.problems import install_problem_handlers
from engine.activities.restored import notice_restored
from engine.discovery import load_plugins
from engine.logs import configure_logs
from engine.requests.feed import Feed
from engine.requests.hand_over import HandOver
from engine.resources import check_settings, open_engine
from engine.settings import Settings, load_settings

log = structlog.get_logger()

ROUTERS = [
    communities.router,  # /api/internal/community
    plugins.router,  # /api/internal/plugins
    actions.router,  # /api/internal/action, /api/action
    processes.router,  # /api/internal/process
    events.router,  # /api/internal/events
    deliveries.router,  # /api/internal/deliveries
    endpoints.router,  # /api/internal/endpoints
    journal.router,  # /api/internal/webhooks
    webhooks.router,  # /api/hooks
    health.router,  # /healthz, /readyz
]

DESCRIPTION = """Online communities govern themselves through this API: drivers perform **actions**
on platforms, run **governance processes** and receive **events**. Errors are
`application/problem+json` (RFC 9457)."""


def create_app(settings: Settings | None = None, client: Client | None = None) -> FastAPI:
    """Make the application.

    Args:
        settings: The settings; default: those of the environment.
        client: A connected Temporal client to use, such as a test environment's.

    Returns:
        The application; it opens database and Temporal when it starts.

    Raises:
        SettingsError: A setting does not work.
        RegistrationError: A plugin does not work.
    """
    chosen = settings or load_settings()
    configure_logs(chosen)
    check_settings(chosen)
    load_plugins(chosen.plugin_path, chosen.disabled_plugins)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with open_engine(chosen, lazy=True, client=client) as engine:
            # Before this process delivers anything.
            await notice_restored(engine, at_once=True)
            app.state.feed = feed = Feed(engine.database, chosen.data_dir)
            hand_over = HandOver(
                engine.temporal.background, engine.schedules, chosen.max_concurrent_webhooks
            )
            engine.schedules.reconcile_when_reachable()
            log.info("api ready", url=chosen.api_url)
            yield {"engine": engine, "feed": feed, "hand_over": hand_over}
            await feed.close()
            await hand_over.close()

    app = FastAPIOffline(
        title="Metagov Engine",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        dependencies=[Depends(refuse_nul)],
    )
    app.state.settings = chosen
    for router in ROUTERS:
        app.include_router(router)
    install_problem_handlers(app)
    install_openapi(app)
    app.add_middleware(Capacity, settings=chosen)
    app.add_middleware(Bodies, settings=chosen)
    app.add_middleware(_RequestLog)
    app.add_middleware(
        CorrelationIdMiddleware, header_name="X-Request-ID", validator=_is_request_id
    )
    return app


def _is_request_id(value: str) -> bool:
    return 0 < len(value) <= 128 and value.isascii() and value.isprintable()


class _RequestLog:
    """Writes one line for each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=correlation_id.get())
        started, status = time.perf_counter(), 500

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            if scope["path"] not in ("/healthz", "/readyz"):
                log.info(
                    "request",
                    method=scope["method"],
                    path=_without_slug(scope["path"]),
                    status=status,
                    milliseconds=round((time.perf_counter() - started) * 1000, 1),
                )


def _without_slug(path: str) -> str:
    """A path for the log; a webhook's slug is a secret."""
    parts = path.split("/")
    if parts[1:3] == ["api", "hooks"] and len(parts) > 5:
        parts[5] = "…"
    return "/".join(parts)
