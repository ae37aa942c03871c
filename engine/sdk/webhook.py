"""WebhookRequest: what a platform sent, to be read without trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import httpx

from engine.errors import BadWebhookError

Value = TypeVar("Value")

_NO_DEFAULT: Any = object()


class Headers(httpx.Headers):
    """Headers by name, whatever its case, with dashes or underscores between its words."""

    def __getitem__(self, key: str) -> str:
        """Read a header."""
        return super().__getitem__(key.replace("_", "-"))

    def __contains__(self, key: object) -> bool:
        """Whether a header was sent."""
        return isinstance(key, str) and super().__contains__(key.replace("_", "-"))


class WebhookRequest:
    """A webhook as it came.

    It reads as Django's requests do too: ``POST``, ``GET``, ``META`` with ``HTTP_X_HUB_SIGNATURE``.

    Attributes:
        body: The bytes.
        headers: By name, whatever its case; underscores count as dashes.
        query: The URL's query.
        path: The URL's path.
        method: The HTTP method.
    """

    def __init__(
        self,
        body: bytes,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
        path: str = "",
        method: str = "POST",
    ) -> None:
        self.body = body
        self.headers: Mapping[str, str] = Headers(dict(headers))
        self.query = dict(query or {})
        self.path = path
        self.method = method

    @property
    def text(self) -> str:
        """The body as text; bytes that are no UTF-8 are replaced."""
        return self.body.decode("utf-8", "replace")

    @property
    def content_type(self) -> str:
        """The media type, without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            BadWebhookError: It is no JSON.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise BadWebhookError("The webhook's body is no JSON") from None

    def form(self) -> dict[str, str]:
        """The body as a URL-encoded form; of a repeated field the last value."""
        return dict(parse_qsl(self.text, keep_blank_values=True))

    @property
    def POST(self) -> dict[str, str]:
        """The fields of a URL-encoded form; empty if the body is none."""
        return self.form() if self.content_type == "application/x-www-form-urlencoded" else {}

    @property
    def GET(self) -> dict[str, str]:
        """The URL's query."""
        return self.query

    @property
    def META(self) -> dict[str, str]:
        """Method, path, and each header as ``HTTP_`` and its name in capitals."""
        named = {key.upper().replace("-", "_"): value for key, value in self.headers.items()}
        plain = {key: named.pop(key) for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if key in named}
        return {
            "REQUEST_METHOD": self.method,
            "PATH_INFO": self.path,
            **plain,
            **{f"HTTP_{key}": value for key, value in named.items()},
        }

    def read(self, path: str, kind: type[Value], default: Value = _NO_DEFAULT) -> Value:
        """Read one value of a JSON body, whose type is not trusted.

        Args:
            path: Names and indexes with dots between, such as ``post.polls.0.name``.
            kind: The type that it must have.
            default: What to give if it is not there.

        Returns:
            The value.

        Raises:
            BadWebhookError: It is not there, or is of another type; the message names the path.
        """
        value = self.json()
        for part in path.split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            elif default is not _NO_DEFAULT:
                return default
            else:
                raise BadWebhookError(f"The webhook's body has no {path}")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise BadWebhookError(
                f"The webhook's {path} is of type {type(value).__name__}, not {kind.__name__}"
            )
        return value


@dataclass(frozen=True)
class WebhookResponse:
    """What a plugin answers at once.

    Attributes:
        status: HTTP status.
        body: Text, bytes, or a dictionary for JSON.
        content_type: Media type; default: by the body.
    """

    status: int = 200
    body: bytes | str | dict[str, Any] | None = None
    content_type: str | None = None
