"""Errors as values of the field, each with its HTTP problem and its retry decision.

The tree, with ``kind`` in brackets and the HTTP status that a driver sees:

    EngineError                        500
    ├── BadRequestError                400  what the caller sent is not valid
    │   ├── BadWebhookError            400  a webhook's body is not what it should be
    │   └── OutboundRefusedError       400  an address that the engine must not call
    ├── ResourceNotFoundError          404
    ├── NotSupportedError              405
    ├── RequestTimeoutError            408  a request that did not arrive in time
    ├── ConflictError                  409
    ├── IdempotencyMismatchError       422  an idempotency key used with another body
    ├── UnavailableError               503  nothing was done; the same request may be sent again
    ├── InvocationError                     plugin code was called, or should have been
    │   ├── PluginCodeError            500  the plugin itself is at fault
    │   ├── PluginTimeoutError         504  the plugin's method did not end in time
    │   ├── StateConflictError         409  another call changed the state that this one relied on
    │   ├── OutcomeUnknownError        504  a first try may or may not have had its effect
    │   ├── WorkerLostError            500  its calls took workers down; it is not called again
    │   ├── PluginPausedError          503  so did other calls of the plugin; it rests for a while
    │   └── PluginError                502  the platform failed the plugin
    │       ├── ConfigurationError          [configuration]
    │       ├── AuthenticationError         [authentication]
    │       ├── RateLimitError              [rate_limit]          retried: the platform did nothing
    │       ├── NotFoundError               [not_found]
    │       ├── PlatformRejectedError       [platform_rejected]
    │       └── PlatformDownError           [platform_down]
    │           └── PlatformUnreachableError [platform_unreachable] retried: it was never reached
    └── RegistrationError              (a plugin's declaration is wrong; stops the start)

``nothing_done`` is the retry decision: true only for failures that prove that the platform did
nothing, so that trying once more cannot repeat an effect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

LONGEST_DETAIL = 4000


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong in a document.

    Attributes:
        path: JSON Pointer (RFC 6901) to the place.
        message: What is wrong there and what is allowed.
    """

    path: str
    message: str


class EngineError(Exception):
    """Base of everything that the engine raises on purpose.

    Attributes:
        kind: Short stable name of the error, the last part of the problem's ``type``.
        title: The problem's title.
        status: HTTP status in the facade.
        nothing_done: True if it is proved that nothing happened, so a retry is safe.
        detail: The sentence for the person who reads it.
    """

    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    nothing_done: ClassVar[bool] = False

    def __init__(self, detail: str = "") -> None:
        self.detail = plain_text(detail) or self.title
        super().__init__(self.detail)


class BadRequestError(EngineError):
    """What the caller sent is not valid; ``violations`` name the places."""

    kind = "bad_request"
    title = "Bad request"
    status = 400

    def __init__(self, detail: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(detail)
        self.violations = tuple(violations)


class BadWebhookError(BadRequestError, ValueError):
    """A webhook's body is not what the reader expected."""

    kind = "bad_webhook"
    title = "Bad webhook"


class OutboundRefusedError(BadRequestError):
    """The outbound policy refuses an address."""

    kind = "outbound_refused"
    title = "Address not allowed"


class ResourceNotFoundError(EngineError):
    """There is no such thing here."""

    kind = "not_found"
    title = "Not found"
    status = 404


class SignatureError(EngineError):
    """A webhook's signature does not verify."""

    kind = "bad_signature"
    title = "Signature does not verify"
    status = 401


class RequestTimeoutError(EngineError):
    """A request did not arrive in time."""

    kind = "request_timeout"
    title = "The request did not arrive in time"
    status = 408


class PayloadTooLargeError(EngineError):
    """A body is over its limit."""

    kind = "payload_too_large"
    title = "Body too large"
    status = 413


class UnsupportedMediaTypeError(EngineError):
    """A body has a content type that this endpoint does not read."""

    kind = "unsupported_media_type"
    title = "Unsupported media type"
    status = 415


class NotSupportedError(EngineError):
    """The plugin does not offer this."""

    kind = "not_supported"
    title = "Not supported"
    status = 405


class ConflictError(EngineError):
    """The state of the thing does not allow this now."""

    kind = "conflict"
    title = "Conflict"
    status = 409


class IdempotencyMismatchError(EngineError):
    """An idempotency key came a second time with another body."""

    kind = "idempotency_mismatch"
    title = "Idempotency key used with another body"
    status = 422


class UnavailableError(EngineError):
    """The engine cannot do this now; nothing was done."""

    kind = "unavailable"
    title = "Temporarily unavailable"
    status = 503
    nothing_done = True


class RegistrationError(EngineError):
    """A plugin's declaration is wrong; raised while the plugin is imported."""

    kind = "registration"
    title = "Plugin cannot be registered"


class InvocationError(EngineError):
    """Plugin code was called, or should have been, and gave no result."""

    kind = "invocation"


class PluginCodeError(InvocationError):
    """The plugin itself is at fault: it raised, or returned what it must not."""

    kind = "plugin_code"
    title = "The plugin failed"


class PluginTimeoutError(InvocationError):
    """A plugin's method did not end in time."""

    kind = "plugin_timeout"
    title = "The plugin did not answer in time"
    status = 504


class StateConflictError(InvocationError):
    """Another call changed a key of the state that this one relied on; nothing was stored."""

    kind = "state_conflict"
    title = "The plugin's state was changed meanwhile"
    status = 409


class OutcomeUnknownError(InvocationError):
    """A first try was cut off; whether it had its effect is not known."""

    kind = "outcome_unknown"
    title = "Outcome unknown"
    status = 504


class WorkerLostError(InvocationError):
    """The call took its worker down so often that it is not made again."""

    kind = "worker_lost"
    title = "The plugin takes workers down"


class PluginPausedError(InvocationError):
    """The plugin instance is paused, for its calls took workers down; nothing was done.

    Attributes:
        retry_after_seconds: How long it is paused.
    """

    kind = "plugin_paused"
    title = "The plugin is paused"
    status = 503
    nothing_done = True

    def __init__(self, detail: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class PluginError(InvocationError):
    """The platform failed the plugin: raised by plugins, reported to drivers with its message.

    Raise one of the subclasses where one fits; each has its own ``kind``.
    """

    kind = "plugin"
    title = "The platform failed"
    status = 502


class ConfigurationError(PluginError):
    """The community's config is not usable on the platform."""

    kind = "configuration"
    title = "The plugin's configuration does not work"


class AuthenticationError(PluginError):
    """The platform refuses the credentials."""

    kind = "authentication"
    title = "The platform refused the credentials"


class RateLimitError(PluginError):
    """The platform asks to come back later.

    Attributes:
        retry_after_seconds: How long the platform asks to wait; None if it did not say.
    """

    kind = "rate_limit"
    title = "The platform's rate limit is reached"
    nothing_done = True

    def __init__(self, detail: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(detail)
        wait = retry_after_seconds
        finite = isinstance(wait, int | float) and math.isfinite(wait)
        self.retry_after_seconds = wait if finite else None


class NotFoundError(PluginError):
    """The platform has no such thing."""

    kind = "platform_not_found"
    title = "Not found on the platform"


class PlatformRejectedError(PluginError):
    """The platform understood the request and refused it."""

    kind = "platform_rejected"
    title = "The platform rejected the request"


class PlatformDownError(PluginError):
    """The platform failed, or cut the connection; whether it did something is not known."""

    kind = "platform_down"
    title = "The platform is down"


class PlatformUnreachableError(PlatformDownError):
    """The platform was never reached, so it did nothing."""

    kind = "platform_unreachable"
    title = "The platform cannot be reached"
    nothing_done = True


class RecordedError(InvocationError):
    """An error as it was recorded with an invocation, raised again.

    Args:
        recorded: What ``describe`` made of the first error.
    """

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        super().__init__(str(recorded["detail"]))
        self.recorded = dict(recorded)


def is_storable(text: str) -> bool:
    """Whether every database and JSON can hold a text: no NUL, no half of a surrogate pair.

    Args:
        text: The text.
    """
    return "\x00" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def plain_text(value: object) -> str:
    """Make a text of whatever plugin code or a platform gave, that can be stored and sent.

    Args:
        value: A text, or anything else.

    Returns:
        At most 4000 characters, without NUL and without halves of surrogate pairs.
    """
    try:
        text = str(value)
    except Exception:
        text = type(value).__name__
    if len(text) > LONGEST_DETAIL:
        text = f"{text[: LONGEST_DETAIL - 1]}…"
    return text.encode("utf-8", "replace").decode().replace("\x00", "?")


def describe(error: EngineError) -> dict[str, Any]:
    """Put an error into plain data, to be recorded and reported.

    Args:
        error: The error.

    Returns:
        Its kind, title, status and detail, with violations and retry-after where it has them.
    """
    if isinstance(error, RecordedError):
        return error.recorded
    # Plugins have errors of their own, which may hold anything.
    valid = type(error.status) is int and 400 <= error.status <= 599
    described: dict[str, Any] = {
        "kind": plain_text(error.kind),
        "title": plain_text(error.title),
        "status": error.status if valid else EngineError.status,
        "detail": plain_text(getattr(error, "detail", error)),
    }
    violations: Sequence[Violation] = getattr(error, "violations", ())
    if violations:
        described["errors"] = [{"path": v.path, "message": v.message} for v in violations]
    retry_after: float | None = getattr(error, "retry_after_seconds", None)
    if retry_after is not None:
        described["retry_after_seconds"] = retry_after
    return described
