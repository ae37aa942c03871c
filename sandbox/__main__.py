"""``make sandbox``: runs the twins of all platforms on loopback, to play a vote by hand."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack

from sandbox.discourse import api as discourse_api
from sandbox.discourse import state as discourse
from sandbox.loomio import api as loomio_api
from sandbox.loomio import state as loomio
from sandbox.opencollective import api as opencollective_api
from sandbox.opencollective import state as opencollective
from sandbox.opencollective.models import SLUG
from sandbox.serving import serve_in_thread
from sandbox.twitter import api as twitter_api
from sandbox.twitter import state as twitter


def main() -> None:
    """Run the twins until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell's background command starts with SIGINT ignored.
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        group, forum, collective, timeline = (
            stack.enter_context(serve_in_thread(app, port))
            for app, port in (
                (loomio_api.create_app(loomio.LoomioTwin()), 9292),
                (discourse_api.create_app(discourse.DiscourseTwin()), 9293),
                (opencollective_api.create_app(opencollective.OpenCollectiveTwin()), 9294),
                (twitter_api.create_app(twitter.TwitterTwin()), 9295),
            )
        )
        print(
            f"Loomio twin: {group}  API key: {loomio.API_KEY}  group: {loomio.GROUP}\n"
            f"Discourse twin: {forum}  API key: {discourse.API_KEY}  "
            f"user: {discourse.BOT}  webhook secret: {discourse.WEBHOOK_KEY}\n"
            f"Open Collective twin: {collective}  token: {opencollective.API_KEY}  "
            f"collective: {SLUG}\n"
            f"X twin: {timeline}  bearer token: {twitter.USER_BEARER}  "
            f"account: {twitter.ACCOUNT}\n"
            "Ctrl-C stops them.",
            flush=True,
        )
        stop.wait()
        print("Stopped.")


if __name__ == "__main__":
    main()
