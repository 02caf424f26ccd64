"""Series and studies as headers only, without files: what study assembly, selection and checks work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dicomnode.records import IndexedInstance, InstanceHeader, Role, Series, Study

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"

_WEIGHTING: dict[Role, dict[str, Any]] = {
    "t1": {
        "EchoTime": 3.0,
        "RepetitionTime": 2300.0,
        "InversionTime": 900.0,
        "FlipAngle": 9.0,
        "ScanningSequence": ("GR", "IR"),
        "SequenceVariant": ("SK", "SP", "MP"),
        "MRAcquisitionType": "3D",
        "SeriesNumber": 2,
    },
    "flair": {
        "EchoTime": 120.0,
        "RepetitionTime": 9000.0,
        "InversionTime": 2500.0,
        "FlipAngle": 150.0,
        "ScanningSequence": ("SE", "IR"),
        "SequenceVariant": ("SK", "SP"),
        "MRAcquisitionType": "2D",
        "SeriesNumber": 3,
    },
}

PLANES: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
}
_STEPS = {"axial": (0, 0, 1), "sagittal": (-1, 0, 0), "coronal": (0, 1, 0)}


def make_header(uid: str, role: Role = "flair", **changes: Any) -> InstanceHeader:
    """Return a header of a well-formed axial instance with the given changes; `uid` ends its SOP Instance UID."""
    values: dict[str, Any] = {
        "SOPInstanceUID": f"1.2.{uid}",
        "SOPClassUID": MR,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": f"1.2.3.{_WEIGHTING[role]['SeriesNumber']}",
        "Modality": "MR",
        "FrameOfReferenceUID": "1.2.9",
        "Rows": 128,
        "Columns": 128,
        "PixelSpacing": (1.0, 1.0),
        "orientations": (PLANES["axial"],),
        "positions": ((0.0, 0.0, 0.0),),
        "ImageType": ("ORIGINAL", "PRIMARY", "M", "ND"),
        "PhotometricInterpretation": "MONOCHROME2",
        "BodyPartExamined": "BRAIN",
        "AcquisitionNumber": 1,
        **_WEIGHTING[role],
    }
    return InstanceHeader(**{**values, **changes})


def make_series(
    role: Role = "flair",
    *,
    count: int = 30,
    spacing_mm: float = 5.0,
    plane: str = "axial",
    announced: int | None = -1,
    each: Callable[[int, InstanceHeader], InstanceHeader] | None = None,
    **changes: Any,
) -> Series:
    """Return a series of `count` slices; `announced` is Images in Acquisition (-1: as many as there are); `each` edits one slice."""
    instances = []
    for index in range(count):
        position = tuple(float(step * index * spacing_mm) for step in _STEPS[plane])
        told = count if announced == -1 else announced
        values = {
            "positions": (position,),
            "orientations": (PLANES[plane],),
            "ImagesInAcquisition": told,
            "InstanceNumber": index + 1,
        }
        header = make_header(
            f"{changes.get('SeriesInstanceUID', role)[-6:].encode().hex()[:8]}.{index}",
            role,
            **{**values, **changes},
        )
        instances.append(indexed(each(index, header) if each else header))
    return Series(instances[0].header.SeriesInstanceUID, tuple(instances))


def indexed(header: InstanceHeader) -> IndexedInstance:
    """Return an instance with this header and no file."""
    return IndexedInstance(f"{header.SOPInstanceUID}.dcm", 0.0, header)


def make_study(*series: Series) -> Study:
    """Return a study of these series."""
    return Study("1.2.3", tuple(series))


def without(series: Series, indices: Sequence[int]) -> Series:
    """Return the series without some of its instances."""
    return replace(
        series, instances=tuple(item for index, item in enumerate(series.instances) if index not in indices)
    )
