"""A whole node on this machine, in processes of its own: what the demo shows and the fault tests kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from dicomnode.errors import NodeError
from pipeline.counts import counted

Side = Literal["receive", "work"]
AE_TITLE = "DEMONODE"


class NodeProcesses:
    """`dicomnode receive` and `dicomnode work` on one root; leaving the context ends whatever still runs.

    Parameters
    ----------
    folder
        Holds the configuration, the log (`node.log`) and the node's root (`node/`).
    archive_ae, archive_port
        The destination, on 127.0.0.1.
    settings
        More TOML: whole tables, put after ours.
    """

    def __init__(self, folder: Path, archive_ae: str, archive_port: int, settings: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root = folder / "node"
        self.log = folder / "node.log"
        self.config = folder / "dicomnode.toml"
        self.config.write_text(
            f'[network]\nae_title = "{AE_TITLE}"\nport = 0\n'
            f"[storage]\nroot = {json.dumps(str(self.root))}\nminimum_free_mb = 100\n"
            f'[[destinations]]\nname = "pacs"\nae_title = "{archive_ae}"\n'
            f'host = "127.0.0.1"\nport = {archive_port}\n{settings}'
        )
        self._processes: dict[Side, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.start("receive")
        self.start("work")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

    def start(self, side: Side) -> None:
        """Start one side."""
        with self.log.open("ab") as output:
            command = [sys.executable, "-P", "-m", "dicomnode", side, "--config", str(self.config)]
            self._processes[side] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def stop(self, side: Side) -> None:
        """Let one side end in an orderly way (SIGTERM)."""
        process = self._processes.pop(side)
        process.terminate()
        process.wait(60)

    def kill(self, side: Side) -> None:
        """SIGKILL one side and, as a power cut would, the worker processes below it."""
        process = self._processes.pop(side)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def pid(self, side: Side) -> int:
        """Return the process id of one side, which is also the group of all processes below it."""
        return self._processes[side].pid

    def ended(self, side: Side) -> bool:
        """Say whether one side has ended by itself."""
        return self._processes[side].poll() is not None

    def check(self) -> None:
        """Raise `NodeError` when a process has ended by itself."""
        for side, process in self._processes.items():
            if process.poll() is not None:
                raise NodeError(
                    f"`dicomnode {side}` ended with exit code {process.returncode}; see {self.log}"
                )

    def port(self, timeout_s: float = 60) -> int:
        """Wait until this `receive` listens and return its port."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.check()
            receive = self._processes.get("receive")
            with suppress(FileNotFoundError, json.JSONDecodeError):
                announcement = json.loads((self.root / "receive.json").read_text())
                if (
                    receive is not None and announcement["pid"] == receive.pid
                ):  # A killed one leaves its file behind.
                    return int(announcement["port"])
            time.sleep(0.1)
        raise NodeError(
            f"the node did not begin to listen within {counted(timeout_s, 'second')}; see {self.log}"
        )
