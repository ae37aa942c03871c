"""``python -m sandbox.loomio``: runs the Loomio twin on loopback."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from sandbox.loomio.api import create_app
from sandbox.loomio.state import API_KEY, GROUP, LoomioTwin
from sandbox.serving import run


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback.")] = 9292,
    old_webhooks: Annotated[
        bool, typer.Option(help="Send webhooks in the form of 2021, with kind and url.")
    ] = False,
    job_lag_seconds: Annotated[
        float, typer.Option(min=0, help="How late the background job closes polls.")
    ] = 0,
) -> None:
    """Run the twin on loopback, to vote by hand at its first page."""
    twin = LoomioTwin(old_webhooks=old_webhooks, job_lag=timedelta(seconds=job_lag_seconds))
    run(create_app(twin), port, f"API key: {API_KEY}  group: {GROUP}")


if __name__ == "__main__":
    typer.run(main)
