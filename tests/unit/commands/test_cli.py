"""The command line as a user meets it: exit codes, one clear message, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from dicomnode.commands import cli as cli_module
from dicomnode.commands import options
from dicomnode.commands.node import parse_peer
from dicomnode.errors import ConfigError
from dicomnode.processes import app
from tests.factories.instances import write_instances


class Answer(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def start_process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does; it takes more than a second of imports."""
    command = [sys.executable, "-m", "dicomnode", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


Command = Callable[..., Answer]


@pytest.fixture
def dicomnode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give a function that runs a command in this process; what would print a traceback fails the test."""
    # These change the process for good: its log, its warnings, its signals.
    monkeypatch.setattr(cli_module, "silence_libraries", lambda: None)
    monkeypatch.setattr(app, "configure_logging", lambda _settings: None)
    monkeypatch.setattr(app, "Signals", lambda: None)
    monkeypatch.delenv("DICOMNODE_CONFIG", raising=False)

    def run(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["dicomnode", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli_module.main()
        printed = capsys.readouterr()
        return Answer(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(f'[storage]\nroot = "{tmp_path / "node"}"\nminimum_free_mb = 1\n[network]\nport = 0\n')
    return path


def test_every_problem_of_a_configuration_is_printed_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[network]\nport = 70000\nprot = 1\n[[destinations]]\nname = "x"\n')

    answer = start_process("config", "check", "--config", path)

    assert answer.returncode == 2
    assert "network.port:" in answer.stderr
    assert "network.prot: there is no such setting" in answer.stderr
    assert "destinations[1]: ae_title, host, port missing" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_missing_configuration_file_is_named(tmp_path: Path, dicomnode: Command) -> None:
    answer = dicomnode("receive", "--config", tmp_path / "absent.toml")

    assert answer.returncode == 2
    assert "absent.toml: no such file" in answer.stderr


def test_a_root_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "node.toml"
    path.write_text(f'[storage]\nroot = "{tmp_path / "file" / "node"}"\n')

    answer = start_process("receive", "--config", path)

    assert answer.returncode == 3
    assert "storage.root" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_unknown_study_is_said_to_be_unknown(config: Path, dicomnode: Command) -> None:
    answer = dicomnode("why", "1.2.3", "--config", config)

    assert answer.returncode == 1
    assert "no study ends in 1.2.3" in answer.stderr


def test_the_status_of_an_empty_node_is_valid_json(config: Path, dicomnode: Command) -> None:
    answer = dicomnode("status", "--json", "--config", config)

    assert answer.returncode == 0
    assert json.loads(answer.stdout)["studies"] == []


def test_the_doctor_names_what_is_wrong_and_what_to_do(config: Path, dicomnode: Command) -> None:
    config.write_text(
        config.read_text()
        + '[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 1\n[delivery]\ntimeout_s = 2\n'
    )

    answer = dicomnode("doctor", "--json", "--config", config)

    checks = {check["check"]: check for check in json.loads(answer.stdout)}
    assert answer.returncode == 1
    assert checks["destination pacs"]["level"] == "problem"
    assert "nothing listens at 127.0.0.1:1" in checks["destination pacs"]["seen"]
    assert "firewall" in checks["destination pacs"]["what to do"]
    assert checks["ledger"]["level"] == "ok"


@pytest.mark.parametrize(
    "text", ["PACS", "PACS@host", "@host:104", "PACS@host:0", "PACS@host:99999", "A" * 17 + "@host:104"]
)
def test_a_peer_that_is_not_ae_host_port_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="AE@host:port"):
        parse_peer(text)


def test_a_peer_is_read() -> None:
    peer = parse_peer("ORTHANC@[::1]:4242")

    assert (peer.ae_title, peer.host, peer.port) == ("ORTHANC", "::1", 4242)


def test_segment_needs_one_kind_of_input(tmp_path: Path, dicomnode: Command) -> None:
    answer = dicomnode("segment", "-o", tmp_path / "out")

    assert answer.returncode == 2
    assert "either DICOM files or folders or a BIDS dataset, or --t1" in answer.stderr


def test_a_missing_model_stops_the_working_side_and_not_every_study(config: Path, dicomnode: Command) -> None:
    config.write_text(config.read_text() + '[pipeline]\nlesion_model = "no-such-model"\n')

    answer = dicomnode("work", "--config", config)

    assert answer.returncode == 3
    assert "there is no model bundle 'no-such-model'" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "{tree}/file", "-o", "{file}/out"],
        ["evaluate", "{tree}", "{tree}", "-o", "{file}/out"],
        ["demo", "-o", "{file}/out"],
    ],
    ids=lambda words: words[0],
)
def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, words: list[str], dicomnode: Command
) -> None:
    tree, file = tmp_path / "tree", tmp_path / "file"
    file.touch()
    write_instances(tree, 1)
    (tree / "file").touch()
    mask = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4))
    nibabel.save(mask, tree / "case.nii.gz")

    answer = dicomnode(
        *(word.format(tree=tree, file=file) if word != "{tree}/file" else str(tree) for word in words)
    )

    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert [
        line for line in answer.stderr.splitlines() if line.startswith("dicomnode: ")
    ] == answer.stderr.splitlines()[-1:]
    assert "Not a directory" in answer.stderr


def test_work_on_files_does_not_look_at_the_nodes_own_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "dicomnode.toml"
    broken.write_text("broken [")
    monkeypatch.setattr(options, "DEFAULT_CONFIG", broken)
    monkeypatch.delenv("DICOMNODE_CONFIG", raising=False)
    runner = CliRunner()

    assert runner.invoke(cli_module.cli, ["models", "list", "--json"]).exit_code == 0
    # Those that are about a node do.
    assert isinstance(runner.invoke(cli_module.cli, ["status"]).exception, ConfigError)
    assert isinstance(
        runner.invoke(cli_module.cli, ["models", "list", "--config", str(broken)]).exception, ConfigError
    )


def test_a_configuration_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def exists(self) -> bool:
            raise PermissionError

    monkeypatch.setattr(options, "DEFAULT_CONFIG", Forbidden())
    monkeypatch.delenv("DICOMNODE_CONFIG", raising=False)
    problem = CliRunner().invoke(cli_module.cli, ["status"]).exception

    assert isinstance(problem, ConfigError)
    assert "run it as the service user" in str(problem)
