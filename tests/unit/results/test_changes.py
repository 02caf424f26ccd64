"""The changes since an earlier study as codes: read back from the bytes of the report, below the lesions that they are of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.build import build_answer, encode
from dicomnode.results.records import EncodedResult
from dicomnode.results.verify.content import concept, walk_content
from dicomnode.results.verify.gate import read_back, verify_answer
from dicomnode.results.words import codes
from tests.factories.results import CHANGES, Answered, answered_study, followed, make_plan, make_result

GONE_UID = "2.25.777"


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    study = answered_study(tmp_path_factory.mktemp("study"), roles=("flair",))
    agreed = tuple(
        replace(lesion, mean_agreement=0.625 if lesion.label == 1 else None)
        for lesion in study.result.lesions
    )
    return followed(replace(study, result=replace(study.result, lesions=agreed)))


def build(answered: Answered) -> tuple[EncodedResult, ...]:
    results = build_answer(answered.context, answered.volume, answered.result, ())
    verify_answer(results, answered.context, answered.volume, answered.result)
    return results


def report_of(results: tuple[EncodedResult, ...]) -> Dataset:
    return read_back(next(item for item in results if item.kind == "sr"))


def tracking_of(item: Dataset) -> str:
    return next(
        (str(child.UID) for child in item.get("ContentSequence", []) if concept(child) == "112040"), ""
    )


def told(report: Dataset) -> list[tuple[str, str, str, str, list[float]]]:
    """Return (group's tracking identifier, scheme and code of the change, tracking UID below it, earlier volumes below group or change)."""
    found = []
    for group in walk_content(report):
        if concept(group) != "125007":
            continue
        name = next(str(item.TextValue) for item in group.ContentSequence if concept(item) == "112039")
        for item in group.ContentSequence:
            if concept(item) == "change":
                code = item.ConceptCodeSequence[0]
                where = item if "ContentSequence" in item else group
                volumes = [
                    float(each.MeasuredValueSequence[0].NumericValue)
                    for each in where.ContentSequence
                    if concept(each) == "earlier-volume"
                ]
                found.append(
                    (name, str(code.CodingSchemeDesignator), str(code.CodeValue), tracking_of(item), volumes)
                )
    return found


def test_each_change_is_coded_below_its_lesion_and_what_is_gone_below_all_lesions(answered: Answered) -> None:
    report = report_of(build(answered))

    assert told(report) == [
        ("Lesion 1", "SCT", "15454001", "", [4.5]),
        ("Lesion 2", "99DICOMNODE", "new", "", []),
        ("All lesions", "99DICOMNODE", "gone", GONE_UID, [6.25]),
        ("All lesions", "99DICOMNODE", "not-imaged", "", [0.75]),
    ]
    (scheme,) = report.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == codes.OWN_SCHEME
    # OHIF crashes on a group without coordinates: every tracking UID of a group has some. The totals stand apart.
    (measurements,) = (item for item in report.ContentSequence if concept(item) == "126010")
    groups = [item for item in walk_content(measurements) if concept(item) == "125007"]
    drawn = {
        tracking_of(group)
        for group in groups
        if any(item.ValueType == "SCOORD" for item in walk_content(group))
    }
    assert {tracking_of(group) for group in groups} == drawn


def test_the_agreement_is_a_number_of_the_lesion_that_has_one(answered: Answered) -> None:
    report = report_of(build(answered))

    stated = [
        (
            float(item.MeasuredValueSequence[0].NumericValue),
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for item in walk_content(report)
        if concept(item) == "agreement"
    ]
    assert stated == [(62.5, "%")]


def test_the_peak_that_was_asked_for_is_told(answered: Answered) -> None:
    report = report_of(build(replace(answered, result=replace(answered.result, plan=make_plan(peak=0.9)))))

    words = [str(item.TextValue) for item in walk_content(report) if item.ValueType == "TEXT"]
    assert any("Each lesion reaches a probability of 0.9 somewhere." in text for text in words)
    assert "peak 0.9" in words
    assert "reaches a probability" not in " ".join(
        str(item.TextValue) for item in walk_content(report_of(build(answered))) if item.ValueType == "TEXT"
    )


def test_a_report_without_a_lesion_tells_what_is_gone(answered: Answered) -> None:
    nothing = make_result(np.zeros_like(answered.result.labels.array), answered.volume)
    negative = followed(replace(answered, result=nothing), CHANGES[2:])

    assert [(name, code, uid) for name, _, code, uid, _ in told(report_of(build(negative)))] == [
        ("All lesions", "gone", GONE_UID),
        ("All lesions", "not-imaged", ""),
    ]


def test_lesions_that_share_a_segment_are_told_in_words_only(answered: Answered) -> None:
    settings = answered.context.settings.model_copy(update={"maximum_segments": 1})
    shared = replace(answered, context=replace(answered.context, settings=settings))

    report = report_of(build(shared))

    assert [code for _, _, code, _, _ in told(report)] == ["gone", "not-imaged"]
    words = " ".join(str(item.TextValue) for item in walk_content(report) if item.ValueType == "TEXT")
    assert "New since 2026-01-05: lesion 2. Larger: lesion 1." in words


@pytest.mark.parametrize("fault", ["another change", "another lesion's", "forgotten"])
def test_a_change_that_is_told_wrongly_is_caught(answered: Answered, fault: str) -> None:
    results = build(answered)
    report = report_of(results)
    groups = [item for item in walk_content(report) if concept(item) == "125007"]
    holder = next(
        group
        for group in groups
        if any(concept(item) == "change" for item in group.ContentSequence)
        and tracking_of(group) == "2.25.71"
    )
    item = next(item for item in holder.ContentSequence if concept(item) == "change")
    if fault == "another change":
        item.ConceptCodeSequence[0].CodeValue = codes.DECREASE_IN_SIZE.value
    else:
        holder.ContentSequence.remove(item)
        if fault == "another lesion's":
            groups[2].ContentSequence.append(item)
    faulty = tuple(encode("sr", report) if each.kind == "sr" else each for each in results)

    with pytest.raises(ResultRejected, match="changes differ"):
        verify_answer(faulty, answered.context, answered.volume, answered.result)
