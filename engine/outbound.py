"""The outbound policy: which addresses may be called."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import httpx

from engine.errors import OutboundRefusedError

LONGEST_URL = 2048
# IPv6 networks whose addresses carry an IPv4 address in them (RFC 6052, RFC 3056).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class OutboundPolicy:
    """Says which addresses the engine may call.

    Args:
        allow_loopback: Whether this machine itself may be called.
        allowed_networks: Private networks (CIDR) that may be called.

    Raises:
        OutboundRefusedError: A network is none.
    """

    def __init__(self, *, allow_loopback: bool, allowed_networks: Sequence[str] = ()) -> None:
        self._allow_loopback = allow_loopback
        try:
            self._allowed = [ipaddress.ip_network(network) for network in allowed_networks]
        except ValueError as error:
            raise OutboundRefusedError(
                f"METAGOV_OUTBOUND_ALLOWED_NETWORKS: {error}; write networks as 10.1.0.0/16"
            ) from None

    def allows(self, ip: str) -> bool:
        """Whether an address may be called.

        Args:
            ip: The address.

        Returns:
            True for public addresses, and for those that the settings allow.
        """
        try:
            address = _unwrapped(ipaddress.ip_address(ip.partition("%")[0]))
        except ValueError:
            return False
        if address.is_loopback and self._allow_loopback:
            return True
        if any(address.version == n.version and address in n for n in self._allowed):
            return True
        return address.is_global and not address.is_multicast

    def check_url(self, url: str) -> None:
        """Refuse a URL that can be known to be wrong before its name is looked up.

        Args:
            url: The URL.

        Raises:
            OutboundRefusedError: It is no http(s) URL, or names an address that is not allowed.
        """
        if len(url) > LONGEST_URL:
            raise OutboundRefusedError(f"a URL of more than {LONGEST_URL} characters")
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
            httpx.URL(url)
        except (ValueError, httpx.InvalidURL):
            raise OutboundRefusedError("is no URL") from None
        if parts.scheme not in ("http", "https") or not host:
            raise OutboundRefusedError("must be an http or https URL with a host")
        if parts.username is not None or parts.password is not None:
            raise OutboundRefusedError("must not carry a user name or password")
        literal = _literal(host)
        if literal is not None and not self.allows(literal):
            raise OutboundRefusedError(self.refusal(host))

    @staticmethod
    def refusal(host: str) -> str:
        """The sentence for an address that is not allowed."""
        return (
            f"{host} is no address that may be called; "
            "METAGOV_OUTBOUND_ALLOWED_NETWORKS allows more"
        )

    def choose(self, host: str, addresses: Iterable[str]) -> str:
        """Choose the address to connect to; all of a name's addresses must be allowed.

        Args:
            host: The name.
            addresses: What it resolves to.

        Returns:
            The first address.

        Raises:
            OutboundRefusedError: One of them is not allowed.
        """
        found = list(addresses)
        if not found or not all(self.allows(address) for address in found):
            raise OutboundRefusedError(self.refusal(host))
        return found[0]


def _unwrapped(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def _literal(host: str) -> str | None:
    """The address that a host is if it is no name, in any form that a resolver would take."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None
