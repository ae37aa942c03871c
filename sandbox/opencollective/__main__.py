"""``python -m sandbox.opencollective``: runs the Open Collective twin on loopback."""

from __future__ import annotations

from typing import Annotated

import typer

from sandbox.opencollective.api import create_app
from sandbox.opencollective.models import SLUG
from sandbox.opencollective.state import API_KEY, OpenCollectiveTwin
from sandbox.serving import run


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback.")] = 9294,
    public_webhooks_only: Annotated[
        bool, typer.Option(help="Refuse webhooks to loopback, as the platform does.")
    ] = False,
) -> None:
    """Run the twin on loopback, to vote by hand at its first page."""
    twin = OpenCollectiveTwin(public_webhooks_only=public_webhooks_only)
    run(create_app(twin), port, f"token: {API_KEY}  collective: {SLUG}")


if __name__ == "__main__":
    typer.run(main)
