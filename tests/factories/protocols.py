"""Series as scanners of seven vendors write them: header only, read by the production reader, many slices from one header.

The values are typical of the vendors' own protocols. Nothing here imports the tables that selection works with.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

from pydicom.dataset import Dataset

from dicomnode.records import IndexedInstance, InstanceHeader, Series
from dicomnode.study.headers import _describe
from tests.factories.headers import MR, PLANES

Elements = dict[str, Any]

MAKERS = {
    "siemens": ("SIEMENS", 3.0),
    "ge": ("GE MEDICAL SYSTEMS", 3.0),
    "philips": ("Philips Medical Systems", 3.0),
    "canon": ("CANON_MEC", 1.5),
    "hitachi": ("HITACHI", 1.5),
    "uih": ("UIH", 3.0),
    "hyperfine": ("Hyperfine", 0.064),
}
_STEPS = {"axial": (0.0, 0.0, 1.0), "sagittal": (-1.0, 0.0, 0.0), "coronal": (0.0, 1.0, 0.0)}

T1_3D: dict[str, Elements] = {
    "siemens": {
        "family": ["GR", "IR"],
        "variant": ["SK", "SP", "MP"],
        "TR": 2300,
        "TE": 2.98,
        "TI": 900,
        "flip": 9,
        "name": "*tfl3d1_16ns",
    },
    "ge": {"family": ["GR"], "variant": ["SS", "SP", "SK"], "TR": 8.2, "TE": 3.2, "TI": 450, "flip": 12},
    "philips": {
        "family": ["GR"],
        "variant": ["MP"],
        "TR": 8.1,
        "TE": 3.7,
        "flip": 8,
        "type": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"],
    },
    "canon": {
        "family": ["GR", "IR"],
        "variant": ["SP", "MP"],
        "TR": 6.1,
        "TE": 2.6,
        "TI": 900,
        "flip": 9,
        "name": "FE3D",
    },
    "hitachi": {"family": ["GR"], "variant": ["SP"], "TR": 9.4, "TE": 4.0, "TI": 1000, "flip": 10},
    "uih": {
        "family": ["GR"],
        "variant": ["SP", "MP"],
        "TR": 7.2,
        "TE": 3.1,
        "TI": 750,
        "flip": 10,
        "name": "gre_fsp",
    },
    "hyperfine": {"family": ["SE", "IR"], "variant": ["SK"], "TR": 1500, "TE": 6.0, "TI": 300, "flip": 90},
}
FLAIR: dict[str, Elements] = {
    "siemens": {
        "family": ["SE", "IR"],
        "variant": ["SK", "SP"],
        "TR": 9000,
        "TE": 92,
        "TI": 2500,
        "flip": 150,
        "name": "*tir2d1_16",
    },
    "ge": {"family": ["SE", "IR"], "variant": ["SK"], "TR": 9000, "TE": 120, "TI": 2473, "flip": 160},
    "philips": {
        "family": ["IR"],
        "variant": ["SK"],
        "TR": 11000,
        "TE": 125,
        "TI": 2800,
        "flip": 90,
        "type": ["ORIGINAL", "PRIMARY", "M_IR", "M", "IR"],
    },
    "canon": {
        "family": ["SE", "IR"],
        "variant": ["SK"],
        "TR": 10000,
        "TE": 105,
        "TI": 2700,
        "flip": 90,
        "name": "FSE+IR",
    },
    "hitachi": {"family": ["SE", "IR"], "variant": ["SK"], "TR": 8000, "TE": 96, "TI": 2100, "flip": 90},
    "uih": {
        "family": ["SE", "IR"],
        "variant": ["SK"],
        "TR": 8500,
        "TE": 98,
        "TI": 2450,
        "flip": 150,
        "name": "fse_ir",
    },
    "hyperfine": {"family": ["SE", "IR"], "variant": ["SK"], "TR": 4000, "TE": 166, "TI": 1400, "flip": 90},
}
T1_SE: Elements = {"family": ["SE"], "variant": ["SK"], "TR": 520, "TE": 11, "flip": 90, "acquisition": "2D"}
T2: Elements = {"family": ["SE"], "variant": ["SK"], "TR": 4800, "TE": 102, "flip": 150, "acquisition": "2D"}
PD: Elements = {"family": ["SE"], "variant": ["SK"], "TR": 2800, "TE": 15, "flip": 90, "acquisition": "2D"}
DWI: Elements = {
    "family": ["EP", "SE"],
    "variant": ["SK"],
    "TR": 6000,
    "TE": 78,
    "flip": 90,
    "acquisition": "2D",
    "b": 1000,
}
SWI: Elements = {"family": ["GR"], "variant": ["SP"], "TR": 28, "TE": 20, "flip": 15, "acquisition": "3D"}
TOF: Elements = {"family": ["GR"], "variant": ["SP"], "TR": 22, "TE": 3.6, "flip": 18, "acquisition": "3D"}
T2_STAR: Elements = {
    "family": ["GR"],
    "variant": ["SP"],
    "TR": 650,
    "TE": 20,
    "flip": 20,
    "acquisition": "2D",
}
STIR: Elements = {
    "family": ["SE", "IR"],
    "variant": ["SK"],
    "TR": 5200,
    "TE": 55,
    "TI": 170,
    "flip": 150,
    "acquisition": "2D",
}
T1_FLAIR: Elements = {
    "family": ["SE", "IR"],
    "variant": ["SK"],
    "TR": 2000,
    "TE": 9.5,
    "TI": 860,
    "flip": 150,
    "acquisition": "2D",
}


def scan(
    number: int,
    description: str,
    elements: Elements,
    *,
    vendor: str = "siemens",
    protocol: str | None = None,
    time: str = "",
    plane: str = "axial",
    count: int = 30,
    spacing_mm: float = 5.0,
    pixel_mm: float = 0.9,
    frame: str = "1.2.9",
    **extra: Any,
) -> Series:
    """Return one series of `count` slices; `extra` are DICOM keywords that are set, or left out where None."""
    # Real scanners write values that pydicom warns of; the production reader is as tolerant.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = _header(
            number,
            description,
            elements,
            vendor,
            protocol,
            time,
            {
                "FrameOfReferenceUID": frame,
                "PixelSpacing": [pixel_mm, pixel_mm],
                "SliceThickness": spacing_mm,
                **extra,
            },
        )
    start = -count * spacing_mm / 2
    instances = [_slice(header, index, start + index * spacing_mm, plane) for index in range(count)]
    return Series(header.SeriesInstanceUID, tuple(instances))


def thin(number: int, description: str, elements: Elements, **options: Any) -> Series:
    """Return a thin sagittal 3D series of a whole head."""
    values = {"plane": "sagittal", "count": 170, "spacing_mm": 1.0, "pixel_mm": 1.0, **options}
    return scan(number, description, {"acquisition": "3D", **elements}, **values)


def _header(
    number: int,
    description: str,
    elements: Elements,
    vendor: str,
    protocol: str | None,
    time: str,
    values: dict[str, Any],
) -> InstanceHeader:
    dataset = _dataset(number, description, elements, vendor, protocol)
    minutes = 10 * 60 + number * 5
    dataset.AcquisitionTime = time or f"{minutes // 60:02d}{minutes % 60:02d}00"
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
    return _describe(dataset)


def _dataset(number: int, description: str, elements: Elements, vendor: str, protocol: str | None) -> Dataset:
    maker, field_strength = MAKERS[vendor]
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = MR, f"1.2.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", f"1.2.3.{number}"
    dataset.Modality, dataset.Manufacturer, dataset.MagneticFieldStrength = "MR", maker, field_strength
    dataset.Rows = dataset.Columns = 256
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.BodyPartExamined = (
        "MONOCHROME2",
        1,
        "BRAIN",
    )
    dataset.AcquisitionDate, dataset.SeriesNumber, dataset.AcquisitionNumber = "20260105", number, 1
    dataset.SeriesDescription, dataset.ProtocolName = (
        description,
        description if protocol is None else protocol,
    )
    dataset.ScanningSequence, dataset.SequenceVariant = elements["family"], elements["variant"]
    dataset.MRAcquisitionType = elements.get("acquisition", "2D")
    dataset.ImageType = elements.get(
        "type",
        ["ORIGINAL", "PRIMARY", "M", "ND"] if vendor == "siemens" else ["ORIGINAL", "PRIMARY", "OTHER"],
    )
    keywords = (
        ("TR", "RepetitionTime"),
        ("TE", "EchoTime"),
        ("TI", "InversionTime"),
        ("flip", "FlipAngle"),
        ("name", "SequenceName"),
    )
    for short, keyword in (*keywords, ("options", "ScanOptions"), ("b", "DiffusionBValue")):
        if elements.get(short) is not None:
            setattr(dataset, keyword, elements[short])
    return dataset


def _slice(header: InstanceHeader, index: int, offset_mm: float, plane: str) -> IndexedInstance:
    position = tuple(math.copysign(1, step) * abs(step) * offset_mm for step in _STEPS[plane])
    uid = f"{header.SOPInstanceUID}.{index}"
    placed = replace(
        header,
        SOPInstanceUID=uid,
        positions=(position,),
        orientations=(PLANES[plane],),
        InstanceNumber=index + 1,
    )
    return IndexedInstance(f"{uid}.dcm", 0.0, placed)
