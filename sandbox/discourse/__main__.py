"""``python -m sandbox.discourse``: runs the Discourse twin on loopback."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from sandbox.discourse.api import create_app
from sandbox.discourse.state import API_KEY, BOT, DiscourseTwin
from sandbox.serving import run


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback.")] = 9293,
    job_lag_seconds: Annotated[
        float, typer.Option(min=0, help="How late the background job closes polls.")
    ] = 0,
) -> None:
    """Run the twin on loopback, to vote by hand at its first page."""
    twin = DiscourseTwin(job_lag=timedelta(seconds=job_lag_seconds))
    run(create_app(twin), port, f"API key: {API_KEY}  user: {BOT}")


if __name__ == "__main__":
    typer.run(main)
