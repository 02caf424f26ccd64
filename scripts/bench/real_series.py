"""Seconds from the last image of a real series to its report at the archive, sent by dcmtk's own senders.

    python -m scripts.bench.real_series --data DATA

Real series carry no count of their images, so the node decides by other evidence when a study is whole.
Every series goes out `--repeats` times by `storescu` and by `dcmsend`, each time under new UIDs, to one
node as shipped and an archive, one study after the other.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomnode.simulator.archive import Archive
from dicomnode.simulator.node import AE_TITLE, NodeProcesses

SERIES = ("ge-t1-3d-cor/dicom", "siemens-xa30-enh-t1/dicom", "philips-flair-2d/flair")
SENDERS = ("storescu", "dcmsend")
DCMTK = Path("/usr/bin")
"""A `storescu` of another make may come first on PATH."""
PATIENCE_S = 300.0
ASKED_MEDIAN_S = 15.0


def write_copy(source: Path, target: Path) -> str:
    """Write a series under new UIDs into `target` and return its Study Instance UID."""
    target.mkdir(parents=True)
    study, series = generate_uid(), generate_uid()
    for number, path in enumerate(sorted(source.glob("*")), start=1):
        dataset = dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(target / f"{number:04d}.dcm")
    return str(study)


def send(sender: str, folder: Path, port: int) -> None:
    """Send all files of a folder in one association."""
    syntaxes = ["-R"] if sender == "storescu" else []
    files = [str(path) for path in sorted(folder.iterdir())]
    command = [str(DCMTK / sender), *syntaxes, "-aet", "BENCH", "-aec", AE_TITLE, "127.0.0.1", str(port)]
    subprocess.run([*command, *files], check=True, capture_output=True)


def wait_for_report(archive: Archive, study: str, node: NodeProcesses) -> tuple[float, list[str]]:
    """Return when the report of a study came, and the modalities of all that had come by then."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        node.check()
        objects = [
            dataset
            for dataset in (dcmread(path, stop_before_pixels=True) for path in archive.files)
            if dataset.StudyInstanceUID == study
        ]
        modalities = sorted(dataset.Modality for dataset in objects)
        if "SR" in modalities:
            return time.monotonic(), modalities
        time.sleep(0.1)
    raise SystemExit(f"no report of {study} came within {PATIENCE_S:.0f} s; see {node.log}")


def main() -> int:
    """Print one line a study and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real series")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    missing = [name for name in SERIES if not (options.data / name).is_dir()]
    if missing or not all((DCMTK / sender).exists() for sender in SENDERS):
        raise SystemExit(f"needs dcmtk and the series {', '.join(missing or SERIES)} in {options.data}")
    waits: dict[str, list[float]] = {sender: [] for sender in SENDERS}
    folder = Path(tempfile.mkdtemp(prefix="dicomnode-bench-"))
    try:
        with (
            Archive(folder / "pacs") as archive,
            NodeProcesses(folder / "node", archive.ae_title, archive.port) as node,
        ):
            for repeat in range(options.repeats):
                for name in SERIES:
                    for sender in SENDERS:
                        files = folder / f"{repeat}-{name.replace('/', '-')}-{sender}"
                        study = write_copy(options.data / name, files)
                        send(sender, files, node.port())
                        sent = time.monotonic()
                        arrived, modalities = wait_for_report(archive, study, node)
                        waits[sender].append(arrived - sent)
                        print(
                            f"{sender:<9}{name:<26}{arrived - sent:7.1f} s  {' '.join(modalities)}",
                            flush=True,
                        )
                        shutil.rmtree(files)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for sender, seconds in waits.items():
        print(f"{sender}: median {statistics.median(seconds):.1f} s, slowest {max(seconds):.1f} s")
    median = statistics.median([value for seconds in waits.values() for value in seconds])
    verdict = "met" if median <= ASKED_MEDIAN_S else "not met"
    print(f"all: median {median:.1f} s, asked for at most {ASKED_MEDIAN_S:.0f} s: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
