"""Serves a twin on loopback: as an application, in a thread, or from the command line."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import typer
import uvicorn
from fastapi import FastAPI, Request

from sandbox.twin import Twin


def new_app(twin: Twin, title: str) -> FastAPI:
    """Make an application without routes.

    Args:
        twin: What it serves; its routes get it by ``Depends(served_twin)``.
        title: Its title.

    Returns:
        The application. While it is served, webhooks are sent, and the background job runs.
    """
    app = FastAPI(title=title, lifespan=_alive, docs_url=None, redoc_url=None)
    app.state.twin = twin
    return app


async def served_twin(request: Request) -> Any:
    """The twin that a request's application serves."""
    return request.app.state.twin


@contextmanager
def serve_in_thread(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve a twin on loopback, in a thread.

    Args:
        app: The twin's application.
        port: The port; 0: a free one.

    Yields:
        Its base URL.

    Raises:
        BadParameter: The port cannot be had.
        RuntimeError: It did not start.
    """
    listener = _listen(app, port)
    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the twin did not start")
        time.sleep(0.01)
    try:
        yield app.state.twin.base_url
    finally:
        server.should_exit = True
        thread.join(10)


def run(app: FastAPI, port: int, access: str) -> None:
    """Serve a twin on loopback until Ctrl-C, for the command line.

    Args:
        app: The twin's application.
        port: The port; 0: a free one.
        access: What is printed beside its address: keys and names.

    Raises:
        BadParameter: The port cannot be had.
    """
    listener = _listen(app, port)
    typer.echo(f"{app.title}: {app.state.twin.base_url}  {access}")
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


@asynccontextmanager
async def _alive(app: FastAPI) -> AsyncIterator[None]:
    twin: Twin = app.state.twin
    twin.sender.start()
    job = asyncio.create_task(_background_job(twin))
    try:
        yield
    finally:
        job.cancel()
        twin.sender.stop()


async def _background_job(twin: Twin) -> None:
    while True:
        await asyncio.sleep(0.1)
        twin.expire()


def _listen(app: FastAPI, port: int) -> socket.socket:
    listener = socket.socket(proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise typer.BadParameter(f"port {port} cannot be had: {error.strerror}") from None
    app.state.twin.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return listener
