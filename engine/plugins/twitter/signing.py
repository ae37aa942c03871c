"""OAuth 1.0a for httpx."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, cast

import httpx
from oauthlib import oauth1


class OAuth1(httpx.Auth):
    """Signs each request, but no JSON body, for an app and a user (RFC 5849, HMAC-SHA1)."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self._client = oauth1.Client(
            config["consumer_key"],
            client_secret=config["consumer_secret"],
            resource_owner_key=config["access_token"],
            resource_owner_secret=config["access_token_secret"],
        )

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request, with the time and a number that is used once."""
        _, headers, _ = self._client.sign(str(request.url), cast("Any", request.method))
        request.headers["Authorization"] = headers["Authorization"]
        yield request
