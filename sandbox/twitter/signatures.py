"""Checks the signatures of OAuth 1.0a that the X twin is sent."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from oauthlib.oauth1 import RequestValidator, ResourceEndpoint


class Verifier(RequestValidator):
    """Knows one app and one user.

    Args:
        keys: ``consumer_key``, ``consumer_secret``, ``access_token``, ``access_token_secret``.
    """

    enforce_ssl = False
    dummy_client = "dummy-client"
    dummy_access_token = "dummy-access"  # noqa: S105  # what oauthlib checks instead of no token
    timestamp_lifetime = 300

    def __init__(self, keys: Mapping[str, str]) -> None:
        super().__init__()
        self._keys = keys
        self._used: set[tuple[str, str]] = set()
        self._endpoint = ResourceEndpoint(self)

    def verify(self, uri: str, method: str, headers: Mapping[str, str]) -> bool:
        """Check a request's signature.

        Args:
            uri: The whole URL.
            method: The method.
            headers: The headers.

        Returns:
            Whether it is the user's, new, and of this time.
        """
        valid, _ = self._endpoint.validate_protected_resource_request(
            uri, http_method=method, headers=dict(headers), realms=[]
        )
        return bool(valid)

    def check_client_key(self, client_key: str) -> bool:
        """Any key has the form of one."""
        return True

    def check_access_token(self, request_token: str) -> bool:
        """Any token has the form of one."""
        return True

    def check_nonce(self, nonce: str) -> bool:
        """Any number has the form of one that is used once."""
        return bool(nonce)

    def validate_client_key(self, client_key: str, request: Any) -> bool:
        """Whether it is the app."""
        return hmac.compare_digest(client_key, self._keys["consumer_key"])

    def validate_access_token(self, client_key: str, token: str, request: Any) -> bool:
        """Whether it is the user."""
        return hmac.compare_digest(token, self._keys["access_token"])

    def validate_timestamp_and_nonce(
        self,
        client_key: str,
        timestamp: str,
        nonce: str,
        request: Any,
        request_token: str | None = None,
        access_token: str | None = None,
    ) -> bool:
        """Whether this number was not used before; oauthlib has checked the time."""
        new = (timestamp, nonce) not in self._used
        self._used.add((timestamp, nonce))
        return new

    def validate_realms(
        self,
        client_key: str,
        token: str,
        request: Any,
        uri: str | None = None,
        realms: Any = None,
    ) -> bool:
        """There are no realms."""
        return True

    def get_client_secret(self, client_key: str, request: Any) -> str:
        """The app's secret."""
        return self._keys["consumer_secret"]

    def get_access_token_secret(self, client_key: str, token: str, request: Any) -> str:
        """The user's secret."""
        return self._keys["access_token_secret"]
