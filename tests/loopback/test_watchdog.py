"""`dicomnode work` with a timer that hangs, `receive` whose listener hangs or ended: the watchdog is not fed any more, and the log says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# The real commands; only one function of each goes wrong from some moment on, and the times are short.
COMMAND = """
import sys, threading
from pathlib import Path
from dicomnode import flow
from dicomnode.processes import app, schedule
from dicomnode.network import association
side, how, goes_wrong, config = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
app.WATCHDOG_S, app.LISTENER_SILENT_S, schedule.SILENT_S, schedule._SILENT_TIMEOUTS = 0.2, 4.0, 4.0, 0
really = flow.assess_studies
flow.assess_studies = lambda place: threading.Event().wait() if goes_wrong.exists() else really(place)
come_round = association._Server.service_actions
def service_actions(server):
    if goes_wrong.exists():
        threading.Event().wait() if how == "hangs" else 1 / 0
    come_round(server)
association._Server.service_actions = service_actions
from dicomnode.commands.cli import main
sys.argv = ["dicomnode", side, "--config", config]
sys.exit(main())
"""


def heard(signs: socket.socket, seconds: float) -> list[bytes]:
    """Return what is said within so many seconds."""
    end, words = time.monotonic() + seconds, list[bytes]()
    while (left := end - time.monotonic()) > 0:
        signs.settimeout(left)
        try:
            words.append(signs.recv(100))
        except TimeoutError:
            break
    return words


@pytest.mark.parametrize(
    ("side", "how", "said"),
    [
        ("work", "hangs", ("timer_hangs", "assess studies")),
        ("receive", "hangs", ("listener_hangs", "started again")),
        ("receive", "ends", ("listener_hangs", "started again")),
    ],
    ids=["work", "listener hangs", "listener ended"],
)
def test_what_hangs_starves_the_watchdog_and_is_named(
    tmp_path: Path, side: str, how: str, said: tuple[str, str]
) -> None:
    config, goes_wrong, output = tmp_path / "node.toml", tmp_path / "goes-wrong", tmp_path / "log"
    storage = f'[storage]\nroot = "{tmp_path / "node"}"\nminimum_free_mb = 1\n'
    config.write_text(f"{storage}[network]\nport = 0\n[compute]\npoll_s = 0.2\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as signs, output.open("wb") as log:
        signs.bind("")
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + signs.getsockname()[1:].decode()}
        command = [sys.executable, "-c", COMMAND, side, how, goes_wrong, config]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            signs.settimeout(100)
            assert signs.recv(100) == b"READY=1", output.read_text()
            # Longer than a timer may be silent.
            fed = heard(signs, 6)
            goes_wrong.touch()
            heard(signs, 8)
            starved = heard(signs, 3)
        finally:
            process.kill()
            process.wait()

    assert set(fed) == {b"WATCHDOG=1"}
    assert len(fed) > 5
    assert starved == []
    (line, *_) = [line for line in output.read_text().splitlines() if said[0] in line]
    assert said[1] in line
