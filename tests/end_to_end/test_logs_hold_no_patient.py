"""A whole run of a node, at the most talkative level: nothing of the patient is in its log, its audit trail, or what its commands print."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from dicomnode.network.sender import send_files
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import Patient, write_series
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from tests.factories.head import head_series

pytestmark = [pytest.mark.slow]

PATIENT = Patient(
    PatientName="Quisling-Zappa^Ludmilla",
    PatientID="PID-7714403",
    PatientBirthDate="19430217",
    PatientSex="F",
    PatientAge="083Y",
)
SECRETS = {
    "AccessionNumber": "ACC5551212",
    "ReferringPhysicianName": "Kwakzalver^Otto",
    "PatientComments": "fell off a giraffe",
    "StudyDescription": "brain of a zookeeper",
}
WORDS = (
    "quisling",
    "zappa",
    "ludmilla",
    "7714403",
    "19430217",
    "1943-02-17",
    "acc5551212",
    "kwakzalver",
    "giraffe",
    "zookeeper",
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", ["console", "json"])
def test_the_log_of_a_whole_run_holds_nothing_of_the_patient(tmp_path: Path, form: str) -> None:
    def images(name: str, **overrides: object) -> list[Path]:
        series = head_series("flair", name, patient=PATIENT, overrides={**SECRETS, **overrides})
        return write_series(series, tmp_path / name)

    good, broken, truncated = images("good"), images("broken", PixelSpacing=None), images("truncated")
    for path in [*broken, *good]:  # Readers warn of a date that is none, and quote it.
        path.write_bytes(path.read_bytes().replace(b"19430217", b"Ludmilla"))
    for path in truncated[:3]:
        path.write_bytes(path.read_bytes()[:-2500])
    settings = f'[study]\nquiet_s = 3\n[log]\nlevel = "debug"\nformat = "{form}"\n'
    with (
        Archive(tmp_path / "pacs") as archive,
        NodeProcesses(tmp_path, archive.ae_title, archive.port, settings) as node,
    ):
        peer = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=node.port())
        outcomes = send_files([*good, *broken, *truncated], peer, calling_ae="SCANNER", timeout_s=30)
        end = time.monotonic() + 150
        while len(archive.files) < 5 and time.monotonic() < end:
            time.sleep(0.5)
        shown = [
            subprocess.run(
                [sys.executable, "-m", "dicomnode", *words, "--config", str(node.config)],
                capture_output=True,
                text=True,
                check=True,
            )
            for words in (
                ["status"],
                ["status", "--json"],
                ["why", str(pydicom.dcmread(good[0]).StudyInstanceUID), "--json"],
                ["config", "show"],
            )
        ]
    audit = (node.root / "audit" / "audit.jsonl").read_text()
    log = "\n".join(
        [node.log.read_text(), audit, *(answer.stdout + answer.stderr for answer in shown)]
    ).lower()
    arrived = [pydicom.dcmread(path) for path in archive.files]

    assert {outcome.verdict for outcome in outcomes} == {"ok"}
    assert {(str(instance.PatientName), instance.PatientID) for instance in arrived} == {
        (PATIENT.PatientName, PATIENT.PatientID)
    }
    assert sorted(instance.Modality for instance in arrived) == ["SEG", "SEG", "SR", "SR", "SR"]
    assert log.count("study_answered") == 3
    assert [word for word in WORDS if word in log] == []
    audited = Counter(json.loads(line)["event"] for line in audit.splitlines())
    assert audited == Counter(
        {
            "started": 2,
            "stopped": 2,
            "configuration-changed": 1,
            "instances-received": audited["instances-received"],
            "study-processed": 3,
            "instances-sent": 5,
        }
    )
    assert audited["instances-received"] >= 2
