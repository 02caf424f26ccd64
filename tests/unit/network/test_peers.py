from __future__ import annotations

from typing import Any

import pytest

from dicomnode.network.peers import check_caller
from dicomnode.settings.config import parse_config

KNOWN = [{"ae_title": "MR1", "hosts": ["10.0.0.5", "192.168.1.0/24", "fd00::/8"]}, {"ae_title": "ANYWHERE"}]


def reason(
    called: str = "DICOMNODE", calling: str = "MR1", host: str = "10.0.0.5", **network: Any
) -> int | None:
    rejection = check_caller(
        parse_config({"network": network, "peers": KNOWN}), called_ae=called, calling_ae=calling, host=host
    )
    return rejection.reason if rejection else None


@pytest.mark.parametrize("host", ["10.0.0.5", "192.168.1.77", "fd00::1", "::ffff:10.0.0.5", "fd00::1%eth0"])
def test_a_known_peer_from_its_address(host: str) -> None:
    assert reason(host=host, accept_unknown_peers="never") is None


@pytest.mark.parametrize("host", ["10.0.0.6", "192.168.2.1", "fe80::1", "127.0.0.1"])
def test_a_known_title_from_elsewhere(host: str) -> None:
    assert reason(host=host, accept_unknown_peers="always") == 3


def test_a_peer_without_hosts_may_call_from_anywhere() -> None:
    assert reason(calling="ANYWHERE", host="203.0.113.9", accept_unknown_peers="never") is None


@pytest.mark.parametrize(
    ("rule", "host", "expected"),
    [
        ("never", "127.0.0.1", 3),
        ("loopback", "127.0.0.1", None),
        ("loopback", "::1", None),
        ("loopback", "::ffff:127.0.0.1", None),
        ("loopback", "10.0.0.5", 3),
        ("always", "203.0.113.9", None),
    ],
)
def test_strangers(rule: str, host: str, expected: int | None) -> None:
    assert reason(calling="STRANGER", host=host, accept_unknown_peers=rule) == expected


def test_titles_are_compared_without_outer_spaces_and_with_case() -> None:
    assert reason(called=" DICOMNODE ", calling="MR1 ") is None
    assert reason(called="dicomnode") == 7
    assert reason(called="dicomnode", require_called_ae=False) is None
    assert reason(calling="mr1") == 3


def test_a_rejection_says_what_to_change() -> None:
    config = parse_config({"peers": KNOWN})

    stranger = check_caller(config, called_ae="DICOMNODE", calling_ae="NEW", host="10.1.1.1")
    moved = check_caller(config, called_ae="DICOMNODE", calling_ae="MR1", host="10.1.1.1")

    assert stranger is not None
    assert moved is not None
    assert "[[peers]]" in stranger.advice
    assert "10.1.1.1" in moved.advice
