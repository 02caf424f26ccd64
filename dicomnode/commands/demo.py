"""`dicomnode demo`.

An embedded PACS, a scanner simulator and a whole node, with one synthetic study through all of it.

The node runs as `dicomnode receive` and `dicomnode work` in processes of their own, as a hospital would run
it; only the peers are embedded. The study is committed (see `dicomnode/simulator/DEMO_STUDY.md`): its lesions
are known, so the answer can be judged.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicomnode.errors import NodeError
from dicomnode.network.sender import send_files
from dicomnode.records import Role
from dicomnode.settings.config import DestinationSettings
from dicomnode.simulator.archive import Archive
from dicomnode.simulator.author import author_series, derive_uid, write_series
from dicomnode.simulator.node import AE_TITLE, NodeProcesses
from pipeline.counts import counted
from pipeline.evaluate.overlap import count_overlap
from pipeline.geometry import apply_affine
from pipeline.records import Array

DEMO_STUDY = Path(__file__).parent.parent / "simulator" / "demo_study.npz"
STUDY_UID = derive_uid("demo", "study")
# For whoever wants to look at the study afterwards: `dicomnode web` on the demo's own configuration.
_PAGES_PORT = 8042
_PAGES = f"[web]\nenabled = true\nlogin = false\nport = {_PAGES_PORT}\n"
PAGE_OF_STUDY = f"http://127.0.0.1:{_PAGES_PORT}/studies/{STUDY_UID}"
# Beside the usual results the report as text: what a person reads first.
_OBJECTS = 'objects = ["auto", "summary"]\n'
_IMAGING_MEASUREMENTS = "126010"
_SHEET_S = 30.0


@dataclass(frozen=True)
class PlantedLesion:
    """One lesion of the synthetic study and what the node made of it."""

    label: int
    planted_ml: float
    overlap_percent: float


@dataclass(frozen=True)
class DemoResult:
    """What came back to the embedded PACS."""

    seg: Path | None
    sr: Path
    summary: Path | None
    montage: Path | None
    report: Path
    sentences: tuple[str, ...]
    found_ml: tuple[float, ...]
    dice: float
    planted: tuple[PlantedLesion, ...]
    seconds: float


def run_demo(folder: Path, timeout_s: float, say: Callable[[str], None]) -> DemoResult:
    """Run the demo in `folder` (its earlier content is replaced) and return what came back.

    Raises
    ------
    NodeError
        A process of the node died or no answer came in time; the message names the log.
    """
    if folder.exists():
        shutil.rmtree(folder)
    study = np.load(DEMO_STUDY)
    images = write_study(study, folder / "study")
    say(f"scanner: {len(images)} MR images of one synthetic T1 + FLAIR study")
    with Archive(folder / "pacs") as archive:
        say(f"PACS: {archive.ae_title} listens on 127.0.0.1:{archive.port}")
        with NodeProcesses(folder, archive.ae_title, archive.port, _OBJECTS + _PAGES) as node:
            port = node.port()
            say(f"node: {AE_TITLE} listens on 127.0.0.1:{port}; receive and work are separate processes")
            _send(images, port)
            sent_at = time.monotonic()
            say("scanner: every image was acknowledged (0x0000: it is safe on disk)")
            received = _wait_for_answer(folder / "pacs", timeout_s, node.check, say)
            seconds = time.monotonic() - sent_at
            _wait_for_sheet(folder, node.check)
    return _judge(study, received, folder, seconds)


def write_study(study: np.lib.npyio.NpzFile, folder: Path, study_uid: str = STUDY_UID) -> list[Path]:
    """Author the demo study as DICOM files, T1 first."""
    frame_of_reference_uid = derive_uid(study_uid, "frame of reference")
    paths: list[Path] = []
    roles: Sequence[Role] = ("t1", "flair")
    for number, role in enumerate(roles, start=1):
        series = author_series(
            study[role],
            study[f"{role}_affine"],
            role=role,
            study_uid=study_uid,
            frame_of_reference_uid=frame_of_reference_uid,
            series_number=number,
        )
        paths += write_series(series, folder / role)
    return paths


def _send(images: Sequence[Path], port: int) -> None:
    node = DestinationSettings(name="node", ae_title=AE_TITLE, host="127.0.0.1", port=port)
    outcomes = send_files(images, node, calling_ae="SIMULATOR", timeout_s=60)
    refused = [outcome.reason for outcome in outcomes if outcome.verdict != "ok"]
    if refused:
        raise NodeError(f"the node refused {counted(len(refused), 'image')}: {refused[0]}")


def _wait_for_answer(
    pacs: Path, timeout_s: float, alive: Callable[[], None], say: Callable[[str], None]
) -> dict[str, Path]:
    """Wait until the report and, where it speaks of lesions, the segmentation lie in the archive."""
    end = time.monotonic() + timeout_s
    first_paths: dict[str, Path] = {}
    while time.monotonic() < end:
        alive()
        for path in sorted(pacs.rglob("*.dcm")):
            if path in first_paths.values():
                continue
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
            kind = "summary" if _is_summary(dataset) else str(dataset.SOPClassUID)
            first_paths[kind] = path
            say(f"PACS: received {dataset.SOPClassUID.name}: {dataset.SeriesDescription}")
        if Comprehensive3DSRStorage in first_paths and (
            {SegmentationStorage, "summary"} <= set(first_paths)
            or not _reports_lesions(first_paths[Comprehensive3DSRStorage])
        ):
            return first_paths
        time.sleep(0.5)
    raise NodeError(f"no answer came within {counted(timeout_s, 'second')}; see node.log beside the results")


def _wait_for_sheet(folder: Path, alive: Callable[[], None]) -> None:
    """Wait until the sheet of key slices is drawn, which is done after the results have left."""
    end = time.monotonic() + _SHEET_S
    while not any((folder / "node").rglob("montage.png")) and time.monotonic() < end:
        alive()
        time.sleep(0.1)


def _is_summary(dataset: pydicom.Dataset) -> bool:
    """Return whether a report has words only."""
    names = [
        item.ConceptNameCodeSequence[0].CodeValue
        for item in dataset.get("ContentSequence", [])
        if "ConceptNameCodeSequence" in item
    ]
    return bool(names) and _IMAGING_MEASUREMENTS not in names


def _reports_lesions(sr: Path) -> bool:
    return "Referenced Segment" in str(pydicom.dcmread(sr))


def _judge(
    study: np.lib.npyio.NpzFile, received: dict[str, Path], folder: Path, seconds: float
) -> DemoResult:
    """Compare the segmentation with the planted lesions, on the grid of the series that it outlines."""
    truth = _truth_on_flair(study)
    seg = received.get(SegmentationStorage)
    labels_sent = _read_labels(seg, study) if seg else np.zeros(truth.shape, np.uint16)
    voxel_ml = abs(float(np.linalg.det(study["flair_affine"][:3, :3]))) / 1000
    planted = tuple(
        PlantedLesion(
            label,
            float((truth == label).sum() * voxel_ml),
            float(100 * (labels_sent[truth == label] > 0).mean()),
        )
        for label in np.unique(truth[truth > 0]).tolist()
    )
    dice = count_overlap(labels_sent > 0, truth > 0).dice
    sizes = tuple(float(n * voxel_ml) for n in np.bincount(labels_sent.ravel())[1:])
    montage = next(iter(sorted((folder / "node").rglob("montage.png"))), None)
    montage_copy = Path(shutil.copy(montage, folder / "montage.png")) if montage else None
    sr = received[Comprehensive3DSRStorage]
    tree = _readable(sr)
    report = folder / "report.txt"
    report.write_text("\n".join(tree) + "\n", encoding="utf-8")
    sentences = tuple(
        line.split(": ", 1)[1]
        for line in tree
        if line.startswith(("  Impression: ", "  Finding: ", "  Comment: "))
    )
    summary = received.get("summary")
    return DemoResult(seg, sr, summary, montage_copy, report, sentences, sizes, dice, planted, seconds)


def _truth_on_flair(study: np.lib.npyio.NpzFile) -> Array:
    """Sample the planted labels at the FLAIR's voxels (nearest neighbour, in patient space).

    The labels lie on the T1 grid.
    """
    shape = study["flair"].shape
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points_mm = apply_affine(study["flair_affine"], index)
    nearest = np.rint(apply_affine(np.linalg.inv(study["t1_affine"]), points_mm)).astype(int)
    truth = study["truth"]
    inside = ((nearest >= 0) & (nearest < truth.shape)).all(axis=1)
    labels = np.zeros(len(index), truth.dtype)
    labels[inside] = truth[tuple(nearest[inside].T)]
    return labels.reshape(shape)


def _read_labels(seg: Path, study: np.lib.npyio.NpzFile) -> Array:
    """Read the SEG with highdicom and lay its segments on the FLAIR grid.

    The segments are placed by their position in patient space.
    """
    segmentation = hd.seg.segread(seg)
    labels = np.zeros(study["flair"].shape, np.uint16)
    to_index = np.linalg.inv(study["flair_affine"])
    for number in segmentation.segment_numbers:
        volume = segmentation.get_volume(segment_numbers=[number])
        marked = np.argwhere(volume.array[..., 0] > 0)
        index = np.rint(apply_affine(to_index, apply_affine(volume.affine, marked))).astype(int)
        labels[tuple(index.T)] = number
    return labels


def _readable(sr: Path) -> list[str]:
    """Return the report's text and numbers as lines, in the order of the content tree."""
    lines: list[str] = []
    _collect(pydicom.dcmread(sr), 0, lines)
    return lines


def _collect(item: pydicom.Dataset, depth: int, lines: list[str]) -> None:
    name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
    value = ""
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        value = f"{measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
    elif item.ValueType == "TEXT":
        value = str(item.TextValue)
    elif item.ValueType == "CODE":
        value = item.ConceptCodeSequence[0].CodeMeaning
    if value or item.ValueType == "CONTAINER":
        lines.append(f"{'  ' * depth}{name}{': ' + value if value else ''}")
    for child in item.get("ContentSequence", []):
        _collect(child, depth + 1, lines)
