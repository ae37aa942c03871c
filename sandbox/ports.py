"""Ports for servers that come back to the same one after they were down."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack

# Below what Linux (32768) and others (49152) give to outgoing connections: none of those takes it.
PORTS = range(20_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Find ports of loopback that nobody listens on.

    Args:
        count: How many.

    Returns:
        Different ports. No outgoing connection of this machine takes one of them later.

    Raises:
        OSError: There are not that many.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in secrets.SystemRandom().sample(PORTS, len(PORTS)):
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} ports from {PORTS.start} to {PORTS.stop - 1} are free")
