"""``make sandbox``: runs the twins of all platforms on loopback, to play a vote by hand."""

from __future__ import annotations

import time
from contextlib import ExitStack

from sandbox import (
    loomio,
    opencollective,
    opencollective_things,
)
from sandbox.discourse.api import create_app as discourse_app
from sandbox.discourse.state import API_KEY as DISCOURSE_KEY
from sandbox.discourse.state import BOT, WEBHOOK_KEY, DiscourseTwin
from sandbox.serving import serve_in_thread
from sandbox.twitter.api import create_app as twitter_app
from sandbox.twitter.state import ACCOUNT, USER_BEARER, TwitterTwin


def main() -> None:
    """Run the twins until Ctrl-C."""
    with ExitStack() as stack:
        group = stack.enter_context(loomio.LoomioTwin().at(9292))
        forum = stack.enter_context(serve_in_thread(discourse_app(DiscourseTwin()), 9293))
        collective = stack.enter_context(opencollective.OpenCollectiveTwin().at(9294))
        timeline = stack.enter_context(serve_in_thread(twitter_app(TwitterTwin()), 9295))
        print(
            f"Loomio twin: {group.base_url}  API key: {loomio.API_KEY}  group: {loomio.GROUP}\n"
            f"Discourse twin: {forum}  API key: {DISCOURSE_KEY}  "
            f"user: {BOT}  webhook secret: {WEBHOOK_KEY}\n"
            f"Open Collective twin: {collective.base_url}  token: {opencollective.API_KEY}  "
            f"collective: {opencollective_things.SLUG}\n"
            f"X twin: {timeline}  bearer token: {USER_BEARER}  account: {ACCOUNT}\n"
            "Ctrl-C stops them.",
            flush=True,
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("Stopped.")


if __name__ == "__main__":
    main()
