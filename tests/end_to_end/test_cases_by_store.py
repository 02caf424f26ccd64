"""Every study of the field reports, and every real series, sent by C-STORE to one running node: what its docstring says comes back.

Looked at are `status`, `why`, and the objects in the archive, read back from their bytes.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicomnode.commands.story import NO_STUDY, status_rows, story
from dicomnode.records import Role
from dicomnode.results.verify.companions import read_lines
from dicomnode.simulator.enhanced import author_enhanced
from tests.factories.concatenations import cut, put_together
from tests.factories.field_reports import FRAME_OF_REFERENCE, Case, load_cases, write_case, write_study
from tests.factories.whole_node import WholeNode, whole_node

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # What pydicom and highdicom say of odd headers while the studies are made.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

T1, FLAIR = "T1 3D MPRAGE", "T2 FLAIR tra"
NOT_UNDERSTOOD = 0xC000


@dataclass(frozen=True)
class Right:
    """What is right for a case.

    `t1`, `flair` describe the series used ("" where none may be); `present` and `absent` are patterns of what `why` prints;
    `as_base` asks for the very lesions of the case `base`.
    """

    outcome: str
    t1: str = ""
    flair: str = ""
    present: str = ""
    absent: str = "No stroke lesion found"
    as_base: bool = False


def as_base(t1: str = T1, flair: str = FLAIR, present: str = "", absent: str = "never printed") -> Right:
    return Right("lesions", t1, flair, present, absent, as_base=True)


GE_T1, GE_FLAIR = "Ax T1 BRAVO", "Ax T2 FLAIR"
AFTER_AGENT = "after contrast agent"
RIGHT = {
    "base": as_base(),
    "ge_proto_perfusion": as_base(GE_T1, GE_FLAIR, absent="perfusion"),
    "ge_proto_mra": as_base(GE_T1, GE_FLAIR, absent="angiography"),
    "ge_proto_gad": as_base(GE_T1, GE_FLAIR, absent="contrast"),
    "ge_proto_flair_t2": Right("refused", present="T2 weighted, no inversion time"),
    "t1_flair_no_timing_alone": Right("refused", present="contradict each other"),
    "odd_slice_in_flair": as_base(present="1 image of the series does not belong to its 48 parallel slices"),
    "philips_tof": as_base("T1W_SE", present=r"'s3DI_MC_HR' .*: not used: .*angiography"),
    "qsm_mag": as_base(
        "t1_se_tra", present=r"'Mag_Images' .*: not used: .*susceptibility", absent="tie|nothing ranks"
    ),
    "fgatir": as_base(present=r"'FGATIR sag iso' .*: not used"),
    "mp2rage": as_base("anat-MP2RAGE_UNI-DEN", present=r"INV1' .*: not used(.|\n)*INV2' .*: not used"),
    "dixon_flair": as_base(flair="t2_space_flair_dixon_W", present=r"dixon_F' .*: not used: the fat image"),
    "pre_and_post_gad": as_base(
        "* T1 AXIAL PRE GAD",
        "* FLAIR AXIAL",
        r"POST GAD' .*" + AFTER_AGENT + r"(.|\n)*SAG LOC' .*: not used|SAG LOC' .*: not used",
    ),
    "post_contrast_es": as_base("T1 3D", present=AFTER_AGENT, absent="acquired 2 times"),
    "post_contrast_it": as_base("T1 3D", present=AFTER_AGENT, absent="acquired 2 times"),
    "post_contrast_pt": as_base("T1 3D", present=AFTER_AGENT, absent="acquired 2 times"),
    "split_halves_flair": Right(
        "lesions", "", FLAIR, r"put together: 32 \+ 16 slices", "acquired 2 times|left out"
    ),
    "one_series_per_slice": as_base(present="spread over 48 series"),
    "pixel_padding": as_base(absent="may have moved|not a head"),
    "rounded_positions": Right(
        "undetermined", T1, "", "Slice positions are rounded", "slices are missing|send it again"
    ),
    "legacy_converted": as_base("", ""),
    "uid_leading_zero": as_base(),
    "uid_leading_zero_series": Right("refused", present="5 slices; at least"),
}
REFUSED_BY_STATUS = ("uid_too_long", "uid_letters")


@pytest.fixture(scope="module")
def cases(repo_root: Path) -> dict[str, Case]:
    return load_cases(repo_root)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeNode]:
    folder = tmp_path_factory.mktemp("cases")
    # Many studies have the same images: the cache computes them once.
    pipeline = {
        "bias_correction": False,
        "lesion_model": "stroke-lesion-2mm",
        "cache": str(folder / "cache"),
    }
    with whole_node(folder, objects=("seg", "sr", "pdf"), pipeline=pipeline) as started:
        yield started


def send(node: WholeNode, files: list[Path]) -> list[int | None]:
    """Send with dcmtk's `storescu` where it is there, else with our sender; return the statuses."""
    if not (program := shutil.which("storescu")):
        return node.push(files)
    command = [
        program,
        "-v",
        "-R",
        "--no-halt",
        "-aet",
        "SCANNER",
        "-aec",
        "NODE",
        "127.0.0.1",
        str(node.port),
    ]
    finished = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, env={"TCP_NODELAY": "1"}, check=False
    )
    answers = re.findall(r"Received Store Response \((.*)\)", finished.stdout + finished.stderr)
    return [{"Success": 0x0000, "Error: CannotUnderstand": NOT_UNDERSTOOD}.get(answer) for answer in answers]


def explained(node: WholeNode, study: str) -> str:
    """Return what `dicomnode why` prints of a study."""
    history = node.ledger.history.of_study(study)
    assert history is not None
    return "\n".join(story(history))


def used_series(node: WholeNode, study: str) -> dict[str, str]:
    """Role -> description of the series that `why` says was used."""
    choice = node.history(study)["jobs"][-1]["detail"]
    rows = choice.get("choice") or choice.get("evidence", {}).get("choice", ())
    return {row["role"]: row["SeriesDescription"] for row in rows if row["use"] == "used"}


def lesions_of(node: WholeNode, study: str) -> list[float]:
    return [round(lesion["volume_ml"], 3) for lesion in node.history(study)["jobs"][-1]["detail"]["lesions"]]


def check_objects(node: WholeNode, study: str, sent: list[Dataset]) -> None:
    """What the archive has of a study bears its patient, its UIDs letter by letter, and points to what was sent."""
    arrived = node.arrived(study)
    assert len(arrived["SR"]) == 1
    instances = {str(dataset.SOPInstanceUID): dataset for dataset in sent}
    for instance in (item for items in arrived.values() for item in items):
        for keyword in (
            "StudyInstanceUID",
            "PatientID",
            "PatientName",
            "PatientBirthDate",
            "AccessionNumber",
        ):
            assert str(instance.get(keyword, "")) == str(sent[0].get(keyword, "")), keyword
        pointed = [
            str(element.value)
            for element in instance.iterall()
            if element.keyword == "ReferencedSOPInstanceUID" and str(element.value) in instances
        ]
        assert pointed or instance.Modality != "SEG"
    for segmentation in arrived.get("SEG", ()):
        assert segmentation.FrameOfReferenceUID == sent[0].FrameOfReferenceUID
        series = {str(item.SeriesInstanceUID) for item in segmentation.ReferencedSeriesSequence}
        assert series <= {str(dataset.SeriesInstanceUID) for dataset in sent}


def sentences_of_report(node: WholeNode, study: str) -> str:
    (report,) = node.arrived(study)["SR"]
    return " ".join(str(element.value) for element in report.iterall() if element.keyword == "TextValue")


def send_and_work(node: WholeNode, files: list[Path]) -> tuple[str, list[Dataset]]:
    sent = [pydicom.dcmread(path) for path in files]
    assert send(node, files) == [0x0000] * len(files)
    node.work()
    return str(sent[0].StudyInstanceUID), sent


def lines_of_page(node: WholeNode, study: str) -> str:
    (page,) = node.arrived(study)["DOC"]
    return " ".join(read_lines(page.EncapsulatedDocument))


def check_answer(node: WholeNode, study: str, sent: list[Dataset], right: Right) -> None:
    (row,) = [row for row in status_rows(node.ledger) if row[0] == study]
    assert (row[3], row[4]) == ("done", right.outcome), row[5]
    words = explained(node, study)
    assert re.search(right.present, words), words
    assert not re.search(right.absent, words), words
    assert "result-verification-failed" not in words
    used = used_series(node, study)
    if right.t1 or right.flair:
        assert (used.get("t1", ""), used.get("flair", "")) == (right.t1, right.flair)
    check_objects(node, study, sent)
    report = sentences_of_report(node, study)
    # Lines of a page break between words.
    page = re.sub(r"\s+", "", lines_of_page(node, study))
    for role, description in used.items():
        if right.outcome != "refused":
            assert re.search(rf"{role.upper()}: (stack \d+ of )?series ", report)
            assert re.search(rf"{role.upper()}:(stack\d+of)?series", page)
        assert description in report
        assert re.sub(r"\s+", "", description) in page


@pytest.fixture(scope="module")
def base_lesions(
    node: WholeNode, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> list[float]:
    files = write_case(
        lambda _name: cases["base"]("reference"), "", tmp_path_factory.mktemp("base") / "files"
    )
    study, _sent = send_and_work(node, files)
    lesions = lesions_of(node, study)
    assert len(lesions) >= 2
    return lesions


@pytest.mark.parametrize("name", RIGHT)
def test_a_case_is_answered_as_its_docstring_says(
    node: WholeNode, cases: dict[str, Case], base_lesions: list[float], name: str, tmp_path: Path
) -> None:
    study, sent = send_and_work(node, write_case(cases[name], name, tmp_path / name))

    check_answer(node, study, sent, RIGHT[name])
    if RIGHT[name].as_base:
        # Where padding was taken for air, the image itself differs a little.
        assert lesions_of(node, study) == pytest.approx(base_lesions, rel=0.03)


@pytest.mark.parametrize("name", REFUSED_BY_STATUS)
def test_what_is_no_uid_is_refused_by_status_and_leaves_nothing(
    node: WholeNode, cases: dict[str, Case], name: str, tmp_path: Path
) -> None:
    files = write_case(cases[name], name, tmp_path / name)
    before = status_rows(node.ledger)

    assert set(send(node, files)) == {NOT_UNDERSTOOD}

    node.work()
    assert status_rows(node.ledger) == before
    assert NO_STUDY not in [row[3] for row in before]


def test_every_case_is_in_a_table(cases: dict[str, Case]) -> None:
    assert set(cases) == {*RIGHT, *REFUSED_BY_STATUS}


def enhanced(series: list[Dataset], role: Role, number: int) -> Dataset:
    """Return the slices of a case as one Enhanced MR instance of the same patient, study and place."""
    first, last = (np.array([float(x) for x in series[at].ImagePositionPatient]) for at in (0, -1))
    row, column = np.split(np.array([float(x) for x in series[0].ImageOrientationPatient]), 2)
    affine = np.eye(4)
    affine[:3] = np.column_stack(
        [
            (last - first) / (len(series) - 1),
            column * float(series[0].PixelSpacing[0]),
            row * float(series[0].PixelSpacing[1]),
            first,
        ]
    )
    whole = author_enhanced(
        np.stack([item.pixel_array for item in series]),
        affine,
        role=role,
        study_uid=str(series[0].StudyInstanceUID),
        frame_of_reference_uid=FRAME_OF_REFERENCE,
        series_number=number,
        seed=role,
    )
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        setattr(whole, keyword, series[0][keyword].value)
    return whole


def turned(whole: Dataset) -> Dataset:
    """Return the same frames as a sagittal stack that covers half of a head."""
    other = copy.deepcopy(whole)
    (shared,) = other.SharedFunctionalGroupsSequence
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    for index, frame in enumerate(other.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [1.5 * index - 36, -110, 110]
    return other


def test_a_concatenated_flair_and_a_t1_beside_another_stack_are_answered_as_base(
    node: WholeNode, cases: dict[str, Case], base_lesions: list[float], tmp_path: Path
) -> None:
    slices = cases["base"]("concatenation")
    t1, flair = enhanced(slices[:48], "t1", 3), enhanced(slices[48:], "flair", 5)
    instances = [put_together(turned(t1), t1), *cut(flair, [20, 17, 11])[::-1]]

    study, sent = send_and_work(node, write_study(instances, tmp_path / "concatenation"))

    check_answer(node, study, sent, as_base("", "", present="stack 2 of series 3 .*: used as T1"))
    words = explained(node, study)
    assert "stack 1 of series 3" in words
    # The numbers of positions are rounded otherwise.
    assert lesions_of(node, study) == pytest.approx(base_lesions, rel=0.1, abs=0.05)
    (segmentation,) = node.arrived(study)["SEG"]
    pointed = {
        str(item.value) for item in segmentation.iterall() if item.keyword == "ReferencedSOPInstanceUID"
    }
    assert pointed <= {str(dataset.SOPInstanceUID) for dataset in sent}
    assert len(pointed) >= 2


def test_a_concatenation_without_its_last_part_claims_no_absence(
    node: WholeNode, cases: dict[str, Case], tmp_path: Path
) -> None:
    parts = cut(enhanced(cases["base"]("torn")[48:], "flair", 5), [40, 8])

    study, sent = send_and_work(node, write_study(parts[:1], tmp_path / "torn"))

    check_answer(
        node, study, sent, Right("lesions", present=r"number 1 of 2 came; slices may be missing at the ends")
    )


REAL = {
    "ge-t1-3d-cor": "answered",
    "siemens-xa30-enh-t1": "answered",
    "philips-flair-2d": "answered",
    "knee-t1-j2k": "refused",
    "siemens-scouts": "refused",
    "siemens-xa30-derived": "refused",
    "multiecho-gaps": "refused",
    "transfer-syntaxes": "refused",
    "icometrix-mini/failing_slicecount_001": "refused",
    "icometrix-mini/failing_sliceorientation_001": "refused",
    "icometrix-mini/ge_anatomical_001": "refused",
    "icometrix-mini/generic_anatomical_001": "refused",
    "icometrix-mini/generic_anatomical_001_implicit": "refused",
    "icometrix-mini/generic_anatomical_002_non_isotropic": "refused",
    "icometrix-mini/generic_compressed_j2k_001": "refused",
    "icometrix-mini/generic_compressed_jpeg_001": "refused",
    "icometrix-mini/generic_compressed_jpegls_001": "refused",
    "icometrix-mini/generic_compressed_rle_001": "refused",
}


@pytest.mark.parametrize("folder", REAL)
def test_a_real_study_is_answered_and_its_results_pass_the_gate(
    real_data: Path, folder: str, tmp_path: Path
) -> None:
    sent = [pydicom.dcmread(path) for path in sorted((real_data / folder).rglob("*")) if is_dicom(path)]
    files = write_as_sent(sent, tmp_path / "files")
    pipeline = {"bias_correction": False, "lesion_model": "stroke-lesion-2mm"}
    with whole_node(tmp_path, objects=("seg", "sr", "pictures", "pdf", "ko"), pipeline=pipeline) as node:
        assert set(node.push(files)) == {0x0000}
        node.work()
        studies = {str(dataset.StudyInstanceUID) for dataset in sent}
        rows = {row[0]: row for row in status_rows(node.ledger)}
        for study in studies:
            assert rows[study][3] == "done", rows[study]
            assert (rows[study][4] == "refused") == (REAL[folder] == "refused"), rows[study]
            assert rows[study][4] != "failed"
            assert "result-verification-failed" not in explained(node, study)
            check_objects(node, study, sent)


def write_as_sent(sent: list[Dataset], folder: Path) -> list[Path]:
    """Write files whose meta information names the dataset, as a C-STORE must: some publishers changed only the dataset."""
    folder.mkdir()
    paths = []
    for number, dataset in enumerate(sent):
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        paths.append(folder / f"{number:04d}.dcm")
        pydicom.dcmwrite(paths[-1], dataset, enforce_file_format=True)
    return paths


def is_dicom(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[128:132] == b"DICM"
