"""The systemd units: hardened alike, commands that exist, clean for systemd's own checker."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from dicomnode.commands.cli import cli

UNITS = [
    "dicomnode.service",
    "dicomnode-receive.service",
    "dicomnode-work.service",
    "dicomnode-monitor.service",
]
PROMISED = {
    "Type": "notify",
    "User": "dicomnode",
    "StateDirectory": "dicomnode",
    "ProtectSystem": "strict",
    "ProtectHome": "true",
    "NoNewPrivileges": "true",
    "CapabilityBoundingSet": "",
    "Restart": "on-failure",
    "WatchdogSec": "60",
    "TasksMax": "2048",
    "OOMPolicy": "continue",
    "LimitCORE": "0",
    "PrivateMounts": "true",
}


def service_settings(path: Path) -> dict[str, str]:
    """The [Service] section; no key may stand twice."""
    section = path.read_text(encoding="utf-8").split("[Service]")[1].split("[Install]")[0]
    pairs = [line.split("=", 1) for line in section.splitlines() if line and not line.startswith("#")]
    keys = [key for key, _ in pairs if key not in ("SystemCallFilter", "ExecReload")]
    assert len(set(keys)) == len(keys)
    return dict(pairs)


@pytest.mark.parametrize("unit", UNITS)
def test_units_keep_the_promised_hardening(repo_root: Path, unit: str) -> None:
    settings = service_settings(repo_root / "systemd" / unit)

    assert {key: settings.get(key) for key in PROMISED} == PROMISED


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_never_gives_up_and_memory_is_bounded(repo_root: Path, unit: str) -> None:
    text = (repo_root / "systemd" / unit).read_text(encoding="utf-8")

    assert "StartLimitIntervalSec=0\n" in text.split("[Service]")[0]
    assert int(service_settings(repo_root / "systemd" / unit)["RestartSec"]) >= 10
    assert service_settings(repo_root / "systemd" / unit)["MemoryMax"].endswith("G")


def test_units_differ_only_where_they_must(repo_root: Path) -> None:
    units = [service_settings(repo_root / "systemd" / unit) for unit in UNITS]

    assert {
        key for settings in units for key in settings if len({other.get(key) for other in units}) > 1
    } == {
        "ExecStart",
        "MemoryMax",
        "Nice",
        "OOMScoreAdjust",
    }


@pytest.mark.parametrize("unit", UNITS)
def test_units_start_a_command_that_exists(repo_root: Path, unit: str) -> None:
    program, command, option, _ = service_settings(repo_root / "systemd" / unit)["ExecStart"].split()
    commands = typer.main.get_command(cli).commands

    assert program.endswith("/dicomnode")
    assert option in {name for parameter in commands[command].params for name in parameter.opts}


@pytest.mark.parametrize("unit", UNITS)
def test_a_reload_is_checked_by_a_command_that_exists_before_the_signal(repo_root: Path, unit: str) -> None:
    text = (repo_root / "systemd" / unit).read_text(encoding="utf-8")
    check, kill = (
        line.removeprefix("ExecReload=") for line in text.splitlines() if line.startswith("ExecReload=")
    )
    program, *words = check.split()

    assert program == service_settings(repo_root / "systemd" / unit)["ExecStart"].split()[0]
    assert words[:2] == ["config", "check"]
    options = {
        name
        for parameter in typer.main.get_command(cli).commands["config"].commands["check"].params
        for name in parameter.opts
    }
    assert {word for word in words if word.startswith("--")} <= options
    assert kill == "/bin/kill -HUP $MAINPID"


@pytest.mark.tools
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_nothing_to_complain_about(
    repo_root: Path, tmp_path: Path, require_tool: Callable[[str], str], unit: str
) -> None:
    analyze = require_tool("systemd-analyze")
    text = (repo_root / "systemd" / unit).read_text(encoding="utf-8")
    # The checker wants the program and the user to exist; here they need not.
    copy = tmp_path / unit
    copy.write_text(text.replace("/opt/dicomnode/.venv/bin/dicomnode", "/bin/true"))

    verify = subprocess.run(
        [analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    exposure = subprocess.run(
        [analyze, "security", "--offline=true", "--threshold=15", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verify.returncode, [line for line in verify.stderr.splitlines() if unit in line]) == (0, [])
    assert exposure.returncode == 0, exposure.stdout.splitlines()[-1]


@pytest.mark.tools
def test_systemd_check_can_fail(repo_root: Path, tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    copy = tmp_path / "dicomnode.service"
    text = (
        (repo_root / "systemd" / copy.name)
        .read_text(encoding="utf-8")
        .replace("/opt/dicomnode/.venv/bin/dicomnode", "/bin/true")
    )
    copy.write_text(text.replace("ProtectSystem=strict", "ProtectSystem=strictly"))

    answer = subprocess.run(
        [require_tool("systemd-analyze"), "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "strictly" in answer.stderr
