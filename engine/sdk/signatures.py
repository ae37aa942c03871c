"""How platforms sign their webhooks: schemes as data, each a pure function of its inputs.

An empty secret never verifies: an HMAC under the empty key is one that any stranger can compute.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from engine.sdk.webhook import WebhookRequest


@dataclass(frozen=True)
class HmacSignature:
    """A keyed hash of the body.

    Attributes:
        header: The header that holds the signature.
        secret: Name of the config property that holds the secret.
        algorithm: Name of the hash.
        encoding: How the signature is written.
        prefix: What stands before it in the header, such as ``sha256=``.
        signed: What is signed: a text in which ``{body}`` and ``{timestamp}`` are replaced.
        timestamp_header: The header with the time, in seconds since the epoch, if one is sent.
        tolerance_seconds: How far that time may lie from now, either way.
        required: Whether an instance without a secret refuses all webhooks; else it takes them
            unsigned.
    """

    header: str
    secret: str
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    signed: str = "{body}"
    timestamp_header: str | None = None
    tolerance_seconds: float = 300
    required: bool = True

    def verify(self, request: WebhookRequest, config: Mapping[str, Any], now: datetime) -> bool:
        """Check a webhook's signature (RFC 2104), in constant time.

        Args:
            request: The webhook.
            config: The instance's config, which holds the secret.
            now: The present time.

        Returns:
            True if it verifies; False on anything else, however garbled.
        """
        secret = config.get(self.secret)
        if not isinstance(secret, str) or not secret:
            return not self.required
        timestamp = _timestamp(request, self.timestamp_header, self.tolerance_seconds, now)
        if timestamp is None:
            return False
        digest = hmac.new(
            secret.encode(), _signed(self.signed, timestamp, request.body), self.algorithm
        ).digest()
        text = digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()
        sent = request.headers.get(self.header, "")
        return hmac.compare_digest((self.prefix + text).encode(), sent.encode("utf-8", "replace"))


@dataclass(frozen=True)
class Ed25519Signature:
    """A signature by the platform's private key (RFC 8032).

    Attributes:
        header: The header that holds the signature, in hex.
        public_key: Name of the config property that holds the public key, in hex.
        timestamp_header: The header with the time, if one is sent.
        signed: What is signed: a text in which ``{body}`` and ``{timestamp}`` are replaced.
        tolerance_seconds: How far the time may lie from now; None: its age does not matter.
    """

    header: str
    public_key: str
    timestamp_header: str | None = None
    signed: str = "{timestamp}{body}"
    tolerance_seconds: float | None = None

    def verify(self, request: WebhookRequest, config: Mapping[str, Any], now: datetime) -> bool:
        """Check a webhook's signature.

        Args:
            request: The webhook.
            config: The instance's config, which holds the public key.
            now: The present time.

        Returns:
            True if it verifies; False on anything else, however garbled.
        """
        timestamp = _timestamp(request, self.timestamp_header, self.tolerance_seconds, now)
        if timestamp is None:
            return False
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(config[self.public_key])))
            signature = binascii.unhexlify(request.headers.get(self.header, ""))
            key.verify(signature, _signed(self.signed, timestamp, request.body))
        except (InvalidSignature, KeyError, ValueError):
            return False
        return True


SignatureScheme = HmacSignature | Ed25519Signature


def _timestamp(
    request: WebhookRequest, header: str | None, tolerance: float | None, now: datetime
) -> str | None:
    """The time as it was sent, empty if the scheme has none; None if it is missing or too far."""
    if header is None:
        return ""
    sent = request.headers.get(header, "")
    if not sent:
        return None
    if tolerance is not None:
        try:
            distance = abs(now.timestamp() - float(sent))
        except ValueError:
            return None
        if not distance <= tolerance:
            return None
    return sent


def _signed(template: str, timestamp: str, body: bytes) -> bytes:
    before, found, after = template.replace("{timestamp}", timestamp).partition("{body}")
    return before.encode() + (body if found else b"") + after.encode()
