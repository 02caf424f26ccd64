"""DICOM over TLS as PS3.15 B.12 asks for it: who gets in, who does not, and what each is told."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from dicomnode.audit.events import AuditEvent
from dicomnode.commands.doctor import Check, examine
from dicomnode.errors import ConfigError, StartError
from dicomnode.ledger.ledger import Ledger
from dicomnode.network import association, tls
from dicomnode.network.association import Receiver
from dicomnode.network.probe import probe_destination
from dicomnode.network.sender import send_files
from dicomnode.network.tls import Certificate, acceptor_context, certificate_of, fingerprint_of
from dicomnode.records import SendOutcome
from dicomnode.settings.config import Config, DestinationSettings, TlsSettings, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories.certificates import Authority, Identity, tls_settings
from tests.factories.instances import write_instances
from tests.factories.ledger import new_ledger


@dataclass
class Ward:
    """A receiver, its authority, and what it has kept."""

    root: Path
    authority: Authority
    server: Identity
    audited: list[AuditEvent] = field(default_factory=list)

    def config(self, *, tls: bool = True, more: dict[str, Any] | None = None, **network: Any) -> Config:
        settings = tls_settings(self.authority, self.server)
        listener = {"port": 0, "ae_title": "NODE", "tls": tls, "acse_timeout_s": 5, **network}
        return parse_config(
            {
                "network": listener,
                "storage": {"root": str(self.root), "minimum_free_mb": 0},
                "tls": settings,
                **(more or {}),
            }
        )

    def kept(self) -> int:
        return len(list((self.root / "spool" / "incoming").rglob("*.dcm")))


@pytest.fixture
def openssl(require_tool: Callable[[str], str]) -> str:
    return require_tool("openssl")


@pytest.fixture
def ward(tmp_path: Path, openssl: str) -> Ward:
    authority = Authority(openssl, tmp_path / "ca")
    (tmp_path / "node").mkdir()
    return Ward(tmp_path / "node", authority, authority.issue("node.example"))


@pytest.fixture
def listening(ward: Ward) -> Iterator[Callable[[Config], int]]:
    open_ones: list[tuple[Receiver, Ledger]] = []

    def start(config: Config) -> int:
        ledger = new_ledger(config.storage.root)
        receiver = Receiver(
            config,
            SpoolWriter(SpoolLayout(config.storage.spool), 0),
            ledger.instances.add,
            time.time,
            audit=ward.audited.append,
        )
        open_ones.append((receiver, ledger))
        return receiver.start()[1]

    yield start
    for receiver, ledger in open_ones:
        receiver.stop(2.0)
        ledger.close()


def node_at(port: int, identity: TlsSettings | None, **settings: Any) -> DestinationSettings:
    peer = DestinationSettings(
        name="node", ae_title="NODE", host="127.0.0.1", port=port, tls=identity is not None, **settings
    )
    if identity is not None:
        peer.introduce(identity)
    return peer


def identity_of(authority: Authority, who: Identity, **more: Any) -> TlsSettings:
    return TlsSettings.model_validate(tls_settings(authority, who, **more))


def send(files: list[Path], peer: DestinationSettings) -> set[tuple[str, str]]:
    outcomes: list[SendOutcome] = send_files(files, peer, calling_ae="SCANNER", timeout_s=5)
    return {(outcome.verdict, outcome.reason) for outcome in outcomes}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_both_versions_carry_instances_of_every_size(
    ward: Ward,
    listening: Callable[[Config], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    port = listening(ward.config())
    scanner = identity_of(ward.authority, ward.authority.issue("mr1.example"))
    # A record of TLS holds 16 KiB: smaller, and many records, in one association.
    files = [
        *write_instances(tmp_path / "small", 5),
        *write_instances(tmp_path / "large", 3, side=512, seed="large"),
    ]
    peer = node_at(port, scanner)
    furnish, spoken = tls._furnished, []

    def furnish_with_version(context: ssl.SSLContext, settings: TlsSettings) -> ssl.SSLContext:
        furnish(context, settings).maximum_version = {
            "1.2": ssl.TLSVersion.TLSv1_2,
            "1.3": ssl.TLSVersion.TLSv1_3,
        }[version]
        return context

    def note_version(connection: Any) -> Certificate | None:
        spoken.append(connection.version())
        return certificate_of(connection)

    monkeypatch.setattr(tls, "_furnished", furnish_with_version)
    monkeypatch.setattr(association, "certificate_of", note_version)

    assert send(files, peer) == {("ok", "0x0000: success")}
    assert ward.kept() == 8
    assert spoken == [f"TLSv{version}"]


def test_the_certificate_is_part_of_who_a_peer_is(
    ward: Ward, listening: Callable[[Config], int], tmp_path: Path
) -> None:
    own, other = ward.authority.issue("mr1.example"), ward.authority.issue("mr2.example")
    peers = [
        {"ae_title": "SCANNER", "hosts": ["127.0.0.1"], "certificates": ["MR1.example"]},
        {
            "ae_title": "PINNED",
            "certificates": [fingerprint_of(other.certificate).upper().replace("SHA256", "sha256")],
        },
    ]
    port = listening(ward.config(more={"peers": peers}, accept_unknown_peers="never"))
    files = write_instances(tmp_path / "study", 1)

    def ask(who: Identity, calling: str) -> str:
        outcome = send_files(
            files, node_at(port, identity_of(ward.authority, who)), calling_ae=calling, timeout_s=5
        )[0]
        return f"{outcome.verdict}: {outcome.reason}"

    assert ask(own, "SCANNER") == "ok: 0x0000: success"
    assert ask(other, "PINNED") == "ok: 0x0000: success"
    assert ask(other, "SCANNER").startswith("permanent: the association was rejected")
    assert ask(own, "PINNED").startswith("permanent: the association was rejected")
    advice = [event.detail for event in ward.audited if event.kind == "association-refused"]
    assert [
        fingerprint_of(who.certificate) in line for who, line in zip((other, own), advice, strict=True)
    ] == [True, True]


def failed_handshakes(ward: Ward) -> list[str]:
    return [event.detail for event in ward.audited if event.kind == "handshake-failed"]


def test_strangers_at_the_port(
    ward: Ward, listening: Callable[[Config], int], tmp_path: Path, openssl: str
) -> None:
    port = listening(ward.config())
    files = write_instances(tmp_path / "study", 1)
    foreign = Authority(openssl, tmp_path / "foreign", "Foreign Authority")
    expired = ward.authority.issue("late.example", days=-1)
    with structlog.testing.capture_logs() as logged:
        plain = send(files, node_at(port, None))
        wrong = send(files, node_at(port, identity_of(ward.authority, foreign.issue("mr1.example"))))
        late = send(files, node_at(port, identity_of(ward.authority, expired)))
        with socket.create_connection(("127.0.0.1", port), 5) as junk:
            junk.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert junk.recv(100)[:1] in (b"", b"\x15")  # Closed, or an alert.
        end = time.monotonic() + 5
        while len(failed_handshakes(ward)) < 4 and time.monotonic() < end:
            time.sleep(0.05)

    # Each handshake has a thread of its own, so they may end in another order than they began.
    assert sorted(failed_handshakes(ward)) == sorted(
        [
            "plain DICOM on a port that takes TLS only",
            "the peer's certificate was signed by an authority that is not in tls.authorities",
            "the peer's certificate has expired",
            "HTTP where DICOM over TLS was expected",
        ]
    )
    # The log has one line a minute and host.
    assert [entry["count"] for entry in logged if entry["event"] == "tls_handshake_failed"] == [1]
    assert [next(iter(outcomes))[0] for outcomes in (plain, wrong, late)] == ["transient"] * 3
    assert "does not trust the authority of our certificate" in next(iter(wrong))[1]
    assert "expired" in next(iter(late))[1]
    assert ward.kept() == 0
    assert send(files, node_at(port, identity_of(ward.authority, ward.authority.issue("mr1.example")))) == {
        ("ok", "0x0000: success")
    }


def test_a_caller_who_says_nothing_holds_up_nobody(
    ward: Ward, listening: Callable[[Config], int], tmp_path: Path
) -> None:
    port = listening(ward.config(acse_timeout_s=30))
    files = write_instances(tmp_path / "study", 1)
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        assert send(
            files, node_at(port, identity_of(ward.authority, ward.authority.issue("mr1.example")))
        ) == {("ok", "0x0000: success")}
        assert time.monotonic() - began < 25


def test_the_probe_says_what_is_wrong(
    ward: Ward, listening: Callable[[Config], int], tmp_path: Path, openssl: str
) -> None:
    secure = listening(ward.config())
    plain_root = tmp_path / "plain"
    plain_root.mkdir()
    plain = listening(Ward(plain_root, ward.authority, ward.server).config(tls=False))
    own = ward.authority.issue("mr1.example")
    foreign = Authority(openssl, tmp_path / "foreign", "Foreign Authority")
    good = identity_of(ward.authority, own)

    def problem(peer: DestinationSettings) -> str:
        found = probe_destination(peer, "SCANNER", 5)
        assert bool(found.problem) == bool(found.advice)
        return found.problem.partition(": ")[2] or found.problem.partition(f":{peer.port} ")[2]

    assert problem(node_at(secure, good)) == ""
    assert (
        problem(node_at(secure, good, tls_name="node.elsewhere"))
        == "the name in the peer's certificate is another one"
    )
    assert problem(node_at(secure, good, tls_fingerprint=fingerprint_of(ward.server.certificate))) == ""
    pinned = node_at(secure, good, tls_fingerprint=fingerprint_of(own.certificate))
    assert problem(pinned) == "it showed another certificate than the pinned one"
    assert "is not in tls.authorities" in problem(node_at(secure, identity_of(foreign, own)))
    assert "does not trust the authority of our certificate" in problem(
        node_at(secure, identity_of(ward.authority, foreign.issue("x.example")))
    )
    assert "expired" in problem(
        node_at(secure, identity_of(ward.authority, ward.authority.issue("late.example", days=-1)))
    )
    assert problem(node_at(secure, None)) == "takes TLS only"
    assert "TLS" in problem(node_at(plain, good))


def test_the_doctor_looks_at_our_own_certificate(ward: Ward, listening: Callable[[Config], int]) -> None:
    def found(config: Config) -> dict[str, Check]:
        return {check.name: check for check in examine(config)}

    config = ward.config()
    (ward.root / "receive.json").write_text(json.dumps({"host": "127.0.0.1", "port": listening(config)}))
    well = found(config)
    assert (well["tls"].level, well["listener"].level) == (
        "warning",
        "ok",
    )  # Of 30 days less than 30 are left.
    ward.server = ward.authority.issue("old.example", days=-1)
    assert (found(ward.config())["tls"].level, found(ward.config())["tls"].seen) == (
        "problem",
        "our certificate expired 1 day ago",
    )


def test_files_that_are_wrong_are_named(ward: Ward, tmp_path: Path) -> None:
    locked = ward.authority.issue("locked.example", password="sesame")
    word = tmp_path / "password"
    word.write_text("sesame\nsecond line\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("open\n")

    def message(**more: Any) -> str:
        with pytest.raises(StartError) as caught:
            acceptor_context(identity_of(ward.authority, locked, **more))
        assert "sesame" not in str(caught.value)
        return str(caught.value)

    acceptor_context(identity_of(ward.authority, locked, key_password_file=word))
    assert "set tls.key_password_file" in message()
    assert "does not open the key" in message(key_password_file=wrong)
    assert "does not belong to the certificate" in message(
        key_password_file=word, certificate=ward.server.certificate
    )
    assert message(key_password_file=word, authorities=tmp_path / "nowhere").startswith(
        "tls.authorities: a file cannot be read"
    )
    assert message(key_password_file=word, authorities=word).startswith(
        "tls.authorities: the file holds nothing"
    )
    locked.key.chmod(0o644)
    assert "chmod 640" in message(key_password_file=word)


def test_a_configuration_that_would_let_everybody_in_is_refused() -> None:
    for values, words in (
        ({"network": {"tls": True}}, "network.tls needs tls.certificate, tls.key, tls.authorities"),
        ({"peers": [{"ae_title": "A", "certificates": ["sha256:12"]}]}, "64 hex digits"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_config(values)


@pytest.mark.tools
@pytest.mark.parametrize("profile", ["+py", "+px", "+pz"])
def test_dcmtk_sends_over_tls(
    ward: Ward,
    listening: Callable[[Config], int],
    tmp_path: Path,
    require_tool: Callable[[str], str],
    profile: str,
) -> None:
    port = listening(ward.config(require_called_ae=True))
    write_instances(tmp_path / "study", 4, side=200)
    own = ward.authority.issue("dcmtk.example")
    secure = ["+tls", str(own.key), str(own.certificate), "+cf", str(ward.authority.certificate), profile]
    command = [
        require_tool("storescu"),
        *secure,
        "-aec",
        "NODE",
        "127.0.0.1",
        str(port),
        "+sd",
        str(tmp_path / "study"),
    ]

    sent = subprocess.run(command, capture_output=True, text=True, check=False)
    refused = subprocess.run(
        [word for word in command if word not in secure], capture_output=True, text=True, check=False
    )

    assert (sent.returncode, ward.kept()) == (0, 4), sent.stderr
    assert refused.returncode != 0


@pytest.mark.tools
def test_dcmtk_receives_over_tls(ward: Ward, tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    (tmp_path / "pacs").mkdir()
    server = [
        "+tls",
        str(ward.server.key),
        str(ward.server.certificate),
        "+cf",
        str(ward.authority.certificate),
    ]
    command = [require_tool("storescp"), *server, "-aet", "NODE", "-od", str(tmp_path / "pacs"), str(port)]
    storescp = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        files = write_instances(tmp_path / "study", 3)
        peer = node_at(port, identity_of(ward.authority, ward.authority.issue("mr1.example")))
        end = time.monotonic() + 20
        while (outcome := send(files, peer)) != {("ok", "0x0000: success")}:
            assert time.monotonic() < end, outcome
            time.sleep(0.2)
    finally:
        storescp.terminate()
        storescp.wait(10)
    assert len(list((tmp_path / "pacs").iterdir())) == 3
