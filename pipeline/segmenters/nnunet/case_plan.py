"""From channels as they were read to what an nnU-Net sees, and the way back.

Arrays are (channel, slice, row, column).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.errors import ImageError
from pipeline.geometry import Shape, Triple, as_shape
from pipeline.records import FloatArray
from pipeline.segmenters.nnunet.normalize import apply_nnunet_scheme
from pipeline.segmenters.nnunet.resample import apply_resize, find_thick_axis, plan_shape, target_spacing
from pipeline.segmenters.nnunet.spec import NnUNetSpec

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CasePlan:
    """How one case gets onto the network's grid; axes are the network's (transposed) unless said otherwise.

    Attributes
    ----------
    shape
        The image as it was read, its own axes.
    box
        (first, one past last) of the non-zero box on each axis.
    spacing_mm, target_mm
        Before and after resampling.
    resampled
        Shape after resampling.
    """

    shape: Shape
    box: tuple[tuple[int, int], ...]
    spacing_mm: Triple
    target_mm: Triple
    resampled: Shape

    @property
    def cropped(self) -> Shape:
        """Shape of the box."""
        return as_shape(tuple(last - first for first, last in self.box))


def plan_case(
    spec: NnUNetSpec, network_spacing: Triple, array: FloatArray, spacing: Triple
) -> tuple[CasePlan, Mask]:
    """Decide crop and grid; return the plan and the non-zero region (holes filled) inside the box.

    Raises
    ------
    ImageError
        Every voxel is zero.
    """
    transposed = array.transpose(0, *(axis + 1 for axis in spec.transpose))
    inside = ndimage.binary_fill_holes((transposed != 0).any(axis=0))
    if not inside.any():
        raise ImageError("every voxel of every channel is zero", code="zero-range")
    occupied = [np.flatnonzero(inside.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    box = tuple((int(occupied_range[0]), int(occupied_range[-1]) + 1) for occupied_range in occupied)
    first, second, third = (spacing[axis] for axis in spec.transpose)
    target = target_spacing((first, second, third), network_spacing, planar=spec.planar)
    plan = CasePlan(as_shape(array.shape[1:]), box, (first, second, third), target, (1, 1, 1))
    resampled = plan_shape(plan.cropped, plan.spacing_mm, target)
    if min(resampled) < 1:
        raise ImageError(
            f"the image's {plan.cropped} voxels vanish at the network's spacing {target} mm",
            code="image-too-small",
        )
    return CasePlan(plan.shape, box, plan.spacing_mm, target, resampled), inside[_slices(box)]


def apply_case(spec: NnUNetSpec, plan: CasePlan, inside: Mask, array: FloatArray) -> FloatArray:
    """Crop, and normalise then resample (v2) or resample then normalise (v1)."""
    cropped = array.transpose(0, *(axis + 1 for axis in spec.transpose))[
        (slice(None), *_slices(plan.box))
    ].astype(np.float32)
    thick = find_thick_axis(plan.spacing_mm, plan.target_mm)
    if spec.version == 2:
        scaled = np.stack(
            [apply_nnunet_scheme(spec, number, image, inside) for number, image in enumerate(cropped)]
        )
        return apply_resize(scaled, plan.resampled, 3, thick)
    moved = apply_resize(cropped, plan.resampled, 3, thick)
    # v1 moves the outside label (-1) with the linear rule for label maps: a voxel is inside where it is not
    # mostly outside.
    if moved.shape == cropped.shape:
        nonzero = inside
    else:
        outside = apply_resize((~inside)[np.newaxis].astype(np.float32), plan.resampled, 1, thick)[0] >= 0.5
        within = apply_resize(inside[np.newaxis].astype(np.float32), plan.resampled, 1, thick)[0] >= 0.5
        nonzero = within | ~outside
    return np.stack([apply_nnunet_scheme(spec, number, image, nonzero) for number, image in enumerate(moved)])


def undo_case(spec: NnUNetSpec, plan: CasePlan, maps: FloatArray, outside: FloatArray) -> FloatArray:
    """Resize maps back to the box, put them into the image, undo the transpose.

    Maps are resized linearly, along thick slices by the nearest voxel.

    Parameters
    ----------
    maps
        (map, *resampled).
    outside
        One value for each map, for what was cropped away.
    """
    back = tuple(spec.transpose.index(axis) for axis in range(3))
    if spec.version == 1:
        # v1 turns the axes back first. It looks at the spacing as read, then at the network's spacing in the
        # network's axes.
        maps = maps.transpose(0, *(axis + 1 for axis in back))
        spacing = tuple(plan.spacing_mm[axis] for axis in back)
        shape = as_shape(tuple(plan.cropped[axis] for axis in back))
        moved = apply_resize(maps, shape, 1, find_thick_axis(spacing, plan.target_mm))
        box = tuple(plan.box[axis] for axis in back)
    else:
        moved = apply_resize(maps, plan.cropped, 1, find_thick_axis(plan.target_mm, plan.spacing_mm))
        moved = moved.transpose(0, *(axis + 1 for axis in back))
        box = tuple(plan.box[axis] for axis in back)
    answer = np.empty((len(maps), *plan.shape), np.float32)
    answer[:] = outside[:, np.newaxis, np.newaxis, np.newaxis]
    answer[(slice(None), *_slices(box))] = moved
    return answer


def _slices(box: tuple[tuple[int, int], ...]) -> tuple[slice, ...]:
    return tuple(slice(first, last) for first, last in box)
