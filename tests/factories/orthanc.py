"""Orthanc as the archive of a test: a process of its own on free ports of this machine, with its DICOMweb plug-in."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_START_S = 60.0


@dataclass(frozen=True)
class Orthanc:
    """Where a running Orthanc can be reached."""

    http_port: int
    dicom_port: int

    @property
    def url(self) -> str:
        """Root of its REST interface; DICOMweb lies below `/dicom-web`."""
        return f"http://127.0.0.1:{self.http_port}"

    def upload(self, data: bytes) -> None:
        """Store one DICOM file by REST."""
        request = urllib.request.Request(f"{self.url}/instances", data=data, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200


@contextmanager
def running_orthanc(program: str, folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with everything it keeps below `folder`; it is stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Orthanc(free_port(), free_port())
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": place.http_port,
        "DicomPort": place.dicom_port,
        "DicomAet": "ORTHANC",
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False, "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log, subprocess.Popen([program, str(path)], stdout=log, stderr=log) as process:
        try:
            _wait_until_it_answers(place, process)
            yield place
        finally:
            process.terminate()
            process.wait(timeout=30)


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(place: Orthanc, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"{place.url}/system", timeout=5).close()
        except OSError:
            assert process.poll() is None, "Orthanc ended at its start; see orthanc.log"
            assert time.monotonic() < deadline, "Orthanc does not answer"
            time.sleep(0.1)
        else:
            return
