"""Real servers for tests: applications on a free port, and a driver that takes deliveries."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@asynccontextmanager
async def serve(app: Any, config: uvicorn.Config | None = None) -> AsyncIterator[str]:
    """Serve an application on a free port of loopback; yields its base URL."""
    # With its protocol named, accepted sockets get TCP_NODELAY from asyncio.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = config or uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            task.result()
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class Driver:
    """A driver's HTTP endpoint: keeps what it receives, answers as the test says."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.answers: list[int] = []

    def to(self, name: str) -> list[dict[str, Any]]:
        """What came to /{name}."""
        return [item["body"] for item in self.received if item["path"] == f"/{name}"]

    async def take(self, request: Request) -> Response:
        body = await request.body()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        status = self.answers.pop(0) if self.answers else 200
        if status < 300:
            self.received.append({"path": request.url.path, "body": await request.json()})
        return Response(status_code=status)


@asynccontextmanager
async def driver_server() -> AsyncIterator[Driver]:
    driver = Driver()
    app = Starlette(routes=[Route("/{name:path}", driver.take, methods=["POST"])])
    async with serve(app) as url:
        driver.url = url
        yield driver


async def eventually(
    check: Callable[[], Any] | Callable[[], Awaitable[Any]], seconds: float = 15
) -> Any:
    """Wait until a check gives something true, and give it; fails when the time is up."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert asyncio.get_running_loop().time() < deadline, f"not true within {seconds} s"
        await asyncio.sleep(0.05)
