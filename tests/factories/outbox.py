"""A SEG and an SR that only travel: small files with the right SOP classes, frozen in a spool."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping

from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicomnode.records import ResultFile
from dicomnode.spool.layout import SpoolLayout
from tests.factories.instances import small_instance

CLASSES = {"seg": SegmentationStorage, "sr": Comprehensive3DSRStorage}


def freeze_results(
    layout: SpoolLayout, study: str, revision: int, classes: Mapping[str, str] = CLASSES
) -> list[ResultFile]:
    """Write one result of each kind, each in a series of its own, and return what the ledger lists of them."""
    return [
        _freeze(layout, study, revision, number, kind, classes[kind])
        for number, kind in enumerate(classes, start=1)
    ]


def _freeze(
    layout: SpoolLayout, study: str, revision: int, number: int, kind: str, SOPClassUID: str
) -> ResultFile:
    instance = small_instance(number, SOPClassUID=SOPClassUID, seed=f"result-{kind}")
    instance.StudyInstanceUID = study
    buffer = io.BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    path = layout.result_path(study, revision, f"{kind}.dcm")
    file = layout.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    return ResultFile(kind, path, sha256, instance.SOPInstanceUID, SOPClassUID, instance.SeriesInstanceUID)
