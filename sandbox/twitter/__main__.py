"""``python -m sandbox.twitter``: runs the X twin on loopback."""

from __future__ import annotations

from typing import Annotated

import typer

from sandbox.serving import run
from sandbox.twitter.api import create_app
from sandbox.twitter.state import ACCOUNT, USER_BEARER, TwitterTwin


def main(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback.")] = 9295,
) -> None:
    """Run the twin on loopback; people post at its first page."""
    run(create_app(TwitterTwin()), port, f"bearer token: {USER_BEARER}  account: {ACCOUNT}")


if __name__ == "__main__":
    typer.run(main)
