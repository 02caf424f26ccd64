from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.records import Finding, ResultFile
from dicomnode.results.build import build_answer, build_refusal
from dicomnode.results.provenance import plan_provenance
from dicomnode.results.records import EncodedResult
from dicomnode.results.segments import count_merged, plan_segments
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.results.verify.gate import read_back, verify_answer
from dicomnode.results.words import codes
from dicomnode.settings.config import ResultSettings
from dicomnode.states import Outcome
from tests.factories.dicom import Blob
from tests.factories.results import MODELS, Answered, answered_study, make_result


def answer(answered: Answered, findings: tuple[Finding, ...] = ()) -> dict[str, Dataset]:
    results = build_answer(answered.context, answered.volume, answered.result, findings)
    verify_answer(results, answered.context, answered.volume, answered.result)
    return {item.kind: read_back(item) for item in results}


def texts(report: Dataset) -> list[str]:
    return [item.TextValue for item in walk_content(report) if item.ValueType == "TEXT"]


def answers(report: Dataset, code: str) -> set[str]:
    items = (item for item in walk_content(report) if item.ValueType == "CODE" and concept(item) == code)
    return {item.ConceptCodeSequence[0].CodeValue for item in items}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    return answered_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def proven(answered: Answered) -> dict[str, Dataset]:
    """The objects without a remark, by kind; tests read them and change none."""
    return answer(answered)


@pytest.mark.parametrize(
    "study",
    [
        {},
        {"flair": {"multiframe": True}},
        {"roles": ("t1",)},
        {"roles": ("t1",), "t1": {"multiframe": True, "plane": "coronal"}},
        {
            "roles": ("flair",),
            "flair": {"tilt_deg": 14, "shape": (20, 40, 56), "spacing_mm": (7.5, 3.5, 4.25)},
        },
        {"roles": ("flair",), "flair": {"plane": "coronal", "shape": (40, 53, 63), "reverse": True}},
    ],
    ids=[
        "both",
        "enhanced flair",
        "sagittal t1",
        "enhanced t1",
        "oblique anisotropic",
        "odd columns, left-handed",
    ],
)
def test_a_result_on_any_grid_is_proven_from_its_bytes(tmp_path: Path, study: dict[str, Any]) -> None:
    answered = answered_study(tmp_path, **study)
    datasets = answer(answered)
    seg = datasets["seg"]

    assert (seg.Rows, seg.Columns) == answered.volume.array.shape[1:]
    assert len(seg.ReferencedSeriesSequence) == 1
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == answered.context.sources[0].SeriesInstanceUID
    occupied = sum(int((answered.result.labels.array == label).any(axis=(1, 2)).sum()) for label in (1, 2))
    assert seg.NumberOfFrames == occupied


def test_the_same_inputs_give_the_same_bytes(answered: Answered) -> None:
    first = build_answer(answered.context, answered.volume, answered.result, ())
    time.sleep(0.01)
    later = replace(answered.context, revision=4)
    second = build_answer(later, answered.volume, answered.result, ())

    assert [item.data for item in first] == [item.data for item in second]


@pytest.mark.parametrize("found", [True, False])
def test_other_bytes_never_come_under_the_same_uid(answered: Answered, found: bool) -> None:
    # Images that cannot be read leave the inputs as they are, but not the report.
    labels = answered.result.labels.array if found else np.zeros_like(answered.result.labels.array)
    result = make_result(labels, answered.volume)
    remark = Finding("instances-unreadable", "warning", "3 images of the study could not be read.")

    before = build_answer(answered.context, answered.volume, result, (remark,))
    after = build_answer(answered.context, answered.volume, result, ())

    for first, second in zip(before, after, strict=True):
        assert (first.data == second.data) == (first.SOPInstanceUID == second.SOPInstanceUID)
        # An archive keeps both beside each other in one series; viewers show the newest.
        assert first.SeriesInstanceUID == second.SeriesInstanceUID


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(answered: Answered, tmp_path: Path, repo_root: Path) -> None:
    # Another process: other hash seed, other random state, later on the clock.
    program = (
        "import hashlib, pathlib, sys\n"
        "from tests.factories.results import answered_study\n"
        "from dicomnode.results.build import build_answer\n"
        "a = answered_study(pathlib.Path(sys.argv[1]))\n"
        "print([hashlib.sha256(r.data).hexdigest() for r in build_answer(a.context, a.volume, a.result, ())])\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / seed)],
            cwd=repo_root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert runs[0] == runs[1]
    assert len(runs[0]) > 100


def test_every_segment_says_who_drew_it(proven: dict[str, Dataset]) -> None:
    seg = proven["seg"]
    segments = seg.SegmentSequence

    assert [item.SegmentLabel for item in segments] == ["1 Left, 6.3 ml", "2 Right, 2.2 ml"]
    assert [item.TrackingID for item in segments] == ["Lesion 1", "Lesion 2"]
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in segments}) == 2
    for item in segments:
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
        assert "synthetic data" in item.SegmentDescription
        assert item.AnatomicRegionSequence[0].CodeMeaning == "Brain"
    assert seg.ContentDescription == "Trained on synthetic data only. For research use"
    assert "not for primary diagnosis" in seg.SeriesDescription


def test_each_network_is_named_as_equipment_and_the_observer_agrees(proven: dict[str, Dataset]) -> None:
    for dataset in proven.values():
        ours = [item for item in dataset.ContributingEquipmentSequence if "DeviceUID" in item]

        assert [item.ManufacturerModelName for item in ours] == [model.name for model in MODELS]
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ours} == {"109102"}
    observer = {concept(item): item.get("UID") or item.get("TextValue") for item in walk_content(dataset)}
    assert observer["121012"] == ours[0].DeviceUID
    assert observer["121015"] == ours[0].ManufacturerModelName
    assert observer["121014"] == ours[0].Manufacturer


def test_the_dates_are_those_of_the_job(proven: dict[str, Dataset]) -> None:
    for dataset in proven.values():
        assert {dataset.ContentDate, dataset.SeriesDate, dataset.InstanceCreationDate} == {
            dataset.ContentDate
        }
        assert {dataset.ContentTime, dataset.SeriesTime, dataset.InstanceCreationTime} == {
            dataset.ContentTime
        }
        assert dataset.StudyDate == "20260105"


def test_more_lesions_than_segments_share_the_last_one_and_the_report_says_so(tmp_path: Path) -> None:
    lesions = tuple(
        Blob((x, y, 10), (7 - n, 7 - n, 9))
        for n, (x, y) in enumerate([(30, 20), (-30, 20), (30, -30), (-30, -30)])
    )
    answered = answered_study(
        tmp_path, roles=("flair",), lesions=lesions, settings=ResultSettings(maximum_segments=3)
    )
    assert len(answered.result.lesions) == 4
    datasets = answer(answered)

    assert [item.TrackingID for item in datasets["seg"].SegmentSequence] == [
        "Lesion 1",
        "Lesion 2",
        "Lesions 3 to 4",
    ]
    assert any(text.startswith("3 to 4. Smaller lesions, in one segment: ") for text in texts(datasets["sr"]))
    assert count_merged(answered.result, 3) == 2
    assert count_merged(answered.result, 4) == 0


def test_the_report_measures_each_lesion_and_the_whole(proven: dict[str, Dataset]) -> None:
    report = proven["sr"]
    groups = [item for item in walk_content(report) if concept(item) == "125007"]
    named = [[concept(item) for item in group.ContentSequence if item.ValueType == "NUM"] for group in groups]

    # Volume and line of each lesion, two groups with one tracking UID; the whole stands apart, without a line.
    assert named[0] == named[2] == ["118565006", "L0JK", "111012", "flair-ratio"]
    assert named[1] == named[3] == ["103339001"]
    assert named[4] == ["118565006", "246206008", "118565006", "118586006", "103339001"]
    assert not any(item.ValueType == "SCOORD" for item in walk_content(groups[4]))
    assert all(group.ContentTemplateSequence[0].TemplateIdentifier in {"1411", "1501"} for group in groups)
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert answers(report, "111017") == {"111242"}
    assert any("synthetic data" in text for text in texts(report))
    # The words come first, in the order of reading, and the image library last.
    assert texts(report)[0] == "Left-sided lesion of 6.3 ml, right-sided lesion of 2.2 ml."
    assert "All 2 lesions: 8.4 ml, 0.6 % of the brain (1400 ml)." in texts(report)
    assert concept(report.ContentSequence[-1]) == codes.IMAGE_LIBRARY.value


def test_remarks_on_the_input_are_in_the_report(answered: Answered) -> None:
    remark = Finding("thick-slices", "warning", "Slices are 6 mm apart – small lesions may be missed.")

    assert "Slices are 6 mm apart - small lesions may be missed." in texts(answer(answered, (remark,))["sr"])


def test_a_study_without_lesions_gets_a_report_that_says_so(answered: Answered) -> None:
    result = make_result(np.zeros_like(answered.result.labels.array), answered.volume)
    negative = replace(answered, result=result)

    datasets = answer(negative)
    report = datasets["sr"]

    assert set(datasets) == {"sr"}
    # OHIF crashes on title 126000 without coordinates; any other title is shown as text.
    assert report.ConceptNameCodeSequence[0].CodeValue == codes.DIAGNOSTIC_IMAGING_REPORT.value
    assert answers(report, "111017") == {"111241"}
    assert answers(report, "301766008") == {"272519000"}
    assert texts(report)[0] == "No stroke lesion found."


def test_absence_is_not_claimed_when_an_input_was_refused(answered: Answered) -> None:
    negative = replace(
        answered, result=make_result(np.zeros_like(answered.result.labels.array), answered.volume)
    )
    report = answer(negative, (Finding("gap", "refuse", "The T1 has a gap."),))["sr"]

    assert answers(report, "111017") == {"111243"}
    assert answers(report, "301766008") == {"373068000"}


@pytest.mark.parametrize("code", ["brain-not-covered", "no-flair"])
def test_absence_is_not_claimed_where_the_images_leave_doubt(answered: Answered, code: str) -> None:
    negative = replace(
        answered, result=make_result(np.zeros_like(answered.result.labels.array), answered.volume)
    )
    report = answer(negative, (Finding(code, "warning", "A negative result does not exclude a lesion."),))[
        "sr"
    ]

    assert answers(report, "111017") == {"111241"}
    assert answers(report, "301766008") == {"373068000"}


def test_findings_of_a_part_of_the_input_are_said_to_be_partial(answered: Answered) -> None:
    report = answer(answered, (Finding("gap", "refuse", "The T1 series was not used: a gap."),))["sr"]

    assert answers(report, "111017") == {"111244"}


def test_a_lesion_on_the_right_is_told_by_its_side(proven: dict[str, Dataset]) -> None:
    told = texts(proven["sr"])

    # The larger lesion lies left, posterior and high; the other right and anterior.
    assert any("Centres in mm: 1: L 30, P 20, H 21; 2: R 34, A 28, H 9." in text for text in told)
    assert [text.partition(":")[0] for text in told if text[:3] in ("1. ", "2. ")] == ["1. Left", "2. Right"]


@pytest.mark.parametrize(
    ("outcome", "opening"), [(Outcome.REFUSED, "was not analysed"), (Outcome.FAILED, "failed on this study")]
)
def test_a_refusal_says_why_and_never_that_nothing_is_there(
    answered: Answered, outcome: Outcome, opening: str
) -> None:
    context = replace(answered.context, sources=())
    sentence = "The FLAIR has a gap after slice 7; send the series again."

    (result,) = build_refusal(context, "slice-missing", sentence, (), outcome)
    (again,) = build_refusal(context, "slice-missing", sentence, (), outcome)
    (other,) = build_refusal(context, "too-few-slices", sentence, (), outcome)
    report = read_back(result)

    assert result.data == again.data
    assert result.SOPInstanceUID != other.SOPInstanceUID
    assert report.StudyInstanceUID == answered.context.StudyInstanceUID
    assert report.VerificationFlag == "UNVERIFIED"
    assert answers(report, "111017") == {"111245"}
    assert answers(report, "301766008") == {"373068000"}
    assert opening in " ".join(texts(report))
    assert sentence in texts(report)
    assert "Reason code: slice-missing" in texts(report)


def test_a_mask_of_another_shape_is_rejected(answered: Answered) -> None:
    source = answered.context.sources[0]
    short = replace(answered.context, sources=(replace(source, frames=source.frames[:-1]),))

    with pytest.raises(ResultRejected, match="does not fit"):
        build_answer(short, answered.volume, answered.result, ())


def test_what_highdicom_will_not_write_is_rejected(answered: Answered) -> None:
    first, *others = answered.result.lesions
    beyond = replace(first, long_axis=replace(first.long_axis, slice_index=99))

    with pytest.raises(ResultRejected, match="could not be encoded: IndexError"):
        build_answer(
            answered.context, answered.volume, replace(answered.result, lesions=(beyond, *others)), ()
        )


def test_neighbouring_segments_differ_in_colour(answered: Answered) -> None:
    plans = plan_segments(
        replace(answered.result, lesions=answered.result.lesions[:1] * 12),
        12,
        plan_provenance(answered.context, None),
    )

    assert len({plan.color for plan in plans}) == 12


@pytest.mark.parametrize("found", [True, False])
def test_what_limits_an_image_is_in_the_report_as_words_and_codes(answered: Answered, found: bool) -> None:
    labels = answered.result.labels.array if found else np.zeros_like(answered.result.labels.array)
    judged = replace(answered, result=make_result(labels, answered.volume))
    remark = Finding(
        "low-snr", "warning", "The FLAIR is noisy: small lesions may be missed.", "3.2, at least 5"
    )

    noisy, plain = (answer(judged, findings)["sr"] for findings in ((remark,), ()))

    assert "The FLAIR is noisy: small lesions may be missed." in texts(noisy)
    assert any("Values behind the remarks: low-snr 3.2, at least 5." in text for text in texts(noisy))
    assert answers(noisy, codes.IMAGE_QUALITY_RATING.value) == {codes.LIMITED_QUALITY.value}
    assert answers(plain, codes.IMAGE_QUALITY_RATING.value) == set()
    if not found:
        # In noise, finding nothing does not mean that nothing is there.
        assert answers(noisy, codes.LESION_OF_BRAIN.value) == {codes.UNDETERMINED.value}
        assert answers(plain, codes.LESION_OF_BRAIN.value) == {codes.ABSENT.value}


def test_certainty_is_coded_and_its_words_say_that_it_is_not_calibrated(answered: Answered) -> None:
    first, *others = answered.result.lesions
    sure = replace(first, mean_agreement=0.75)

    report = answer(replace(answered, result=replace(answered.result, lesions=(sure, *others))))["sr"]

    stated = [item for item in walk_content(report) if concept(item) == codes.CERTAINTY_OF_FINDING.value]
    assert [float(item.MeasuredValueSequence[0].NumericValue) for item in stated] == [90.0] * len(
        answered.result.lesions
    )
    words = " ".join(texts(report))
    assert "certainty 90 %" in words
    assert "it is not calibrated" in words
    assert "agreement of the network's passes 75 %" in words


def as_file(item: EncodedResult) -> ResultFile:
    return ResultFile(
        item.kind, item.filename, "", item.SOPInstanceUID, item.SOPClassUID, item.SeriesInstanceUID
    )


def test_a_report_names_the_one_that_it_replaces_and_the_same_input_gives_the_same_report(
    answered: Answered,
) -> None:
    def report(remark: str, *earlier: EncodedResult) -> EncodedResult:
        context = replace(answered.context, earlier_reports=tuple(as_file(item) for item in earlier))
        findings = (Finding("remark", "warning", remark),)
        results = build_answer(context, answered.volume, answered.result, findings)
        verify_answer(results, context, answered.volume, answered.result)
        return next(item for item in results if item.kind == "sr")

    first = report("first")
    second = report("second", first)
    third = report("third", second, first)

    (study,) = read_back(second).PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (
        answered.context.StudyInstanceUID,
        first.SeriesInstanceUID,
    )
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert len({first.SOPInstanceUID, second.SOPInstanceUID, third.SOPInstanceUID}) == 3
    # Once more, after later ones were sent.
    assert report("first", third, second, first).data == first.data
    assert report("second", third, second, first).data == second.data


def test_a_report_that_replaces_what_was_not_sent_does_not_leave(answered: Answered) -> None:
    first = build_answer(answered.context, answered.volume, answered.result, ())[-1]
    context = replace(answered.context, earlier_reports=(as_file(first),))
    results = build_answer(
        context, answered.volume, answered.result, (Finding("remark", "warning", "second"),)
    )

    verify_answer(results, context, answered.volume, answered.result)
    with pytest.raises(ResultRejected, match="was not sent before"):
        verify_answer(results, answered.context, answered.volume, answered.result)
