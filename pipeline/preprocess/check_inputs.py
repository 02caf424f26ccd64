"""Whether the volumes can be used at all: roles, value range, spacing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import GeometryError, ImageError
from pipeline.geometry import LARGEST_SHEAR, Triple, shear, spacing_mm
from pipeline.records import Finding, Role, Volume

SPACING_LIMITS_MM = (0.3, 10.0)
# Headers hold 32-bit numbers: the spacing of a turned grid comes out a little beside the limit that it was
# written as.
_ROUNDING_MM = 1e-4
THICK_SLICE_MM = 4.0
MINIMUM_SLICES = 5
_ROLES = ("t1", "flair")


@dataclass(frozen=True)
class InputFacts:
    """What was seen of one input."""

    shape: tuple[int, ...]
    spacing_mm: Triple
    low: float
    high: float


def check_inputs(inputs: Mapping[Role, Volume]) -> dict[str, InputFacts]:
    """Return what was seen of each input; refuse what cannot be used.

    Raises
    ------
    ImageError, GeometryError
        No input, an unknown role, one value everywhere, or a grid that no head is imaged on.
    """
    if not inputs:
        raise ImageError("there is neither a T1 nor a FLAIR volume", code="no-usable-series")
    for role, volume in inputs.items():
        if role not in _ROLES:
            raise ImageError(f"{role!r} is not a role; known are {', '.join(_ROLES)}", code="role-unknown")
        _check_grid(role, volume)
    return {role: _facts(role, volume) for role, volume in inputs.items()}


def find_input_remarks(inputs: Mapping[Role, Volume], facts: Mapping[str, InputFacts]) -> list[Finding]:
    """Return what a reader of the result should know about its input."""
    remarks = []
    if "flair" not in inputs:
        remarks.append(
            Finding(
                "no-flair",
                "warning",
                (
                    "No FLAIR could be used: on T1 alone the network misses most lesions; a negative "
                    "result does not exclude one."
                ),
            )
        )
    if "t1" not in inputs:
        remarks.append(Finding("no-t1", "info", "No T1 could be used: the result rests on the FLAIR alone."))
    for role, input_facts in facts.items():
        if max(input_facts.spacing_mm) > THICK_SLICE_MM:
            sentence = (
                f"The {role.upper()} has thick slices: lesions smaller than a slice may be missed and "
                "volumes are coarse."
            )
            remarks.append(Finding("thick-slices", "info", sentence, f"{max(input_facts.spacing_mm):.1f} mm"))
    return remarks


def _check_grid(role: str, volume: Volume) -> None:
    low, high = SPACING_LIMITS_MM
    spacing = spacing_mm(volume.affine)
    if min(spacing) < low - _ROUNDING_MM or max(spacing) > high + _ROUNDING_MM:
        input_facts = " x ".join(f"{size:.2f}" for size in spacing)
        raise GeometryError(
            f"the {role.upper()} has voxels of {input_facts} mm; {low:g} to {high:g} mm can be used",
            code="spacing-out-of-range",
        )
    if min(volume.array.shape) < MINIMUM_SLICES:
        raise GeometryError(
            f"the {role.upper()} has shape {volume.array.shape}; each axis needs {MINIMUM_SLICES} voxels",
            code="too-few-slices",
        )
    if (seen_shear := shear(volume.affine)) > LARGEST_SHEAR:
        raise GeometryError(
            f"the axes of the {role.upper()} are not perpendicular (cosine {seen_shear:.3f})",
            code="axes-not-perpendicular",
        )


def _facts(role: str, volume: Volume) -> InputFacts:
    low, high = float(volume.array.min()), float(volume.array.max())
    if not high > low:
        raise ImageError(f"every voxel of the {role.upper()} is {low:g}", code="zero-range")
    if high <= 0:
        raise ImageError(f"the {role.upper()} has no voxel above zero", code="no-positive-voxels")
    return InputFacts(volume.array.shape, spacing_mm(volume.affine), low, high)
