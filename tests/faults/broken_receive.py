"""`dicomnode receive`, broken on purpose: the power-cut test has to notice. Used by tests only.

python tests/faults/broken_receive.py BREAK CONFIG
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dicomnode.processes.app import run_receive
from dicomnode.records import ReceivedInstance
from dicomnode.settings.config import load_config
from dicomnode.spool.writer import SpoolWriter

_LATER_S = 0.3


def _no_file_fsync() -> None:
    really = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            really(handle)

    os.fsync = fsync


def _no_folder_fsync() -> None:
    really = os.fsync

    def fsync(handle: int) -> None:
        if not (
            stat.S_ISDIR(os.fstat(handle).st_mode)
            and "/spool/incoming/" in str(Path(f"/proc/self/fd/{handle}").readlink())
        ):
            really(handle)

    os.fsync = fsync


def _answer_first() -> None:
    write = SpoolWriter.write

    def write_later(self: SpoolWriter, encoded_dataset: bytes | bytearray, **names: Any) -> ReceivedInstance:
        def later() -> None:
            time.sleep(_LATER_S)
            write(self, encoded_dataset, **names)

        threading.Thread(target=later).start()
        now = names.pop("now")
        path = self.layout.instance_path(names["SOPInstanceUID"], "0" * 64)
        return ReceivedInstance(
            **names, path=path, sha256="0" * 64, size_bytes=len(encoded_dataset), received_at=now
        )

    SpoolWriter.write = write_later  # type: ignore[method-assign]
    SpoolWriter.holds = lambda _self, _instance: True  # type: ignore[method-assign]


BREAKS = {
    "whole": lambda: None,
    "no fsync of the file": _no_file_fsync,
    "no fsync of the folder": _no_folder_fsync,
    "answered before the write": _answer_first,
}

if __name__ == "__main__":
    BREAKS[sys.argv[1]]()
    run_receive(load_config(Path(sys.argv[2])))
