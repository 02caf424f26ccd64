"""The Debian package: the recipe names what is there, its scripts may run twice, a purge keeps the data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import dicomnode
from scripts import container

RECIPE = Path(__file__).resolve().parents[2] / "config" / "debian"
BUILDER = RECIPE.parents[1] / "scripts" / "debian.sh"
SCRIPTS = ["postinst", "prerm", "postrm"]


@pytest.mark.parametrize(
    "script", [*(RECIPE / name for name in SCRIPTS), BUILDER], ids=lambda path: path.name
)
def test_scripts_are_understood_by_their_shell(script: Path) -> None:
    shell = script.read_text(encoding="utf-8").splitlines()[0].split()[-1].removeprefix("#!")
    subprocess.run([Path(shell).name, "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_every_file_that_the_recipe_names_is_in_the_tree(repo_root: Path) -> None:
    text = BUILDER.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/$.])(?:config|systemd)/[\w./*-]+", text))
    named |= set(re.findall(r"[\w-]+\.lock\b|\b[A-Z]{5,}(?:\.md)?(?= )", text)) - {"DEBIAN"}
    assert {"config/dicomnode.toml", "config/debian/control", "requirements.lock", "LICENSE"} <= named
    assert [name for name in sorted(named) if not list(repo_root.glob(name))] == []


def test_what_the_recipe_fills_in_is_what_the_control_file_leaves_open() -> None:
    fields = set(re.findall(r"@\w+@", (RECIPE / "control").read_text(encoding="utf-8")))
    assert fields == set(re.findall(r"@\w+@", BUILDER.read_text(encoding="utf-8")))
    assert len(fields) == 4
    conffiles = (RECIPE / "conffiles").read_text(encoding="utf-8").split()
    assert all(f'"$tree{name}"' in BUILDER.read_text(encoding="utf-8") for name in conffiles)


class Machine:
    """A folder in which maintainer scripts run (`DPKG_ROOT`); programs that change a system only note their words."""

    def __init__(self, folder: Path, *, user: bool) -> None:
        self.root = folder / "root"
        self.calls = folder / "calls"
        self.programs = folder / "bin"
        for name in ("etc/dicomnode", "run/systemd/system", "var/lib"):
            (self.root / name).mkdir(parents=True)
        (self.root / "etc/dicomnode/dicomnode.toml").touch(0o644)
        self.programs.mkdir()
        listing = 'case "$*" in *list-units*) cat "$CALLS.units" 2>/dev/null;; esac; true'
        for name, body in {
            "getent": "true" if user else "false",
            "dpkg-statoverride": "false",
            "adduser": "true",
            "chown": "true",
            "systemctl": listing,
            # The state folder belongs to a user whom this machine does not have.
            "install": 'for last; do true; done; mkdir -p "$last"',
        }.items():
            program = self.programs / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >>"$CALLS"\n{body}\n')
            program.chmod(0o755)

    def call(self, script: str, *words: str) -> list[str]:
        """Run a maintainer script and return the calls of programs that it made."""
        self.calls.write_text("")
        environment = {"DPKG_ROOT": str(self.root), "CALLS": str(self.calls)}
        environment["PATH"] = f"{self.programs}:/usr/bin:/bin"
        subprocess.run([RECIPE / script, *words], check=True, env=environment, capture_output=True)
        return self.calls.read_text().splitlines()

    def running(self, *units: str) -> None:
        """Let systemctl list these units."""
        lines = [f"{unit} loaded active running A node\n" for unit in units]
        Path(f"{self.calls}.units").write_text("".join(lines))


def test_a_first_installation_makes_the_user_and_starts_nothing(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=False)
    first = machine.call("postinst", "configure", "")

    assert [call.split()[0] for call in first].count("adduser") == 1
    assert (machine.root / "etc/dicomnode/dicomnode.toml").stat().st_mode & 0o777 == 0o640
    assert (machine.root / "var/lib/dicomnode").is_dir()
    assert [call for call in first if call.startswith("systemctl")] == ["systemctl daemon-reload"]
    assert machine.call("postinst", "configure", "") == first


def test_a_second_run_makes_no_user_and_minds_no_missing_configuration(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=True)
    (machine.root / "etc/dicomnode/dicomnode.toml").unlink()

    calls = machine.call("postinst", "configure", "0.4.0") + machine.call("postinst", "configure", "0.4.0")

    assert not [call for call in calls if call.startswith(("adduser", "chown"))]


def test_an_upgrade_starts_again_what_it_stopped_and_nothing_else(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=True)
    machine.running("dicomnode-receive.service", "dicomnode-work.service")
    stopping = machine.call("prerm", "upgrade", "0.6.0")
    machine.running()
    again = machine.call("prerm", "upgrade", "0.6.0")
    starting = machine.call("postinst", "configure", "0.5.0")
    repeated = machine.call("postinst", "configure", "0.5.0")

    units = ("dicomnode-receive.service", "dicomnode-work.service")
    assert [call for call in stopping if " stop " in call] == [f"systemctl stop {unit}" for unit in units]
    assert not [call for call in again if " stop " in call]
    assert [call for call in starting if " start " in call] == [f"systemctl start {unit}" for unit in units]
    assert not [call for call in repeated if " start " in call]


def test_removing_stops_it_for_good_and_purging_keeps_the_data(tmp_path: Path) -> None:
    machine = Machine(tmp_path, user=True)
    machine.call("postinst", "configure", "")
    image = machine.root / "var/lib/dicomnode/spool.dcm"
    image.touch()
    enabled = machine.root / "etc/systemd/system/multi-user.target.wants"
    enabled.mkdir(parents=True)
    (enabled / "dicomnode.service").symlink_to("/usr/lib/systemd/system/dicomnode.service")
    machine.running("dicomnode.service")

    assert "systemctl stop dicomnode.service" in machine.call("prerm", "remove")
    machine.call("postrm", "remove")
    # dpkg itself removes conffiles.
    (machine.root / "etc/dicomnode/dicomnode.toml").unlink()
    machine.call("postrm", "purge")
    machine.call("postrm", "purge")

    assert image.exists()
    assert list(enabled.iterdir()) == []
    assert not (machine.root / "etc/dicomnode").exists()
    assert not [call for call in machine.call("postinst", "configure", "") if " start " in call]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_call_that_dpkg_does_not_make_is_refused(tmp_path: Path, script: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        Machine(tmp_path, user=True).call(script, "frobnicate")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_package_is_built_installed_used_upgraded_and_purged() -> None:
    work = os.environ.get("DICOMNODE_DEB")
    if not work:
        pytest.skip(
            "builds a package for minutes; set DICOMNODE_DEB to a folder (root and debootstrap needed)"
        )
    folder = Path(work).resolve()
    subprocess.run([BUILDER, folder], check=True)
    (package,) = folder.glob(f"dicomnode_{dicomnode.__version__}_*.deb")
    root = _clean_root(folder)
    shutil.copy2(package, root / "tmp" / "dicomnode.deb")

    def inside(command: str) -> str:
        # A chroot has no shared memory of its own; a booted Debian has.
        line = f"mount -t tmpfs tmpfs /dev/shm && ({command}) >/tmp/printed"
        container.run_in(root, ["sh", "-c", line], [], "/")
        return (root / "tmp" / "printed").read_text(encoding="utf-8")

    inside("apt-get update && apt-get install --yes --no-install-recommends /tmp/dicomnode.deb")
    assert dicomnode.__version__ in inside("dicomnode --version")
    assert inside("stat --format '%U:%G %a' /etc/dicomnode/dicomnode.toml /var/lib/dicomnode").split() == [
        *("root:dicomnode", "640", "dicomnode:dicomnode", "700")
    ]
    as_user = "cd /var/lib/dicomnode && runuser --user dicomnode -- dicomnode"
    assert "brain-extractor-3mm" in inside(f"{as_user} models list --json")
    inside("echo '# ours' >>/etc/dicomnode/dicomnode.toml")
    assert "PACS: received Segmentation Storage" in inside(f"{as_user} demo")

    inside("dpkg --install /tmp/dicomnode.deb")
    assert (root / "etc/dicomnode/dicomnode.toml").read_text(encoding="utf-8").endswith("# ours\n")
    inside("apt-get purge --yes dicomnode")
    assert not (root / "etc/dicomnode").exists()
    assert not (root / "usr/lib/dicomnode").exists()
    assert len(list((root / "var/lib/dicomnode/demo-out/pacs").glob("*.dcm"))) >= 2


def _clean_root(folder: Path) -> Path:
    """Return a Debian of its own below a folder."""
    base, root = folder / "base", folder / "root"
    if not base.is_dir():
        subprocess.run(["debootstrap", "--variant=minbase", container.SUITE, base], check=True)
        container.slim_down(base)
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "--archive", base, root], check=True)
    return root
