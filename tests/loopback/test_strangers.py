"""Whoever does not belong is refused at the port, nothing of what he brings is kept, and the audit trail says who it was and why."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dicomnode.network.association import Receiver
from dicomnode.network.sender import send_files
from dicomnode.network.tls import fingerprint_of
from dicomnode.processes.app import open_audit
from dicomnode.settings.config import DestinationSettings, TlsSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.certificates import Authority, Identity, tls_settings
from tests.factories.instances import write_instances
from tests.factories.ledger import new_ledger


@dataclass
class Door:
    """A node that is listening, and what it wrote down."""

    port: int
    root: Path
    files: list[Path]

    def send(self, calling: str, called: str = "NODE", identity: TlsSettings | None = None) -> str:
        peer = DestinationSettings(
            name="node", ae_title=called, host="127.0.0.1", port=self.port, tls=identity is not None
        )
        if identity is not None:
            peer.introduce(identity)
        (outcome,) = send_files(self.files, peer, calling_ae=calling, timeout_s=10)
        return f"{outcome.verdict}: {outcome.reason}"

    def kept(self) -> int:
        return len(list((self.root / "spool" / "incoming").rglob("*.dcm")))

    def audited(self) -> list[dict[str, Any]]:
        """Return the alerts of the trail, once there is one: a handshake ends in a thread of its own."""
        file, end = self.root / "audit" / "audit.jsonl", time.monotonic() + 10
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    with contextlib.ExitStack() as stack:

        def start(peers: list[dict[str, Any]], tls: dict[str, Any] | None = None) -> Door:
            network = {
                "port": 0,
                "ae_title": "NODE",
                "acse_timeout_s": 5,
                "accept_unknown_peers": "never",
                "tls": tls is not None,
            }
            storage = {"root": str(tmp_path / "node"), "minimum_free_mb": 0}
            config = parse_config({"network": network, "storage": storage, "peers": peers, "tls": tls or {}})
            config.storage.root.mkdir()
            ledger = new_ledger(config.storage.root)
            stack.callback(ledger.close)
            audit = open_audit(config)
            stack.callback(audit.close)
            writer = SpoolWriter(SpoolLayout(config.storage.spool), 0)
            receiver = Receiver(config, writer, ledger.instances.add, time.time, audit=audit)
            stack.callback(receiver.stop, 1.0)
            return Door(receiver.start()[1], config.storage.root, write_instances(tmp_path / "study", 1))

        yield start


@pytest.fixture
def authority(tmp_path: Path, require_tool: Callable[[str], str]) -> Authority:
    return Authority(require_tool("openssl"), tmp_path / "ca")


def alert(event: str, ae_title: str) -> tuple[str, str, str, int, dict[str, str]]:
    """Return what an audited refusal holds: PS3.16 CID 400 security alert, CID 401 node authentication, a minor failure, and who it was."""
    return event, "110113", "110126", 4, {"ae_title": ae_title, "host": "127.0.0.1"}


def essence(line: dict[str, Any]) -> tuple[str, str, str, int, dict[str, str]]:
    return (
        line["event"],
        line["EventID"]["code"],
        line["EventTypeCode"]["code"],
        line["EventOutcomeIndicator"],
        line["peer"],
    )


@pytest.mark.parametrize(
    ("calling", "called", "hosts", "answer", "why"),
    [
        ("STRANGER", "NODE", [], "calling AE title", "'STRANGER' from 127.0.0.1 is not in [[peers]]: add it"),
        ("SCANNER", "OTHERNODE", [], "called AE title", "the peer calls 'OTHERNODE': set it to 'NODE' there"),
        (
            "SCANNER",
            "NODE",
            ["127.0.0.2"],
            "calling AE title",
            "'SCANNER' may not call from 127.0.0.1: add it to hosts",
        ),
    ],
    ids=["calling AE title", "called AE title", "address"],
)
def test_a_stranger_is_refused_and_audited(
    open_door: Callable[..., Door], calling: str, called: str, hosts: list[str], answer: str, why: str
) -> None:
    door = open_door(
        [{"ae_title": "SCANNER", "hosts": hosts}, {"ae_title": "FRIEND", "hosts": ["127.0.0.1"]}]
    )

    refusal = door.send(calling, called)

    assert refusal.startswith("permanent: the association was rejected")
    assert answer in refusal.lower().replace("ae title", "AE title")
    assert door.kept() == 0
    (line,) = door.audited()
    assert essence(line) == alert("association-refused", calling)
    assert line["detail"].startswith(why)
    # The same door is open to who belongs, and his coming is no alert.
    assert (door.send("FRIEND"), door.kept(), len(door.audited())) == ("ok: 0x0000: success", 1, 1)


def test_a_certificate_of_a_foreign_authority_is_refused_and_audited(
    open_door: Callable[..., Door], authority: Authority, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    foreign = Authority(require_tool("openssl"), tmp_path / "foreign", "Foreign Authority")
    door = open_door([{"ae_title": "SCANNER"}], tls_settings(authority, authority.issue("node.example")))

    # The same name as the scanner's own: only who vouches for it differs.
    refusal = door.send("SCANNER", identity=_identity(authority, foreign.issue("mr1.example")))

    assert "does not trust the authority of our certificate" in refusal
    assert door.kept() == 0
    (line,) = door.audited()
    assert essence(line) == alert("handshake-failed", "")
    assert (
        line["detail"] == "the peer's certificate was signed by an authority that is not in tls.authorities"
    )
    assert (
        door.send("SCANNER", identity=_identity(authority, authority.issue("mr1.example")))
        == "ok: 0x0000: success"
    )


def test_a_certificate_that_is_another_ones_is_refused_and_audited(
    open_door: Callable[..., Door], authority: Authority
) -> None:
    own, other = authority.issue("mr1.example"), authority.issue("mr2.example")
    peers = [{"ae_title": "SCANNER", "certificates": [fingerprint_of(own.certificate)]}]
    door = open_door(peers, tls_settings(authority, authority.issue("node.example")))

    refusal = door.send("SCANNER", identity=_identity(authority, other))

    assert refusal.startswith("permanent: the association was rejected")
    assert door.kept() == 0
    (line,) = door.audited()
    assert essence(line) == alert("association-refused", "SCANNER")
    # Whoever reads the trail can find the machine by what it showed.
    assert fingerprint_of(other.certificate) in line["detail"]
    assert door.send("SCANNER", identity=_identity(authority, own)) == "ok: 0x0000: success"


def _identity(authority: Authority, who: Identity) -> TlsSettings:
    return TlsSettings.model_validate(tls_settings(authority, who))
