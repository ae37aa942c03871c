"""The one door of the plugin SDK: all that a plugin author imports."""

from engine.errors import (
    AuthenticationError,
    BadWebhookError,
    ConfigurationError,
    NotFoundError,
    PlatformDownError,
    PlatformRejectedError,
    PlatformUnreachableError,
    PluginError,
    RateLimitError,
    RegistrationError,
    Violation,
)
from engine.sdk import closing, tally
from engine.sdk.authorization import AuthType
from engine.sdk.children import Child
from engine.sdk.http import HttpOptions
from engine.sdk.parameters import Parameters
from engine.sdk.plugin import Community, Plugin
from engine.sdk.process import GovernanceProcess, ProcessStatus
from engine.sdk.registry import Registry
from engine.sdk.schemas import strict_object
from engine.sdk.signatures import Ed25519Signature, HmacSignature
from engine.sdk.state import State
from engine.sdk.voting import VotingStandard
from engine.sdk.webhook import WebhookRequest, WebhookResponse

PluginErrorInternal = PluginError

__all__ = [
    "AuthType",
    "AuthenticationError",
    "BadWebhookError",
    "Child",
    "Community",
    "ConfigurationError",
    "Ed25519Signature",
    "GovernanceProcess",
    "HmacSignature",
    "HttpOptions",
    "NotFoundError",
    "Parameters",
    "PlatformDownError",
    "PlatformRejectedError",
    "PlatformUnreachableError",
    "Plugin",
    "PluginError",
    "PluginErrorInternal",
    "ProcessStatus",
    "RateLimitError",
    "RegistrationError",
    "Registry",
    "State",
    "Violation",
    "VotingStandard",
    "WebhookRequest",
    "WebhookResponse",
    "closing",
    "strict_object",
    "tally",
]
