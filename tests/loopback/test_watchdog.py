"""`dicomnode work` with a timer that hangs: the watchdog is not fed any more, and the log names the timer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

# The real command; only one function hangs, and the times are short.
WORK = """
import sys, threading
from pathlib import Path
from dicomnode import app, flow, schedule
app.WATCHDOG_S, schedule.SILENT_S, schedule._SILENT_TIMEOUTS = 0.2, 4.0, 0
really, hangs = flow.assess_studies, Path(sys.argv[1])
flow.assess_studies = lambda place: threading.Event().wait() if hangs.exists() else really(place)
from dicomnode.cli import main
sys.argv = ["dicomnode", "work", "--config", sys.argv[2]]
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


def test_a_timer_that_hangs_starves_the_watchdog_and_is_named(tmp_path: Path) -> None:
    config, hangs, output = tmp_path / "node.toml", tmp_path / "hangs", tmp_path / "log"
    config.write_text(f'[storage]\nroot = "{tmp_path / "node"}"\nminimum_free_mb = 1\n[compute]\npoll_s = 0.2\n')
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as signs, output.open("wb") as log:
        signs.bind("")
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + signs.getsockname()[1:].decode()}
        process = subprocess.Popen([sys.executable, "-c", WORK, hangs, config], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            signs.settimeout(100)
            assert signs.recv(100) == b"READY=1", output.read_text()
            # Longer than a timer may be silent.
            fed = heard(signs, 6)
            hangs.touch()
            heard(signs, 8)
            starved = heard(signs, 3)
        finally:
            process.kill()
            process.wait()

    assert set(fed) == {b"WATCHDOG=1"}
    assert len(fed) > 5
    assert starved == []
    (line, *_) = [line for line in output.read_text().splitlines() if "timer_hangs" in line]
    assert "assess studies" in line
