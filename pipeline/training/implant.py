"""Semi-real cases: held-out real outlines painted into real heads without a stroke.

Real anatomy and real scanners, artificial lesions. The template is brought to the head by an affine
registration. What a lesion changes is computed at 1 mm and added to the images on their own grids, so that
everything else of them stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.plan import Recipe
from pipeline.preprocess.register import read_affine
from pipeline.preprocess.threads import one_thread
from pipeline.records import Role, Volume
from pipeline.run import run_pipeline
from pipeline.training.measure_real import find_nothing
from pipeline.training.real_cases import RealCase
from pipeline.training.synthesis.anatomy import read_template
from pipeline.training.synthesis.appearance import draw_acute_lesion, draw_lesion_state, paint_lesion
from pipeline.training.synthesis.contrast import Contrast
from pipeline.training.synthesis.fields import Dice, Grid, sample
from pipeline.training.synthesis.lesion_maps import read_map
from pipeline.training.synthesis.lesions import LesionShape, depth_of
from pipeline.training.synthesis.subject import LESION_GRID
from pipeline.training.volumes import axial_affine, resample

Affine = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]

PAINT_GRID = Grid((160, 192, 160), (1.0, 1.0, 1.0))
SMALLEST_VOXELS = 60


@dataclass(frozen=True, eq=False)
class PreparedHead:
    """One head on the grid that is painted on.

    Images, brain, the grid's affine and the 4x4 from its indices to template coordinates.
    """

    images: dict[str, Tensor]
    inside: Tensor
    affine: Affine
    to_template: Affine


CORTEX_MM = 6.0
"""The mask reaches over the fluid outside the cortex, so the cortex lies a few millimetres below its surface.
"""
CORTICAL_SHARE = 0.1


def paint_cases(
    recipe: Recipe,
    cases: Sequence[RealCase],
    maps: Sequence[Path],
    each: int = 4,
    seed: int = 0,
    *,
    cavities: bool = False,
    acute: bool = False,
) -> Iterator[RealCase]:
    """Yield up to `each` copies of every head, each with another outline painted in.

    With `cavities` the outline becomes a cavity that reaches the cortex.

    With `acute` a lesion looks as real acute strokes do (`draw_acute_lesion`).
    """
    for number, case in enumerate(cases):
        head, implanted = prepare_head(recipe, case), 0
        # Few outlines reach the cortex, so more are tried.
        for attempt in range(6 * each if cavities else each):
            if implanted == each:
                break
            dice = Dice(seed + 1000 * number + attempt)
            path = maps[dice.integer(len(maps))]
            painted = paint_outline(head, path, dice, cavity=cavities, acute=acute)
            if painted is not None:
                implanted += 1
                yield add_lesion(
                    case, head, *painted, name=f"{case.name}-{path.name.removesuffix('.nii.gz')}"
                )


def prepare_head(recipe: Recipe, case: RealCase) -> PreparedHead:
    """Bring a head onto the paint grid and the template to the head; the brain is the shipped extractor's."""
    role: Role = "t1" if case.reference == "t1" else "flair"
    mask = run_pipeline({role: case.images[case.reference]}, recipe, segmenter=find_nothing).brain_mask
    voxels = np.argwhere(mask.array > 0)
    middle = np.append((voxels.min(axis=0) + voxels.max(axis=0)) / 2, 1.0)
    centre = (mask.affine @ middle)[:3]
    coarse = axial_affine(LESION_GRID.shape, LESION_GRID.spacing_mm, centre)
    seen_role = "t1" if "t1" in case.images else case.reference
    fixed = resample(
        case.images[seen_role], coarse, LESION_GRID.shape, target_to_source=case.links[seen_role]
    )
    soft = mask.with_array(mask.array.astype(np.float32))
    link = register_template(fixed * (resample(soft, coarse, LESION_GRID.shape) >= 0.5), coarse)
    affine = axial_affine(PAINT_GRID.shape, PAINT_GRID.spacing_mm, centre)
    images = {
        name: torch.from_numpy(resample(volume, affine, PAINT_GRID.shape, target_to_source=case.links[name]))
        for name, volume in case.images.items()
    }
    inside = torch.from_numpy(resample(soft, affine, PAINT_GRID.shape) >= 0.5)
    # LPS mm (x, y, z) to template coordinates (up, to posterior, to the left) is a reversal of the axes.
    reverse = np.eye(4)[[2, 1, 0, 3]]
    return PreparedHead(images, inside, affine, reverse @ link @ affine)


def register_template(fixed: Float, affine: Affine) -> Affine:
    """Return the 4x4 from the head's LPS mm to the template's LPS mm, by mutual information."""
    import SimpleITK

    template = read_template()
    up, back, left = template.origin_mm
    moving_affine = np.eye(4)[[2, 1, 0, 3]]
    moving_affine[:3, 3] = (left, back, up)
    data = template.t1.astype(np.float32)
    fixed_image, moved = _as_sitk(fixed, affine), _as_sitk(np.ascontiguousarray(data), moving_affine)
    start = SimpleITK.CenteredTransformInitializer(
        fixed_image, moved, SimpleITK.AffineTransform(3), SimpleITK.CenteredTransformInitializerFilter.MOMENTS
    )
    with one_thread():
        method = SimpleITK.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(0.2)
        method.SetInterpolator(SimpleITK.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 150)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2])
        method.SetSmoothingSigmasPerLevel([2, 1])
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(fixed_image, moved)
    return read_affine(start)


def _as_sitk(array: Float, affine: Affine) -> Any:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array)
    columns = affine[:3, [2, 1, 0]]
    spacing = np.linalg.norm(columns, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((columns / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def paint_outline(
    head: PreparedHead, path: Path, dice: Dice, *, cavity: bool = False, acute: bool = False
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Return the lesion's mask and what it changes in each image.

    The result is None when hardly anything of it falls on tissue.

    With `cavity` it is painted as fluid, and None also when it does not reach the cortex; with `acute` as
    `draw_acute_lesion` has it.
    """
    outline = read_map(path)
    index = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in PAINT_GRID.shape), indexing="ij"),
        dim=-1,
    )
    matrix = torch.from_numpy(head.to_template.astype(np.float32))
    positions = index @ matrix[:3, :3].T + matrix[:3, 3]
    mask = (sample(outline.mask, positions - torch.tensor(outline.origin_mm))[0] > 0.5) & head.inside
    means = {role: _estimate_means(image[head.inside], role) for role, image in head.images.items()}
    for role, image in head.images.items():
        mask &= image > 0.5 * (means[role]["csf"] + means[role]["white"])
    if int(mask.sum()) < SMALLEST_VOXELS or (cavity and not _is_cortical(mask, head.inside)):
        return None
    shape = LesionShape(mask, depth_of(mask, PAINT_GRID), float(mask.sum()) * PAINT_GRID.voxel_ml, path.name)
    state = (
        draw_acute_lesion(shape, PAINT_GRID, dice)
        if acute
        else draw_lesion_state(shape, PAINT_GRID, dice, cavity=cavity or None)
    )
    return mask, {
        role: paint_lesion(image, state, Contrast(role, means[role]), PAINT_GRID, dice) - image
        for role, image in head.images.items()
    }


def _is_cortical(mask: Tensor, inside: Tensor) -> bool:
    """Say whether a share of the lesion lies at the brain's surface."""
    depth = torch.from_numpy(ndimage.distance_transform_edt(inside.numpy()))
    return float((mask & (depth <= CORTEX_MM)).sum()) >= CORTICAL_SHARE * float(mask.sum())


def add_lesion(
    case: RealCase, head: PreparedHead, mask: Tensor, changes: dict[str, Tensor], name: str
) -> RealCase:
    """Return the case with the changes added on each image's own grid, and the mask as its truth."""
    images = {}
    for role, volume in case.images.items():
        link = np.linalg.inv(case.links[role]).astype(np.float64)
        change = resample(
            Volume(changes[role].numpy(), head.affine, "0"),
            volume.affine,
            volume.array.shape,
            target_to_source=link,
        )
        images[role] = volume.with_array((volume.array + change).astype(np.float32))
    truth = Volume(mask.numpy().astype(np.float32), head.affine, "0")
    return replace(case, name=name, images=images, lesion=truth, stroke_free=False)


def _estimate_means(values: Tensor, role: str) -> dict[str, float]:
    """Guess tissue means from the percentiles inside the brain."""
    ordered = values.sort().values
    low, middle, high = (float(ordered[int(q * (len(ordered) - 1))]) for q in (0.03, 0.55, 0.85))
    if role == "t1":
        return {"csf": low, "cortex": 0.75 * high, "white": high}
    return {"csf": low, "cortex": 0.5 * (middle + high), "white": middle}
