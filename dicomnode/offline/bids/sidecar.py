"""What a raw image's sidecar and the list of participants say.

Physics and age, nothing that names a person or a day.

Only what is listed here is copied (BIDS 1.10, "Magnetic Resonance Imaging"); free text such as descriptions,
institutions, operators, serial numbers, UIDs and dates is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

from dicomnode import __version__
from dicomnode.offline.bids.identity import StudyIdentity
from dicomnode.records import InstanceHeader
from dicomnode.study.elements import read_number, read_text

OLDEST = 89
"""From this age on the age is written as "89+".

The very old can be recognised by it (US 45 CFR 164.514(b)(2)(i)(C)).
"""

PARTICIPANT_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "participant_id": {"Description": "Subject"},
    "sex": {"Description": "Sex as registered", "Levels": {"M": "male", "F": "female", "O": "other"}},
    "age": {
        "Description": f"Age at the first session; {OLDEST}+ stands for {OLDEST} or more",
        "Units": "year",
    },
}


def describe_image(header: InstanceHeader, dataset: Dataset) -> dict[str, Any]:
    """Return the sidecar of one image; what the header does not say is absent.

    Parameters
    ----------
    header
        As the node reads any instance: the same for classic and enhanced ones.
    dataset
        The instance's header, for what the node itself does not need.
    """
    facts: dict[str, Any] = {
        "Modality": "MR",
        "Manufacturer": read_text(dataset, "Manufacturer"),
        "ManufacturersModelName": read_text(dataset, "ManufacturerModelName"),
        "MagneticFieldStrength": header.MagneticFieldStrength,
        "MRAcquisitionType": header.MRAcquisitionType
        if header.MRAcquisitionType in ("1D", "2D", "3D")
        else "",
        "ScanningSequence": list(header.ScanningSequence),
        "SequenceVariant": list(header.SequenceVariant),
        "ScanOptions": list(header.extra.get("ScanOptions", ())),
        "SequenceName": header.SequenceName,
        "RepetitionTime": _seconds(header.RepetitionTime),
        "EchoTime": _seconds(header.EchoTime),
        "InversionTime": _seconds(header.InversionTime),
        "FlipAngle": header.FlipAngle,
        "SliceThickness": header.SliceThickness,
        "SpacingBetweenSlices": header.SpacingBetweenSlices,
        "PixelBandwidth": read_number(dataset, "PixelBandwidth"),
        "ConversionSoftware": "dicomnode",
        "ConversionSoftwareVersion": __version__,
    }
    return {key: value for key, value in facts.items() if value not in (None, "", [])}


def identify_study(StudyInstanceUID: str, dataset: Dataset) -> StudyIdentity:
    """Return what goes into the linking file."""
    patient_id, issuer = read_text(dataset, "PatientID"), read_text(dataset, "IssuerOfPatientID")
    patient = f"{issuer}/{patient_id}" if patient_id else f"study/{StudyInstanceUID}"
    return StudyIdentity(
        StudyInstanceUID, patient, read_text(dataset, "StudyDate"), read_text(dataset, "StudyTime")
    )


def describe_participant(subject: str, dataset: Dataset) -> dict[str, str]:
    """Return a row of `participants.tsv`."""
    sex = read_text(dataset, "PatientSex").upper()
    age = _age_years(dataset)
    return {
        "participant_id": f"sub-{subject}",
        "sex": sex if sex in ("M", "F", "O") else "n/a",
        "age": "n/a" if age is None else f"{OLDEST}+" if age >= OLDEST else str(age),
    }


def acquisition_time(study: StudyIdentity) -> str:
    """Return the study's date and time as BIDS writes them, "n/a" when the header has none."""
    date, time = study.StudyDate, study.StudyTime.ljust(6, "0")
    if len(date) != 8 or not (date + time[:6]).isdigit():
        return "n/a"
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:6]}"


def _age_years(dataset: Dataset) -> int | None:
    """Return the age in whole years from Patient's Age, else from the dates of birth and study.

    The form of Patient's Age is that of PS3.5 6.2 (AS).
    """
    text = read_text(dataset, "PatientAge")
    if len(text) == 4 and text[:3].isdigit() and text[3] in "DWMY":
        return int(text[:3]) if text[3] == "Y" else int(text[:3]) // {"D": 365, "W": 52, "M": 12}[text[3]]
    born, study_date = read_text(dataset, "PatientBirthDate"), read_text(dataset, "StudyDate")
    if len(born) == len(study_date) == 8 and (born + study_date).isdigit() and born <= study_date:
        return int(study_date[:4]) - int(born[:4]) - (study_date[4:] < born[4:])
    return None


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 6)
