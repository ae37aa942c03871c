from __future__ import annotations

import socket

import pytest

from sandbox import ports
from sandbox.ports import free_ports


def test_ports_are_free_different_and_out_of_the_way_of_outgoing_connections() -> None:
    found = free_ports(5)
    assert len(set(found)) == 5
    assert max(found) < 32_768
    for port in found:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = free_ports(1)
    monkeypatch.setattr(ports, "PORTS", range(taken, taken + 1))
    assert free_ports(1) == [taken]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken))
        with pytest.raises(OSError, match=f"fewer than 1 ports from {taken} to {taken} are free"):
            free_ports(1)
