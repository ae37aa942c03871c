"""Which addresses may be called."""

from __future__ import annotations

import pytest

from engine.errors import OutboundRefusedError
from engine.outbound import OutboundPolicy

PUBLIC = OutboundPolicy(allow_loopback=False)
LOCAL = OutboundPolicy(allow_loopback=True, allowed_networks=["10.1.0.0/16"])


@pytest.mark.parametrize(
    ("ip", "public", "local"),
    [
        ("93.184.216.34", True, True),
        ("2606:4700::1111", True, True),
        ("127.0.0.1", False, True),
        ("::1", False, True),
        ("::ffff:127.0.0.1", False, True),
        ("10.1.2.3", False, True),
        ("10.2.0.1", False, False),
        ("192.168.1.1", False, False),
        ("169.254.169.254", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a00:1::", False, False),
        ("fe80::1%eth0", False, False),
        ("0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("100.64.0.1", False, False),
        ("nonsense", False, False),
    ],
)
def test_addresses(ip: str, public: bool, local: bool) -> None:
    assert PUBLIC.allows(ip) is public
    assert LOCAL.allows(ip) is local


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/", "file:///etc/passwd", "//example.org", "", "http://", "nonsense",
        "http://user:pw@example.org/", "http://127.0.0.1/", "http://2130706433/",
        "http://0x7f.1/", "http://[::1]/", "http://169.254.169.254/", "http://x:99999/",
        "http://example.org/" + "x" * 2048,
    ],
)  # fmt: skip
def test_urls_refused_at_once(url: str) -> None:
    with pytest.raises(OutboundRefusedError):
        PUBLIC.check_url(url)


def test_urls_allowed() -> None:
    PUBLIC.check_url("https://driver.example/outcome/4?x=1")
    LOCAL.check_url("http://localhost:8080/")


def test_bad_network_is_reported() -> None:
    with pytest.raises(OutboundRefusedError, match="METAGOV_OUTBOUND_ALLOWED_NETWORKS"):
        OutboundPolicy(allow_loopback=True, allowed_networks=["10.0.0.1/8"])
