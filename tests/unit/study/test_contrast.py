"""Contrast from physics: protocols as scanners really run them."""

from __future__ import annotations

from typing import Any

import pytest

from dicomnode.records import Role
from dicomnode.study.contrast import read_contrast
from tests.factories.headers import make_header

SE, GR, IR = ("SE",), ("GR",), ("IR",)
UNKNOWN: dict[str, Any] = {
    "ScanningSequence": (),
    "SequenceVariant": (),
    "SeriesDescription": "",
    "FlipAngle": None,
    "MRAcquisitionType": "3D",
}


def role_of(TE: float | None, TR: float | None, TI: float | None, **header: Any) -> Role | None:
    values = {**UNKNOWN, "EchoTime": TE, "RepetitionTime": TR, "InversionTime": TI, **header}
    return read_contrast(make_header("1", **values)).role


@pytest.mark.parametrize(
    ("timing", "header", "role"),
    [
        # T1: Siemens MPRAGE, GE BRAVO, Philips TFE without TI, FLASH 2D, spin echo, T1 SPACE, T1-FLAIR of GE
        ((2.4, 1800, 900), {"ScanningSequence": ("GR", "IR")}, "t1"),
        ((3.2, 8.9, 900), {"ScanningSequence": GR}, "t1"),
        ((3.7, 8.1, None), {"ScanningSequence": GR, "SequenceVariant": ("MP",), "FlipAngle": 8.0}, "t1"),
        ((2.5, 250, None), {"ScanningSequence": GR, "SequenceVariant": ("SP",), "FlipAngle": 70.0}, "t1"),
        (
            (3.0, 2300, None),
            {"ScanningSequence": GR, "SequenceVariant": ("SP", "MP"), "FlipAngle": 9.0},
            "t1",
        ),
        ((12, 550, None), {"ScanningSequence": SE}, "t1"),
        ((11, 700, None), {"ScanningSequence": SE, "MRAcquisitionType": "3D"}, "t1"),
        ((24, 2200, 860), {"ScanningSequence": ("SE", "IR")}, "t1"),
        # FLAIR: 2D at 1.5 T and 3 T, 3D SPACE, Philips says IR only, GE research mode, without TI but with IR
        ((120, 9000, 2500), {"ScanningSequence": ("SE", "IR")}, "flair"),
        ((100, 9000, 2500), {"ScanningSequence": IR}, "flair"),
        ((394, 6000, 2200), {"ScanningSequence": ("SE", "IR")}, "flair"),
        ((290, 4800, 1650), {"ScanningSequence": ("RM",)}, "flair"),
        ((125, 8800, None), {"ScanningSequence": ("SE", "IR")}, "flair"),
        # neither
        ((100, 5000, None), {"ScanningSequence": SE}, None),
        ((30, 4000, 150), {"ScanningSequence": ("SE", "IR")}, None),
        ((70, 5000, 160), {"ScanningSequence": ("SE", "IR")}, None),
        ((15, 3000, None), {"ScanningSequence": SE}, None),
        ((20, 28, None), {"ScanningSequence": GR, "FlipAngle": 15.0}, None),
        ((25, 650, None), {"ScanningSequence": GR, "FlipAngle": 20.0}, None),
        ((2.0, 4.5, None), {"ScanningSequence": GR, "SequenceVariant": ("SS",), "FlipAngle": 50.0}, None),
        ((3.0, 20, None), {"ScanningSequence": GR, "FlipAngle": 3.0}, None),
        ((3.0, 5000, 2700), {"ScanningSequence": ("GR", "IR")}, None),
        ((75, 6000, 2500), {"ScanningSequence": GR}, None),
    ],
)
def test_protocols(timing: tuple[float | None, ...], header: dict[str, Any], role: Role | None) -> None:
    assert role_of(*timing, **header) == role


@pytest.mark.parametrize(
    ("contrast", "timing", "role"),
    [
        ("T1", (2.4, 1800, 900), "t1"),
        ("FLUID_ATTENUATED", (120, 9000, 2500), "flair"),
        ("T2", (300, 4800, 1650), "flair"),
        ("T2", (100, 4000, None), None),
        ("DIFFUSION", (3, 2300, 900), None),
        ("UNKNOWN", (2.4, 1800, 900), "t1"),
    ],
)
def test_acquisition_contrast_of_enhanced_objects(
    contrast: str, timing: tuple[float | None, ...], role: Role | None
) -> None:
    assert role_of(*timing, AcquisitionContrast=contrast) == role


def test_the_pulse_of_enhanced_objects_tells_the_family() -> None:
    assert role_of(2.4, 8.0, None, extra={"EchoPulseSequence": "GRADIENT"}, FlipAngle=9.0) == "t1"
    assert role_of(12, 600, None, extra={"EchoPulseSequence": "SPIN"}) == "t1"


@pytest.mark.parametrize(
    ("description", "role"),
    [
        ("ax FLAIR", "flair"),
        ("t2_tirm_dark-fluid", "flair"),
        ("sag T1 MPRAGE", "t1"),
        ("T1 FLAIR", None),
        ("brain", None),
    ],
)
def test_the_description_speaks_only_when_physics_is_silent(description: str, role: Role | None) -> None:
    reading = read_contrast(
        make_header(
            "1", **{**UNKNOWN, "EchoTime": None, "RepetitionTime": None, "SeriesDescription": description}
        )
    )
    assert reading.role == role
    assert reading.evidence == ("none" if role is None else "description")


def test_the_description_does_not_overrule_physics() -> None:
    assert role_of(30, 4000, 150, ScanningSequence=("SE", "IR"), SeriesDescription="FLAIR") is None
    assert role_of(2.4, 1800, 900, ScanningSequence=("GR", "IR"), SeriesDescription="T2 FLAIR") == "t1"


def test_a_double_inversion_is_no_flair() -> None:
    assert role_of(300, 7500, 3000, ScanningSequence=("SE", "IR"), SeriesDescription="3D DIR") is None


def test_the_sequence_name_decides_when_timing_is_absent() -> None:
    assert (
        read_contrast(
            make_header("1", **{**UNKNOWN, "EchoTime": None, "SequenceName": "*tfl3d1_16ns"})
        ).evidence
        == "sequence name"
    )
    assert role_of(None, None, None, SequenceName="*spcir_242ns") == "flair"
