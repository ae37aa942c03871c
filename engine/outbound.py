"""The outbound policy: which addresses may be called, checked where the connection is made."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import httpcore
import httpx
from httpcore._backends.auto import AutoBackend
from httpcore._backends.base import SOCKET_OPTION

from engine.errors import OutboundRefusedError

LONGEST_URL = 2048
# How many calls run at once is limited elsewhere: none waits here for another's connection. Servers
# close idle connections after 5 s and more: one that is given up before cannot break off a request.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=2)
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


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(f"cannot resolve {host}") from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


class _CheckedBackend(httpcore.SyncBackend):
    """Connects only to addresses that were checked; there is no second look-up in between."""

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        address = self._policy.choose(host, _resolve(host, port))
        return super().connect_tcp(address, port, timeout, local_address, socket_options)


class _CheckedAsyncBackend(AutoBackend):
    """The same for async clients."""

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await anyio.to_thread.run_sync(_resolve, host, port)
        address = self._policy.choose(host, addresses)
        return await super().connect_tcp(address, port, timeout, local_address, socket_options)


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class Connections:
    """Connections to platforms.

    Those of plain ``def`` methods are shared by all calls: kept open for a while, found by their
    address. What tells communities apart (keys, cookies) is with each call's own client, never with
    these. An ``async def`` method runs in a loop of its own, which no connection outlives.

    Args:
        policy: Which addresses may be called.
    """

    def __init__(self, policy: OutboundPolicy) -> None:
        self._policy = policy
        self._sync: httpx.HTTPTransport | None = None
        self._lock = threading.Lock()

    def sync_transport(self) -> httpx.BaseTransport:
        """The connections of plain ``def`` methods; a client's end does not close them."""
        with self._lock:
            if self._sync is None:
                self._sync = checked_sync_transport(self._policy)
        return _Shared(self._sync)

    def async_transport(self) -> httpx.AsyncBaseTransport:
        """New connections for one client of an ``async def`` method, whose end closes them."""
        return checked_transport(self._policy)

    def close(self) -> None:
        """Close those that are shared."""
        if self._sync is not None:
            self._sync.close()


class _Shared(httpx.BaseTransport):
    def __init__(self, transport: httpx.HTTPTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._transport.handle_request(request)


def checked_sync_transport(policy: OutboundPolicy) -> httpx.HTTPTransport:
    """A transport for ``httpx.Client`` that keeps to a policy.

    Args:
        policy: The policy.

    Returns:
        The transport; a refused address raises OutboundRefusedError.
    """
    transport = httpx.HTTPTransport(verify=_ssl_context(), limits=_LIMITS)
    # httpx offers no way to hand in the backend, where the address is known.
    pool: Any = transport._pool
    pool._network_backend = _CheckedBackend(policy)
    return transport


def checked_transport(policy: OutboundPolicy) -> httpx.AsyncHTTPTransport:
    """A transport for ``httpx.AsyncClient`` that keeps to a policy.

    Args:
        policy: The policy.

    Returns:
        The transport; a refused address raises OutboundRefusedError.
    """
    transport = httpx.AsyncHTTPTransport(verify=_ssl_context(), limits=_LIMITS)
    pool: Any = transport._pool
    pool._network_backend = _CheckedAsyncBackend(policy)
    return transport
