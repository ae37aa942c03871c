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


class WebhookRequest:
    """A webhook as it came.

    Attributes:
        body: The bytes.
        headers: By name, whatever its case.
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
        self.headers: Mapping[str, str] = httpx.Headers(dict(headers))
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
