"""Bugs planted in the code that builds results: the gate, which shares nothing with it, catches each one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results import build, segments
from dicomnode.results.build import build_answer, encode
from dicomnode.results.companions import key_pictures, objects
from dicomnode.results.headers import geometry, identity, source
from dicomnode.results.records import EncodedResult
from dicomnode.results.report import document, lesions
from dicomnode.results.seg import segmentation
from dicomnode.results.verify.gate import read_back, verify_answer
from dicomnode.results.words import codes, measured, narrative, places
from dicomnode.results.words.measured import MEASURED
from dicomnode.settings.forms import ResultForm, ResultKind
from pipeline.records import Measurement, RegionShare
from tests.factories.results import Answered, answered_study, followed

EVERYTHING = ResultForm(objects=("seg", "sr", "probability", "pictures", "pdf", "ko"))
# Which objects a bug needs to be seen in; the others need segmentation and report.
OBJECTS: dict[str, tuple[ResultKind, ...]] = {
    "page": ("pdf",),
    "picture": ("pictures", "ko"),
    "probability": ("probability",),
}
Results = tuple[EncodedResult, ...]
Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    study = answered_study(
        tmp_path_factory.mktemp("study"),
        roles=("flair",),
        flair={"shape": (16, 48, 40), "spacing_mm": (12.0, 4.0, 5.0)},
    )
    first, *others = study.result.lesions
    frontal = replace(first, regions=(RegionShare("frontal", "left", 1.0),))
    study = replace(study, result=replace(study.result, lesions=(frontal, *others)))
    return replace(study, context=replace(study.context, forms=(EVERYTHING,)))


@pytest.fixture(scope="module")
def everything(answered: Answered) -> Results:
    return build_answer(answered.context, answered.volume, answered.result, ())


def verified(answered: Answered) -> None:
    results = build_answer(answered.context, answered.volume, answered.result, ())
    verify_answer(results, answered.context, answered.volume, answered.result)


def test_without_a_planted_bug_every_object_passes(answered: Answered) -> None:
    verified(answered)
    verified(followed(answered))


def wrap(module: Any, name: str, change: Callable[[Any], Any]) -> Plant:
    """Let a function of the builders return something else than it does."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        real = getattr(module, name)
        patch.setattr(module, name, lambda *args, **keywords: change(real(*args, **keywords)))

    return plant


def wrong_text(keyword: str, text: str) -> Plant:
    """Let the header writer give every object another value of an identifying element."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        real = identity._carried_texts
        patch.setattr(
            identity,
            "_carried_texts",
            lambda source, asked: (text,) if asked == keyword else real(source, asked),
        )

    return plant


def with_element(keyword: str, value: str) -> Callable[[Dataset], Dataset]:
    def change(header: Dataset) -> Dataset:
        setattr(header, keyword, value)
        return header

    return change


def without_tracking_uid(description: Dataset) -> Dataset:
    del description.TrackingUID
    return description


def to_another_instance(report: Dataset) -> Dataset:
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"
    return report


def under_another_series(report: Dataset) -> Dataset:
    report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[
        0
    ].SeriesInstanceUID = "1.2.3.4"
    return report


def swapped_sides(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(codes, "SIDES", {"left": codes.RIGHT, "right": codes.LEFT, "both": codes.BILATERAL})


def wrong_side_in_the_report(patch: pytest.MonkeyPatch) -> None:
    real = lesions._describe_segment

    def describe(plan: Any, *args: Any) -> Any:
        return real(
            replace(plan, lesions=tuple(replace(lesion, laterality="both") for lesion in plan.lesions)), *args
        )

    patch.setattr(lesions, "_describe_segment", describe)


def swapped_words(patch: pytest.MonkeyPatch) -> None:
    swapped = {"left": "right", "right": "left"}
    patch.setattr(places, "side_of", lambda lesion: swapped[lesion.laterality])


def scaled_volume(patch: pytest.MonkeyPatch) -> None:
    real = document.make_measurement

    def make(measurement: Measurement, *args: Any) -> Any:
        factor = 1.01 if measurement.name == "volume" else 1
        return real(replace(measurement, value=factor * measurement.value), *args)

    patch.setattr(lesions, "make_measurement", make)


def wrong_row(name: str, other: str) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(MEASURED, name, MEASURED[other])  # type: ignore[call-overload]

    return plant


def wrong_code(name: str, other: Any) -> Plant:
    return lambda patch: patch.setattr(codes, name, other)


def wrong_page_identity(keyword: str, value: str) -> Plant:
    return wrap(build, "copy_identity", with_element(keyword, value))


def moved(line: Any) -> Any:
    line.GraphicData = [value + 8 for value in line.GraphicData]
    return line


BUGS: dict[str, tuple[Plant, str]] = {
    "wrong PatientID": (wrong_text("PatientID", "SOMEBODY-ELSE"), "PatientID differs"),
    "wrong PatientName": (wrong_text("PatientName", "ELSE^SOMEBODY"), "PatientName differs"),
    "lost PatientName": (wrong_text("PatientName", ""), "PatientName differs"),
    "wrong birth date": (wrong_text("PatientBirthDate", "19010101"), "PatientBirthDate differs"),
    "wrong sex": (wrong_text("PatientSex", "F"), "PatientSex differs"),
    "wrong issuer": (wrong_text("IssuerOfPatientID", "ELSEWHERE"), "IssuerOfPatientID differs"),
    "wrong accession": (wrong_text("AccessionNumber", "X1"), "AccessionNumber differs"),
    "wrong study ID": (wrong_text("StudyID", "X1"), "StudyID differs"),
    "wrong study date": (wrong_text("StudyDate", "19010101"), "StudyDate differs"),
    "wrong study UID": (
        wrap(source, "_repair_image", with_element("StudyInstanceUID", "1.2.3")),
        "another study",
    ),
    "wrong frame of reference": (
        wrap(source, "_repair_image", with_element("FrameOfReferenceUID", "1.2.3")),
        "frame of reference",
    ),
    "wrong image class": (
        wrap(source, "_repair_image", with_element("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2")),
        "SOP class",
    ),
    "wrong source series": (
        wrap(source, "_repair_image", with_element("SeriesInstanceUID", "1.2.3")),
        "series",
    ),
    "shifted source": (
        wrap(
            geometry,
            "_decimals",
            lambda values: [*values[:-1], values[-1] + 1] if len(values) == 3 else values,
        ),
        "beside",
    ),
    "mask shifted by a column": (
        wrap(segmentation, "draw_segments", lambda mask: np.roll(mask, 1, axis=2)),
        "mask differs",
    ),
    "mask shifted by a slice": (
        wrap(segmentation, "draw_segments", lambda mask: np.roll(mask, 1, axis=0)),
        "mask differs",
    ),
    "mask mirrored": (wrap(segmentation, "draw_segments", lambda mask: mask[:, :, ::-1]), "mask differs"),
    "mask grown by a voxel": (
        wrap(segmentation, "draw_segments", lambda mask: np.maximum(mask, np.roll(mask, 1, axis=1))),
        "mask differs",
    ),
    "probability halved": (
        wrap(
            segmentation, "order_as_source", lambda values: values / 2 if values.dtype.kind == "f" else values
        ),
        "probab",
    ),
    "dropped tracking UID": (wrap(segmentation, "_describe_segment", without_tracking_uid), "tracking UID"),
    "one tracking UID for all": (
        wrap(segments, "_plan", lambda plan: replace(plan, tracking_uid="2.25.1")),
        "share a tracking UID",
    ),
    "wrong code of the segment": (wrong_code("LESION_OF_BRAIN", codes.BRAIN), "coded as something else"),
    "wrong anatomy": (wrong_code("BRAIN", codes.LEFT), "coded as something else"),
    "wrong verdict": (wrong_code("PRESENT", codes.ABSENT), "verdict"),
    "wrong summary": (
        wrong_code("ALL_SUCCEEDED_WITH_FINDINGS", codes.ALL_SUCCEEDED_WITHOUT_FINDINGS),
        "summary",
    ),
    "wrong title": (wrong_code("IMAGING_MEASUREMENT_REPORT", codes.DIAGNOSTIC_IMAGING_REPORT), "title"),
    "wrong code of a measurement": (wrong_row("certainty", "agreement"), "measurement certainty"),
    "mirrored side for the lesion's": (
        wrap(
            measured, "relative_signals", lambda ratios: {role: 1 / ratio for role, ratio in ratios.items()}
        ),
        "measurement relative_signal_flair",
    ),
    "signal of the other image": (
        wrong_row("relative_signal_flair", "relative_signal_t1"),
        "measurement relative_signal_flair",
    ),
    "wrong side in the words": (swapped_words, "names the left side"),
    "wrong side in the impression": (
        wrap(narrative, "describe_lesion", lambda words: words.replace("eft", "ight")),
        "the impression names the left side",
    ),
    "wrong volume in the words": (
        wrap(narrative, "measured_ml", lambda volume_ml: 1.1 * volume_ml),
        "words on lesion 1 state another volume",
    ),
    "wrong number in a segment's label": (
        wrap(segments, "label_segment", lambda label: f"9{label}"),
        "does not begin with its number",
    ),
    "wrong region": (
        lambda patch: patch.setitem(codes.REGIONS, "frontal", codes.REGIONS["occipital"]),  # type: ignore[call-overload]
        "regions of a lesion",
    ),
    "words in another order": (
        wrap(document, "write_texts", lambda texts: texts[::-1]),
        "does not begin with its impression",
    ),
    "wrong unit": (wrong_row("lesion_load", "lesion_count"), "measurement lesion_load"),
    "wrong volume": (scaled_volume, "the report says"),
    "dropped measurement": (
        wrap(lesions, "measure_segment", lambda made: made[:-1]),
        "does not state the measurement",
    ),
    "invented measurement": (
        wrap(lesions, "measure_segment", lambda made: (*made, Measurement("earlier_volume", 1, "ml", ""))),
        "not make",
    ),
    "wrong laterality": (swapped_sides, "laterality differs"),
    "wrong laterality in the report": (wrong_side_in_the_report, "laterality of a lesion differs"),
    "reference to another instance": (
        wrap(build, "build_lesion_report", to_another_instance),
        "not of this study",
    ),
    "reference under another series": (
        wrap(build, "build_lesion_report", under_another_series),
        "another series",
    ),
    "line on another slice": (wrap(lesions, "place_long_axis", moved), "line|lesion"),
    "wrong patient on the page": (
        wrong_page_identity("PatientID", "SOMEBODY-ELSE"),
        "page does not bear the PatientID",
    ),
    "wrong name on the page": (
        wrong_page_identity("PatientName", "ELSE^SOMEBODY"),
        "page does not bear the PatientName",
    ),
    "wrong birth date on the page": (
        wrong_page_identity("PatientBirthDate", "19010101"),
        "page does not bear the PatientBirthDate",
    ),
    "picture mirrored": (
        wrap(key_pictures, "draw_plane", lambda image: image.transpose(0)),
        "outlines of a picture",
    ),
    "pictures of another image": (
        wrap(objects, "_shown", lambda images: images[:1]),
        "pictures name other images",
    ),
}


@pytest.mark.parametrize("name", list(BUGS))
def test_a_bug_in_the_builders_is_caught(
    answered: Answered, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plant, reason = BUGS[name]
    plant(monkeypatch)
    extra = next((kinds for word, kinds in OBJECTS.items() if word in name), ())
    form = ResultForm(objects=("seg", "sr", *extra))

    with pytest.raises(ResultRejected, match=reason):
        verified(replace(answered, context=replace(answered.context, forms=(form,))))


@pytest.mark.parametrize("keyword", ["PatientID", "PatientBirthDate", "StudyInstanceUID"])
@pytest.mark.parametrize("kind", ["seg", "sr", "probability", "pictures", "pdf", "ko"])
def test_a_wrong_patient_or_study_is_caught_in_every_object(
    answered: Answered, everything: Results, keyword: str, kind: str
) -> None:
    results = []
    for item in everything:
        dataset = read_back(item)
        if item.kind == kind:
            setattr(dataset, keyword, "19010101")
        results.append(encode(kind, dataset) if item.kind == kind else item)

    with pytest.raises(
        ResultRejected, match="another study" if keyword == "StudyInstanceUID" else f"{keyword} differs"
    ):
        verify_answer(results, answered.context, answered.volume, answered.result)


def test_a_lost_tracking_uid_of_an_earlier_study_is_caught(
    answered: Answered, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrap(segments, "_plan", lambda plan: replace(plan, tracking_uid=f"2.25.9{plan.number}"))(monkeypatch)

    with pytest.raises(ResultRejected, match="lost its tracking UID"):
        verified(followed(answered))
