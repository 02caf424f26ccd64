"""The measurements of a report: every one that the pipeline made is there, under its code, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydicom.dataset import Dataset

from dicomnode.errors import ResultRejected
from dicomnode.results.verify.content import code_of, concept, number_of, walk_content
from dicomnode.results.verify.expected_codes import NUMBERS, ExpectedNumber
from dicomnode.results.verify.mask import lesions_of_segments
from pipeline.records import ROLES, Lesion, PipelineResult

_REFERENCED_SEGMENT = "121191"
_INTENSITIES = ("mean_intensity_", "mirrored_intensity_")
# Values are written with six significant digits.
_RELATIVE_TOLERANCE = 1e-5
_CERTAINTY_TOLERANCE = 0.01  # percent


def check_numbers(
    totals: Dataset, groups: Sequence[Dataset], segment_count: int | None, result: PipelineResult
) -> None:
    """Hold each measurement group against the pipeline's measurements.

    Parameters
    ----------
    totals
        The group of all lesions.
    groups
        Those of the lesions, two for each segment.
    segment_count
        How many segments there are; None when there is no lesion.
    """
    total_values = [(item.name, item.value) for item in result.measurements]
    if segment_count is None:
        _compare("all lesions", totals, total_values)
        return
    longest_mm = max(lesion.long_axis.length_mm for lesion in result.lesions)
    _compare("all lesions", totals, [*total_values, ("greatest_long_axis", longest_mm)])
    by_segment = lesions_of_segments(segment_count, result)
    for segment_group, line_group in zip(groups[::2], groups[1::2], strict=True):
        number = _segment_number(segment_group)
        lesions = by_segment[number]
        _compare(f"segment {number}", segment_group, _expected_of_segment(lesions, result))
        _compare(
            f"the line of segment {number}",
            line_group,
            [("long_axis", max(lesion.long_axis.length_mm for lesion in lesions))],
        )


def _expected_of_segment(lesions: Sequence[Lesion], result: PipelineResult) -> list[tuple[str, float]]:
    """Return (name, value) of all measurements of a segment.

    A segment of several lesions has their volume alone.
    """
    if len(lesions) > 1:
        return [
            (
                "volume",
                sum(
                    item.value for lesion in lesions for item in lesion.measurements if item.name == "volume"
                ),
            )
        ]
    (lesion,) = lesions
    expected = [
        (item.name, item.value)
        for item in lesion.measurements
        if item.name != "long_axis" and not item.name.startswith(_INTENSITIES)
    ]
    expected += _expected_signals(lesion)
    if lesion.mean_agreement is not None:
        expected.append(("agreement", 100 * lesion.mean_agreement))
    _check_certainty(lesion, result)
    changes = result.follow_up.changes if result.follow_up else ()
    expected += [
        ("earlier_volume", change.earlier_ml)
        for change in changes
        if change.label == lesion.label and change.earlier_labels
    ]
    return expected


def _check_certainty(lesion: Lesion, result: PipelineResult) -> None:
    """Refuse a certainty that is not the network's own, or not moved as the plan's calibration says."""
    calibration, values = result.plan.calibration, {item.name: item.value for item in lesion.measurements}
    name, chance = "certainty", lesion.mean_probability
    if calibration is not None:
        name, probability = "calibrated_certainty", np.clip(chance, 1e-4, 1 - 1e-4)
        odds = (probability / (1 - probability)) ** calibration.slope * np.exp(calibration.intercept)
        odds *= values["volume"] ** calibration.volume_slope
        chance = odds / (1 + odds)
    if abs(values.get(name, np.nan) - 100 * chance) < _CERTAINTY_TOLERANCE:
        return
    raise ResultRejected(f"lesion {lesion.label}: its certainty is not the {name} that the plan asks for")


def _expected_signals(lesion: Lesion) -> list[tuple[str, float]]:
    """Return how many times the mirrored site's intensity the lesion's is, for each image that has both."""
    values = {item.name: item.value for item in lesion.measurements}
    return [
        (f"relative_signal_{role}", values[f"mean_intensity_{role}"] / values[f"mirrored_intensity_{role}"])
        for role in ROLES
        if f"mean_intensity_{role}" in values and values.get(f"mirrored_intensity_{role}", 0) > 0
    ]


def _segment_number(group: Dataset) -> int:
    references = [item for item in walk_content(group) if concept(item) == _REFERENCED_SEGMENT]
    if len(references) != 1:
        raise ResultRejected("a lesion's measurements point to no segment")
    return int(references[0].ReferencedSOPSequence[0].ReferencedSegmentNumber)


def _compare(group_name: str, group: Dataset, expected: Iterable[tuple[str, float]]) -> None:
    """Refuse a group that lacks a measurement, or has one too many.

    Each must stand under its own code, unit and value.
    """
    stated = [
        (_coding(item), number_of(item))
        for item in group.get("ContentSequence", [])
        if item.ValueType == "NUM"
    ]
    for name, value in expected:
        if name not in NUMBERS:
            raise ResultRejected(
                f"the gate knows no code for the measurement {name}; add a row to "
                "results/verify/expected_codes.py"
            )
        match = next(
            (item for item in stated if item[0] == NUMBERS[name] and _is_close(item[1], value)), None
        )
        if match is None:
            raise ResultRejected(
                f"{group_name}: the report does not state the measurement {name} with its value and code"
            )
        stated.remove(match)
    if stated:
        raise ResultRejected(
            f"{group_name}: the report states measurements that the pipeline did not make ({len(stated)})"
        )


def _coding(item: Dataset) -> ExpectedNumber:
    measured = item.MeasuredValueSequence[0]
    modifiers = frozenset(
        str(below.ConceptCodeSequence[0].CodeValue)
        for below in walk_content(item)
        if below.ValueType == "CODE"
    )
    return ExpectedNumber(
        code_of(item.ConceptNameCodeSequence[0]), code_of(measured.MeasurementUnitsCodeSequence[0]), modifiers
    )


def _is_close(stated: float, value: float) -> bool:
    return abs(stated - value) <= _RELATIVE_TOLERANCE * max(abs(value), 1e-6)
