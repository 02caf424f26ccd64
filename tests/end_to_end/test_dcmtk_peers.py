"""The real studies through a running node with other people's programs at both ends.

`storescu` (dcmtk) is the scanner, `storescp` (dcmtk) the PACS; `dciodvfy`, `dsrdump` and dcmqi judge what arrived. The mask that
dcmqi reads from the SEG is held against the mask that `dicomnode segment` writes as NIfTI from the same files.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.tools]

# Folder of ../shared/data -> how the study must be answered by the bundled networks and the checks before them.
ANSWERS = {
    "philips-flair-2d": "lesions",
    "ge-t1-3d-cor": "answered",
    "siemens-xa30-enh-t1": "answered",
    "knee-t1-j2k": "refused",
    "siemens-scouts": "refused",
    "multiecho-gaps": "refused",
    "transfer-syntaxes": "refused",
    "icometrix-mini": "refused",
}


def dicom_files(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.read_bytes()[128:132] == b"DICM"
    ]


def free_port() -> int:
    # dcmtk's storescp cannot report the port that it took, so it must be told one.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def pacs(tmp_path: Path, require_tool: Callable[[str], str]) -> Iterator[tuple[int, Path]]:
    folder = tmp_path / "pacs"
    folder.mkdir()
    port = free_port()
    process = subprocess.Popen(
        [require_tool("storescp"), "-pm", "-aet", "PACS", "-od", str(folder), str(port)]
    )
    yield port, folder
    process.kill()
    process.wait()


@pytest.fixture
def node(tmp_path: Path, pacs: tuple[int, Path]) -> Iterator[tuple[int, Path]]:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[network]\nport = 0\n[storage]\nroot = "{tmp_path / "node"}"\nminimum_free_mb = 50\n[study]\nquiet_s = 6\n'
        f'[[destinations]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs[0]}\n'
    )
    with (tmp_path / "node.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicomnode", "serve", "--config", str(config)], stdout=log, stderr=log
        )
    announcement = tmp_path / "node" / "receive.json"
    end = time.monotonic() + 60
    while not announcement.exists() and time.monotonic() < end:
        time.sleep(0.1)
    yield int(json.loads(announcement.read_text())["port"]), config
    process.terminate()
    process.wait(40)


def send(files: list[Path], port: int, require_tool: Callable[[str], str]) -> None:
    """Send with `storescu`, and what it would have to decompress first with `dcmsend`."""
    native = {
        pydicom.uid.ImplicitVRLittleEndian,
        pydicom.uid.ExplicitVRLittleEndian,
        pydicom.uid.ExplicitVRBigEndian,
    }
    plain = [
        path for path in files if pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID in native
    ]
    packed = [path for path in files if path not in plain]
    for program, chosen in (([require_tool("storescu"), "-R"], plain), ([require_tool("dcmsend")], packed)):
        command = [
            *program,
            "-aec",
            "DICOMNODE",
            "-aet",
            "SCANNER",
            "127.0.0.1",
            str(port),
            *map(str, chosen),
        ]
        if chosen:
            subprocess.run(command, check=True, capture_output=True, env={"TCP_NODELAY": "1"})


def status(config: Path) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "dicomnode", "status", "--json", "--config", str(config)]
    return list(
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["studies"]
    )


def wait_until_done(config: Path, studies: int, timeout_s: float) -> dict[str, str]:
    """Return the outcome of every study, by UID, when all are delivered."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        rows = status(config)
        if len(rows) == studies and all(row["job"]["state"] == "done" for row in rows):  # type: ignore[index]
            return {str(row["StudyInstanceUID"]): row["job"]["outcome"] for row in rows}  # type: ignore[index]
        time.sleep(1)
    pytest.fail(f"not every study was answered: {status(config)}")


@pytest.mark.timeout(600)
def test_real_studies_by_dcmtk_in_and_out(
    node: tuple[int, Path],
    pacs: tuple[int, Path],
    real_data: Path,
    require_tool: Callable[[str], str],
    tmp_path: Path,
) -> None:
    port, config = node
    expected: dict[str, str] = {}
    for folder, answer in ANSWERS.items():
        files = dicom_files(real_data / folder)
        expected |= {
            str(pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]).StudyInstanceUID): answer
            for path in files
        }
        send(files, port, require_tool)

    outcomes = wait_until_done(config, len(expected), 400)

    assert {
        uid: "answered" if expected[uid] == "answered" else outcome for uid, outcome in outcomes.items()
    } == expected
    arrived = sorted(pacs[1].iterdir())
    for path in arrived:
        verdict = subprocess.run(
            [require_tool("dciodvfy"), "-new", str(path)], capture_output=True, text=True, check=False
        ).stderr
        assert [line for line in verdict.splitlines() if line.startswith("Error")] == []
    reports = [path for path in arrived if pydicom.dcmread(path, specific_tags=["Modality"]).Modality == "SR"]
    assert {str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in reports} == set(
        expected
    )
    for path in reports:
        printed = subprocess.run(
            [require_tool("dsrdump"), "+Pl", str(path)], check=True, capture_output=True, encoding="latin-1"
        ).stdout
        assert "Comprehensive 3D SR Document" in printed
        assert "AI result, not for primary diagnosis." in printed
    check_seg_with_dcmqi(arrived, real_data / "philips-flair-2d", require_tool("segimage2itkimage"), tmp_path)


def check_seg_with_dcmqi(arrived: list[Path], study: Path, segimage2itkimage: str, folder: Path) -> None:
    """Hold the voxels that dcmqi finds, by their place in the patient, against the node's own mask."""
    uid = pydicom.dcmread(dicom_files(study)[0], specific_tags=["StudyInstanceUID"]).StudyInstanceUID
    headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in arrived}
    (seg,) = [
        path
        for path, header in headers.items()
        if header.Modality == "SEG" and header.StudyInstanceUID == uid
    ]
    subprocess.run(
        [
            segimage2itkimage,
            "--inputDICOM",
            str(seg),
            "--outputDirectory",
            str(folder),
            "--mergeSegments",
            "-t",
            "nii",
        ],
        check=True,
    )
    own_folder = folder / "own"
    subprocess.run(
        [sys.executable, "-m", "dicomnode", "segment", str(study), "-o", str(own_folder)],
        check=True,
        capture_output=True,
    )

    dcmqi = nib.nifti1.load(folder / "1.nii.gz")
    (labels,) = own_folder.glob("sub-*/anat/*_desc-lesions_dseg.nii.gz")
    own = nib.nifti1.load(labels)
    marked = np.argwhere(np.asarray(dcmqi.dataobj) > 0)
    place = nib.affines.apply_affine(np.linalg.inv(own.affine) @ dcmqi.affine, marked)

    assert len(marked) > 100
    assert np.abs(place - np.rint(place)).max() < 1e-2
    assert {tuple(index) for index in np.rint(place).astype(int)} == {
        tuple(index) for index in np.argwhere(np.asarray(own.dataobj) > 0)
    }
