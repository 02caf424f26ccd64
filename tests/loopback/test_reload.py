"""Reloading while associations are open and studies are answered: nothing is dropped, a wrong file changes nothing."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from pynetdicom import AE

from dicomnode.audit.events import MINOR_FAILURE, SUCCESS, AuditEvent
from dicomnode.errors import StartError
from dicomnode.network.association import Receiver
from dicomnode.network.sender import echo
from dicomnode.processes.reload import Reloader
from dicomnode.settings.config import Config, DestinationSettings, load_config, parse_config
from dicomnode.spool.layout import SpoolLayout
from dicomnode.spool.writer import SpoolWriter
from tests.factories import listening
from tests.factories.ledger import new_ledger

# A whole node takes its time on a busy machine.
eventually = functools.partial(listening.eventually, timeout_s=120)

VERIFICATION = "1.2.840.10008.1.1"


def peer(port: int, called: str = "NODE") -> DestinationSettings:
    return DestinationSettings(name="node", ae_title=called, host="127.0.0.1", port=port)


class TestReceiver:
    """A listener takes other settings over while it listens."""

    @pytest.fixture
    def config(self, tmp_path: Path) -> Config:
        network = {"port": 0, "ae_title": "NODE", "accept_unknown_peers": "never"}
        return parse_config(
            {
                "network": network,
                "peers": [{"ae_title": "OLD"}],
                "storage": {"root": str(tmp_path), "minimum_free_mb": 1},
            }
        )

    @pytest.fixture
    def receiver(self, config: Config, tmp_path: Path) -> Iterator[tuple[Receiver, int]]:
        ledger = new_ledger(tmp_path)
        receiver = Receiver(
            config, SpoolWriter(SpoolLayout(tmp_path / "spool"), 0), ledger.instances.add, time.time
        )
        port = receiver.start()[1]
        yield receiver, port
        receiver.stop(2.0)
        ledger.close()

    def test_an_open_association_goes_on_while_new_ones_meet_the_new_settings(
        self, config: Config, receiver: tuple[Receiver, int]
    ) -> None:
        listener, port = receiver
        caller = AE(ae_title="OLD")
        caller.add_requested_context(VERIFICATION)
        association = caller.associate("127.0.0.1", port, ae_title="NODE")
        assert association.is_established

        network = config.network.model_copy(update={"ae_title": "OTHER", "maximum_associations": 1})
        new_peers = parse_config({"peers": [{"ae_title": "NEW"}]}).peers
        listener.reconfigure(config.model_copy(update={"network": network, "peers": new_peers}))

        assert association.send_c_echo().Status == 0
        # It still has its place: the new limit of one holds for who comes now.
        assert "local limit" in echo(peer(port, "OTHER"), "NEW", 5).reason.lower()
        association.release()
        assert echo(peer(port, "OTHER"), "NEW", 5).verdict == "ok"
        assert echo(peer(port, "OTHER"), "OLD", 5).verdict != "ok"
        assert echo(peer(port, "NODE"), "NEW", 5).verdict != "ok"


class TestReloader:
    """All of a file, or nothing of it."""

    def reloader(
        self, path: Path, check: Callable[[Config], None] = lambda _config: None
    ) -> tuple[Reloader, list[Config], list[AuditEvent]]:
        applied, audited = list[Config](), list[AuditEvent]()
        return (
            Reloader("work", path, load_config(path), check, applied.append, audited.append),
            applied,
            audited,
        )

    def test_a_change_is_applied_and_audited_with_the_difference(self, tmp_path: Path) -> None:
        path = tmp_path / "node.toml"
        path.write_text("[pipeline]\nthreshold = 0.5\n")
        reloader, applied, audited = self.reloader(path)
        path.write_text("[pipeline]\nthreshold = 0.6\n[network]\nport = 105\n")

        plan = reloader.reload()

        assert plan is not None
        assert [config.pipeline.threshold for config in applied] == [0.6]
        assert [config.network.port for config in applied] == [11112]
        (event,) = audited
        assert (event.kind, event.outcome) == ("configuration-changed", SUCCESS)
        assert "pipeline.threshold: 0.5 -> 0.6" in event.detail
        assert "after a restart: network.port: 11112 -> 105" in event.detail

    @pytest.mark.parametrize(
        "text",
        [
            "[pipeline\n",
            "[pipeline]\nthreshold = 7\n",
            "[pipelines]\nthreshold = 0.5\n",
            "\x80",
            '[[destinations]]\nname = "a"\n',
            '[fetch]\nsource = "NOBODY"\n',
        ],
    )
    def test_a_wrong_file_changes_nothing(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "node.toml"
        path.write_text("[pipeline]\nthreshold = 0.5\n")
        reloader, applied, audited = self.reloader(path)
        path.write_bytes(text.encode("latin-1"))

        with structlog.testing.capture_logs() as lines:
            assert reloader.reload() is None

        assert (applied, reloader.config.pipeline.threshold) == ([], 0.5)
        assert [event.outcome for event in audited] == [MINOR_FAILURE]
        assert [line["event"] for line in lines] == ["configuration_not_reloaded"]

    def test_a_file_that_is_gone_or_fails_its_check_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "node.toml"
        path.write_text("[pipeline]\nthreshold = 0.5\n")

        def refuse(_config: Config) -> None:
            raise StartError("pipeline.lesion_model: no such bundle")

        reloader, applied, audited = self.reloader(path, refuse)
        assert reloader.reload() is None
        path.unlink()
        assert reloader.reload() is None

        assert applied == []
        assert "no such bundle" in audited[0].detail
        assert "no such file" in audited[1].detail


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sighup_reloads_a_whole_node_without_dropping_an_association(tmp_path: Path) -> None:
    root, path, log = tmp_path / "node", tmp_path / "node.toml", tmp_path / "log"
    basis = f'[storage]\nroot = "{root}"\nminimum_free_mb = 1\n[network]\nport = 0\n'

    def audited() -> list[str]:
        trail = root / "audit" / "audit.jsonl"
        lines = [json.loads(line) for line in trail.read_text().splitlines()] if trail.exists() else []
        return [line["detail"] for line in lines if line["event"] == "configuration-changed"]

    def listener() -> dict[str, object]:
        try:
            return dict(json.loads((root / "receive.json").read_text()))
        except FileNotFoundError:
            return {}

    addresses = tmp_path / "addresses"
    addresses.write_text("json://127.0.0.1:1/hook\n")
    path.write_text(basis)
    with log.open("wb") as output:
        command = [sys.executable, "-P", "-m", "dicomnode", "serve", "--config", str(path)]
        node = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        assert eventually(lambda: b"working" in log.read_bytes() and bool(listener()))
        pid, port = listener()["pid"], int(str(listener()["port"]))
        caller = AE(ae_title="ANY")
        caller.add_requested_context(VERIFICATION)
        association = caller.associate("127.0.0.1", port, ae_title="DICOMNODE")
        assert association.is_established

        path.write_text(
            basis.replace("port = 0", 'port = 0\nae_title = "RENAMED"') + "[pipeline]\nthreshold = 9\n"
        )
        node.send_signal(signal.SIGHUP)
        assert eventually(lambda: b"configuration_not_reloaded" in log.read_bytes())
        assert echo(peer(port, "DICOMNODE"), "ANY", 5).verdict == "ok"

        path.write_text(
            basis.replace("port = 0", 'port = 0\nae_title = "RENAMED"\nbind = "127.0.0.2"')
            + "[pipeline]\nthreshold = 0.7\n"
            + f'[[notifications]]\nname = "hook"\naddresses_file = "{addresses}"\n'
        )
        node.send_signal(signal.SIGHUP)
        assert eventually(lambda: sum(": applied:" in detail for detail in audited()) == 2), log.read_text()

        assert association.send_c_echo().Status == 0
        association.release()
        assert echo(peer(port, "RENAMED"), "ANY", 5).verdict == "ok"
        assert echo(peer(port, "DICOMNODE"), "ANY", 5).verdict != "ok"
        assert (listener()["pid"], listener()["ae_title"]) == (pid, "RENAMED")
        assert any("serve: not applied:" in detail and "threshold" in detail for detail in audited())
        assert any(
            "work: " in detail and "pipeline.threshold: absent -> 0.7" in detail for detail in audited()
        )
        assert all(
            "after a restart: network.bind" in detail for detail in audited() if ": applied:" in detail
        )
        # What only the new configuration needs is started.
        assert eventually((root / "monitor.json").exists)
        node.terminate()
        assert node.wait(60) == 0
    finally:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()
