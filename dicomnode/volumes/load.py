"""A checked series becomes a `Volume`.

Dicom2nifti converts, highdicom must agree, the voxels are compared with the decoder's.

The grid is the source's: axis 0 is the slices along the normal (cross product of row and column direction),
ascending; axes 1 and 2 are Rows and Columns of the frames exactly as stored.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dicomnode.errors import StudyRefused
from dicomnode.records import Finding, Role, Series, SourceFrame, SourceSeries
from dicomnode.study.checks import is_mosaic, regularity_findings
from dicomnode.study.lattice import fit_lattice, place_on_lattice
from dicomnode.study.stacks import Stack, StackChoice, choose_stack
from dicomnode.volumes.multiframe import enhanced_copy, is_one_enhanced
from dicomnode.volumes.orientation import common_orientation
from dicomnode.volumes.pixels import DecodedSlice, Headers, classic_copies, decode_stack, fill_padding
from dicomnode.volumes.witnesses import compare_witnesses, convert_with_dicom2nifti, convert_with_highdicom
from pipeline.records import Array, Volume


def load_volume(
    series: Series,
    role: Role,
    spool_root: Path,
    work_dir: Path,
    choice: StackChoice | None = None,
    headers: Headers | None = None,
) -> tuple[Volume, SourceSeries, tuple[Finding, ...]]:
    """Convert a series.

    Parameters
    ----------
    spool_root
        What relative instance paths are relative to.
    work_dir
        Folder for the converter's own file.
    choice
        The stack of the series, where it was chosen before.
    headers
        Takes up the header of each file of the stack, as it was read for its pixels.

    Returns
    -------
    tuple
        Volume (float32, rescale applied, (slice, row, column), LPS mm), where each of its slices came from,
        and findings.

    Raises
    ------
    StudyRefused
        With the code of the check or conversion that failed.
    """
    stack = _usable_stack(series, choice)
    orientation = common_orientation(stack)
    normal = np.cross(orientation[:3], orientation[3:])
    decoded = fill_padding(decode_stack(stack, spool_root, headers))
    placed = _place(decoded, stack, normal)
    enhanced = is_one_enhanced(stack)
    copies = (
        [enhanced_copy(placed, orientation, spool_root)] if enhanced else classic_copies(placed, orientation)
    )
    array, affine = convert_with_dicom2nifti(copies, normal, work_dir / f"{role}.nii")
    compare_witnesses((array, affine), convert_with_highdicom(copies, normal, stack.tolerance_mm))
    _compare_with_source(array, affine, decoded, stack)
    findings = _voxel_findings(array)
    values = np.ascontiguousarray(array, dtype=np.float32)
    volume = Volume(values, affine, series.instances[0].header.FrameOfReferenceUID)
    return volume, _source(series, role, stack, spool_root), findings


def _usable_stack(series: Series, choice: StackChoice | None) -> Stack:
    if is_mosaic(series):
        raise StudyRefused(
            "The series is a Siemens mosaic, which is not supported.", code="mosaic-not-supported"
        )
    choice = choose_stack(series) if choice is None else choice
    findings = choice.findings if choice.stack is None else regularity_findings(choice.stack)
    for finding in findings:
        if finding.grade == "refuse":
            raise StudyRefused(finding.message, code=finding.code)
    if not series.instances[0].header.FrameOfReferenceUID:
        raise StudyRefused("The series has no Frame of Reference UID.", code="frame-of-reference-missing")
    if choice.stack is None or len(choice.stack.slices) < 2:
        raise StudyRefused("The series has no stack of slices.", code="too-few-slices")
    return choice.stack


def _place(
    decoded: tuple[DecodedSlice, ...], stack: Stack, normal: npt.NDArray[np.float64]
) -> tuple[DecodedSlice, ...]:
    """Return the slices at evenly spaced positions; those of the headers where they are even already."""
    positions = place_on_lattice(stack.positions, normal)
    return tuple(
        replace(item, source=replace(item.source, position=tuple(float(value) for value in position)))
        for item, position in zip(decoded, positions, strict=True)
    )


def _compare_with_source(
    array: Array, affine: npt.NDArray[np.float64], decoded: tuple[DecodedSlice, ...], stack: Stack
) -> None:
    """Refuse unless slice k of the volume holds the pixels, and lies at the position, of source slice k."""
    if array.shape != (len(decoded), *decoded[0].stored.shape):
        raise StudyRefused(
            f"The converted volume has shape {array.shape}, not that of the source.",
            code="geometry-disagreement",
        )
    expected_mm = np.array([item.source.position for item in decoded])
    converted_mm = affine[:3, 3] + np.outer(np.arange(len(decoded)), affine[:3, 0])
    apart_mm = float(np.linalg.norm(expected_mm - converted_mm, axis=1).max())
    # A slice that lies further from its place on the grid than rounding explains was put at another index.
    lattice = fit_lattice(stack.positions, stack.normal)
    if apart_mm > float(np.hypot(lattice.tolerance_mm, lattice.aside_tolerance_mm)):
        sentence = (
            f"Slices of the converted volume lie up to {apart_mm:.2f} mm from where their headers place them."
        )
        raise StudyRefused(sentence, code="geometry-disagreement")
    for index in sorted({0, len(decoded) // 3, len(decoded) // 2, len(decoded) - 1}):
        values = decoded[index].values().astype(np.float64)
        if not np.allclose(
            array[index], values, rtol=1e-5, atol=1e-5 * max(1.0, float(np.abs(values).max()))
        ):
            raise StudyRefused(
                f"Slice {index} of the converted volume does not hold its source's values.",
                code="voxel-disagreement",
            )


def _voxel_findings(array: Array) -> tuple[Finding, ...]:
    if not np.isfinite(array).all():
        raise StudyRefused("The volume has voxels that are not finite numbers.", code="voxels-not-finite")
    if array.min() == array.max():
        raise StudyRefused(
            "All voxels of the volume have one value; there is no image in it.", code="voxels-constant"
        )
    empty = int((array.reshape(len(array), -1).max(axis=1) == array.min()).sum())
    if empty > len(array) // 2:
        message = f"{empty} of {len(array)} slices are empty."
        return (Finding("empty-slices", "warning", message, str(empty)),)
    return ()


def _source(series: Series, role: Role, stack: Stack, spool_root: Path) -> SourceSeries:
    frames = tuple(
        SourceFrame(spool_root / item.instance.path, item.instance.header.SOPInstanceUID, item.frame_number)
        for item in stack.slices
    )
    return SourceSeries(role, series.SeriesInstanceUID, frames, series.instances[0].header.SeriesDescription)
