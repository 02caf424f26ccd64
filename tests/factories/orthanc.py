"""Orthanc as the archive of a test: a process on free ports of this machine, with its DICOMweb plug-in."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomnode.settings.config import DestinationSettings

DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AE_TITLE = "ORTHANC"
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

    @property
    def destination(self) -> DestinationSettings:
        """Orthanc by DIMSE."""
        return DestinationSettings(name="orthanc", ae_title=AE_TITLE, host="127.0.0.1", port=self.dicom_port)

    @property
    def web(self) -> DestinationSettings:
        """Orthanc by DICOMweb."""
        return DestinationSettings(name="orthanc-web", url=f"{self.url}/dicom-web")

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Ask its REST interface."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def introduce(self, ae_title: str, port: int) -> None:
        """Tell it where the node is, as an administrator does; it calls it `node`."""
        self.rest("PUT", "/modalities/node", {"AET": ae_title, "Host": "127.0.0.1", "Port": port})

    def instances(self, modality: str) -> list[str]:
        """Return the SOP Instance UIDs that it keeps of a modality."""
        query = {"Level": "Instance", "Query": {"Modality": modality}, "Expand": True}
        return sorted(
            entry["MainDicomTags"]["SOPInstanceUID"] for entry in self.rest("POST", "/tools/find", query)
        )

    def commitment(
        self, references: Sequence[tuple[str, str]], timeout_s: float = 60, *, node: str = "node"
    ) -> dict[str, Any]:
        """Have it ask the node, by the name that it has for it, to commit itself; return the answer."""
        path = self.rest(
            "POST",
            f"/modalities/{node}/storage-commitment",
            {"DicomInstances": [list(pair) for pair in references]},
        )["Path"]
        end = time.monotonic() + timeout_s
        while True:
            report: dict[str, Any] = self.rest("GET", path)
            if report["Status"] != "Pending" or time.monotonic() > end:
                return report
            time.sleep(0.2)

    def upload(self, data: bytes) -> None:
        """Store one DICOM file by REST."""
        request = urllib.request.Request(f"{self.url}/instances", data=data, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200


@contextmanager
def running_orthanc(program: str, folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with everything it keeps below `folder`; it is stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    address = Orthanc(free_port(), free_port())
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": address.http_port,
        "DicomPort": address.dicom_port,
        "DicomAet": AE_TITLE,
        "DicomModalitiesInDatabase": True,
        "AuthenticationEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(DICOMWEB_PLUGIN)],
        "DicomWeb": {
            "Enable": True,
            "Root": "/dicom-web/",
            "EnableWado": False,
            "StudiesMetadata": "Full",
            "SeriesMetadata": "Full",
        },
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    with orthanc_process(program, path, address):
        yield address


@contextmanager
def orthanc_process(program: str, configuration: Path, address: Orthanc) -> Iterator[None]:
    """Run Orthanc on a configuration, a file or a folder of files, that gives it the ports of `address`."""
    with (
        (configuration.parent / "orthanc.log").open("wb") as log,
        subprocess.Popen([program, str(configuration)], stdout=log, stderr=log) as process,
    ):
        try:
            _wait_until_it_answers(address, process)
            yield
        finally:
            process.terminate()
            process.wait(timeout=30)


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(address: Orthanc, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urllib.request.urlopen(f"{address.url}/system", timeout=5).close()
        except OSError:
            assert process.poll() is None, "Orthanc ended at its start; see orthanc.log"
            assert time.monotonic() < deadline, "Orthanc does not answer"
            time.sleep(0.1)
        else:
            return
