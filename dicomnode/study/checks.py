"""Graded findings on one series.

They say whether it may become a volume, and what the reader of the result should know.

| code | grade | when |
|---|---|---|
| mosaic-not-supported | refuse | Siemens mosaic: many slices tiled into one frame |
| frame-of-reference-missing | refuse | no Frame of Reference UID: a result could not be placed |
| geometry-missing, geometry-invalid, pixel-matrix-missing | refuse | position, spacing or matrix unusable |
| several-frames-of-reference, mixed-matrix, mixed-pixel-spacing | refuse | slices of different grids |
| several-echoes, several-volumes, several-orientations | refuse | more than one stack |
| duplicate-positions / repeated-acquisition | refuse / warning | a position twice: cannot / can be parted |
| too-few-slices, coverage-too-small, slices-too-thick | refuse | not a whole head |
| missing-slices, uneven-spacing, sheared-stack | refuse | the slices are not one regular grid |
| photometric-not-supported | refuse | not MONOCHROME2 |
| slices-not-counted | info | no header says how many slices there should be: the stack was taken as whole |
| instances-missing | warning | fewer than the headers announce, though the positions have no gap |
| spacing-contradicts-header | warning | a multiple of the stated distance: each second slice may be missing |
| stray-images, slices-left-out | warning | images out of the stack or its even spacing were left out |
| stack-in-parts | warning | slices of the same kind lie in another series and could not be joined to these |
| joined-series | info | the stack was put together from several series |
| positions-rounded | info | positions not at equal distances, within what scanners round, were evened out |
| lossy-compression, orientation-jitter | warning, info | said, not refused |

A missing Frame of Reference UID is refused, not replaced: SEG and SR must carry the source's (PS3.3
C.8.20.2), and one that we made up would claim that the result may be overlaid on nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from dicomnode.records import Finding, InstanceHeader, Role, Series
from dicomnode.settings.config import SelectionSettings
from dicomnode.study.concatenations import concatenation_findings, list_concatenations
from dicomnode.study.lattice import Lattice, fit_lattice
from dicomnode.study.stacks import Stack, StackChoice, choose_stack
from pipeline.counts import counted

# The brain is longer than it is high, so a stack of coronal slices must reach further than one of axial
# slices.
_COVERAGE_FACTOR = {"axial": 1.0, "sagittal": 1.1, "coronal": 1.5}

EVENED_MM = 0.05
"""Deviations from equal distances that are larger are said."""

# What says "this is no volume of a head" rather than "this head volume is damaged".
NOT_A_VOLUME = frozenset(
    {
        "mosaic-not-supported",
        "geometry-missing",
        "pixel-matrix-missing",
        "several-orientations",
        "several-echoes",
        "several-volumes",
        "too-few-slices",
        "coverage-too-small",
        "slices-too-thick",
        "photometric-not-supported",
    }
)


def check_series(series: Series, role: Role, settings: SelectionSettings) -> tuple[Finding, ...]:
    """Return what is to be said about a series that may fill `role`; grade "refuse" means that it cannot."""
    return check_choice(series, role, settings, choose_stack(series))


def check_choice(
    series: Series, role: Role, settings: SelectionSettings, choice: StackChoice
) -> tuple[Finding, ...]:
    """As `check_series`, for a stack that was chosen before."""
    if is_mosaic(series):
        message = (
            "The series is a Siemens mosaic, which is not supported; send the slices as single "
            "instances or as Enhanced MR."
        )
        return (Finding("mosaic-not-supported", "refuse", message),)
    findings = [*_image_findings(series), *choice.findings]
    if choice.stack is not None:
        findings += [*_extent_findings(choice.stack, role, settings), *regularity_findings(choice.stack)]
        findings += [*count_findings(series, choice.stack), *uncounted_finding(series, choice.stack)]
        findings += _jitter_findings(choice.stack)
    return tuple(findings)


def is_mosaic(series: Series) -> bool:
    """Return whether the instances are Siemens mosaics (Image Type value 5 or later)."""
    return any("MOSAIC" in instance.header.ImageType for instance in series.instances)


def is_refused(findings: tuple[Finding, ...]) -> bool:
    """Return whether one of the findings forbids the use of the series."""
    return any(finding.grade == "refuse" for finding in findings)


def plane_of(stack: Stack) -> str:
    """Return "sagittal", "coronal" or "axial": the axis that the normal is nearest to."""
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(stack.normal)))]


def regularity_findings(stack: Stack) -> tuple[Finding, ...]:
    """Return what keeps the slices from being one gap-free, equidistant, perpendicular grid.

    The findings also say what was evened out.
    """
    if len(stack.slices) < 2:
        return ()
    gap = _gap_finding(stack)
    if gap is not None:
        return (gap,)
    lattice = fit_lattice(stack.positions, stack.normal)
    irregular = _irregular(stack, lattice)
    if irregular is not None:
        return (irregular,)
    if max(lattice.along_mm, lattice.aside_mm) > EVENED_MM:
        deviation_mm = max(lattice.along_mm, lattice.aside_mm)
        message = (
            f"Slice positions are rounded: they deviate by up to {deviation_mm:.2f} mm from equal "
            "distances and were evened out."
        )
        return (Finding("positions-rounded", "info", message, f"{deviation_mm:.3f}"),)
    return ()


def _gap_finding(stack: Stack) -> Finding | None:
    """Return the finding where a distance says that a slice is missing, or lies between two others."""
    distances = np.diff(stack.offsets_mm)
    spacing_mm = stack.spacing_mm
    if float(np.abs(distances - spacing_mm).max()) <= 0.5 * spacing_mm:
        return None
    # With many slices missing the median is no slice distance; the smallest one is then.
    for base_mm in (spacing_mm, float(distances.min())):
        multiples = distances / base_mm if base_mm > 0 else distances
        missing = int(np.rint(multiples).sum()) - len(distances)
        if (
            base_mm > 0
            and missing > 0
            and distances.min() > 0.5 * base_mm
            and np.abs(multiples - np.rint(multiples)).max() < 0.15
        ):
            subject = counted(missing, "slice is", "slices are")
            message = (
                f"{subject} missing inside the series (distance {distances.max():.2f} mm instead of "
                f"{base_mm:.2f} mm); send it again."
            )
            return Finding("missing-slices", "refuse", message, str(missing))
    return _uneven(
        f"The slices are not equidistant: {distances.min():.2f} to {distances.max():.2f} mm apart.", distances
    )


def _irregular(stack: Stack, lattice: Lattice) -> Finding | None:
    distances = np.diff(stack.offsets_mm)
    if lattice.along_mm > lattice.tolerance_mm:
        message = (
            f"The slices are not equidistant: {distances.min():.2f} to {distances.max():.2f} mm apart, "
            f"up to {lattice.along_mm:.2f} mm from equal distances; {lattice.tolerance_mm:.2f} mm is allowed."
        )
        return _uneven(message, distances)
    if lattice.is_sheared:
        angle = float(np.degrees(np.arccos(min(1.0, lattice.cosine))))
        message = (
            f"The slices are shifted against each other by {angle:.1f} degrees (gantry tilt), "
            "which is not supported."
        )
        return Finding("sheared-stack", "refuse", message, f"{angle:.2f}")
    if lattice.aside_mm > lattice.aside_tolerance_mm:
        message = f"The slices do not lie on one line: the largest deviation is {lattice.aside_mm:.2f} mm."
        return Finding("uneven-spacing", "refuse", message, f"{lattice.aside_mm:.3f}")
    return None


def _uneven(message: str, distances: np.ndarray) -> Finding:
    return Finding("uneven-spacing", "refuse", message, f"{distances.min():.3f}..{distances.max():.3f}")


def count_findings(series: Series, stack: Stack) -> tuple[Finding, ...]:
    """Return a warning when the headers announce more, or closer, slices than there are."""
    missing_parts = concatenation_findings(series)
    if missing_parts:
        return missing_parts
    announced_mm = series.instances[0].header.SpacingBetweenSlices
    ratio = stack.mean_spacing_mm / announced_mm if announced_mm and announced_mm > 0 else 1.0
    thickness_mm = series.instances[0].header.SliceThickness or 0.0
    # Some write the gap instead of the distance; that is not thicker than the slice.
    if announced_mm and announced_mm >= thickness_mm > 0 and ratio > 1.5 and abs(ratio - round(ratio)) < 0.02:
        message = (
            f"The slices are {stack.spacing_mm:.2f} mm apart, {round(ratio)} times their Spacing "
            "Between Slices; some may be missing."
        )
        return (Finding("spacing-contradicts-header", "warning", message, f"{stack.spacing_mm:.3f}"),)
    expected = announced_count(series, stack)
    if expected is None or expected <= len(stack.slices):
        return ()
    message = (
        f"The headers announce {counted(expected, 'slice')} and "
        f"{counted(len(stack.slices), 'is', 'are')} there; slices may be missing at the ends."
    )
    return (Finding("instances-missing", "warning", message, f"{len(stack.slices)} of {expected}"),)


def uncounted_finding(series: Series, stack: Stack) -> tuple[Finding, ...]:
    """Return the remark that nothing but their positions says that these slices are all."""
    if announced_count(series, stack) is not None:
        return ()
    count = len(stack.slices)
    message = (
        f"No header says how many slices there should be; {count} without a gap, which cover "
        f"{stack.coverage_mm:.0f} mm, were taken as all."
    )
    return (Finding("slices-not-counted", "info", message, str(count)),)


def announced_count(series: Series, stack: Stack) -> int | None:
    """Return how many slices the headers say the stack has; None when they say nothing.

    Counts that cover several stacks (a series of repeats) are divided evenly before they are compared.
    """
    members: dict[str, list[InstanceHeader]] = defaultdict(list)
    for instance in series.instances:
        members[instance.header.SeriesInstanceUID].append(instance.header)
    counts = [_announced_by(headers) for headers in members.values()]
    numbers = {number for count in counts for number in count}
    if not numbers:
        return None
    total = sum(max(1, instance.header.NumberOfFrames) for instance in series.instances) + stray_count(series)
    if total in numbers or len(stack.slices) in numbers:
        return len(stack.slices)
    if not any(_counts_series(headers[0]) for headers in members.values()) and max(numbers) < len(
        stack.slices
    ):
        # More images than positions (interpolated, or several stacks): the number says nothing of the images.
        return None
    if len(counts) == 1:
        return max(numbers)
    # A stack spread over several series: each may announce its own images, or the whole.
    own_count = sum(max(count, default=0) for count in counts)
    return (
        len(stack.slices)
        if own_count == total
        else max(numbers)
        if len(set(map(frozenset, counts))) == 1
        else own_count
    )


def stray_count(series: Series) -> int:
    """Return how many images were left out of a series because they do not belong to its stack.

    Headers and archives count them.
    """
    return sum(int(finding.value) for finding in series.findings if finding.code == "stray-images")


def _announced_by(headers: Sequence[InstanceHeader]) -> set[int]:
    first = headers[0]
    concatenations = list_concatenations(headers)
    if concatenations:
        is_whole = all(item.total and item.is_complete for item in concatenations)
        return {sum(max(1, header.NumberOfFrames) for header in headers)} if is_whole else set()
    if len(headers) == 1 and first.NumberOfFrames > 1:
        return {first.NumberOfFrames}
    locations = first.extra.get("LocationsAnnounced")
    return _counts_series(first) or ({int(locations)} if locations else set())


def _counts_series(header: InstanceHeader) -> set[int]:
    """Return the numbers of images that a header gives for its series; positions are no images."""
    numbers = (
        header.ImagesInAcquisition,
        header.extra.get("SlicesAnnounced"),
        header.NumberOfSeriesRelatedInstances,
    )
    return {int(number) for number in numbers if number}


def _image_findings(series: Series) -> list[Finding]:
    first = series.instances[0].header
    findings = []
    if not all(instance.header.FrameOfReferenceUID for instance in series.instances):
        message = (
            "The series has no Frame of Reference UID, so a result could not be placed in the "
            "patient; the scanner must send one."
        )
        findings.append(Finding("frame-of-reference-missing", "refuse", message))
    if first.PhotometricInterpretation not in {"MONOCHROME2", ""}:
        message = (
            f"Photometric Interpretation is {first.PhotometricInterpretation[:16]}; only "
            "MONOCHROME2 is supported."
        )
        findings.append(
            Finding("photometric-not-supported", "refuse", message, first.PhotometricInterpretation[:16])
        )
    if any(instance.header.LossyImageCompression == "01" for instance in series.instances):
        message = "The images were compressed with loss, which may change small lesions."
        findings.append(Finding("lossy-compression", "warning", message, "01"))
    return findings


def _extent_findings(stack: Stack, role: Role, settings: SelectionSettings) -> list[Finding]:
    count, plane = len(stack.slices), plane_of(stack)
    if count < settings.minimum_slices:
        message = (
            f"The {role.upper()} series has {counted(count, 'slice')}; "
            f"at least {counted(settings.minimum_slices, 'is', 'are')} needed."
        )
        return [Finding("too-few-slices", "refuse", message, str(count))]
    needed_mm = settings.minimum_coverage_mm * _COVERAGE_FACTOR[plane]
    findings = []
    if stack.coverage_mm < needed_mm:
        message = f"The {plane} slices cover {stack.coverage_mm:.0f} mm; a brain needs {needed_mm:.0f} mm."
        findings.append(Finding("coverage-too-small", "refuse", message, f"{stack.coverage_mm:.1f}"))
    if stack.spacing_mm > settings.maximum_slice_spacing_mm:
        limit = settings.maximum_slice_spacing_mm
        message = f"The slices are {stack.spacing_mm:.1f} mm apart; at most {limit:g} mm is supported."
        findings.append(Finding("slices-too-thick", "refuse", message, f"{stack.spacing_mm:.2f}"))
    return findings


def _jitter_findings(stack: Stack) -> list[Finding]:
    orientations = np.array([item.orientation for item in stack.slices])
    spread = float(np.ptp(orientations, axis=0).max())
    if spread <= 1e-7:
        return []
    message = f"Image Orientation (Patient) differs by up to {spread:.1e} between slices and was averaged."
    return [Finding("orientation-jitter", "info", message, f"{spread:.2e}")]
