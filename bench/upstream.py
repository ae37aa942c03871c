"""A platform, or a driver, as slow as is configured; it notes when it was asked what."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


class Upstream:
    """Takes requests.

    Attributes:
        url: Its base URL.
        seconds: How long it takes to answer.
        asked: When each path was asked for, in seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self.url = ""
        self.seconds = 0.0
        self.asked: defaultdict[str, list[float]] = defaultdict(list)
        self._waiting: dict[str, asyncio.Future[None]] = {}

    def expect(self, path: str) -> asyncio.Future[None]:
        """A future that is done once something comes to a path."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[path] = future
        return future

    async def take(self, request: Request) -> Response:
        """Take a request."""
        await request.body()
        path = request.url.path
        self.asked[path].append(time.monotonic())
        future = self._waiting.pop(path, None)
        if future is not None:
            future.set_result(None)
        await asyncio.sleep(self.seconds)
        return JSONResponse({})


@asynccontextmanager
async def upstream(seconds: float = 0.0) -> AsyncIterator[Upstream]:
    """Serve one on a free port.

    Args:
        seconds: How long it takes to answer.

    Yields:
        The server.
    """
    served = Upstream()
    served.seconds = seconds
    app = Starlette(routes=[Route("/{path:path}", served.take, methods=["GET", "POST"])])
    # With its protocol named, accepted sockets get TCP_NODELAY from asyncio.
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield served
    server.should_exit = True
    await task
