"""Semi-real cases: held-out real outlines painted into real heads without a stroke, then segmented.

Real anatomy and real scanners, artificial lesions. The template is brought to the head by an affine registration; the
brain mask is our own, from the head before the lesion was painted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.training.build import Network
from pipeline.training.measure_real import BRAIN_THRESHOLD, combinations_of, extract_brain
from pipeline.training.real_cases import RealCase
from pipeline.training.synthesis.appearance import draw_lesion_state, paint_lesion
from pipeline.training.synthesis.contrast import Contrast
from pipeline.training.synthesis.fields import Dice, sample
from pipeline.training.synthesis.lesion_maps import read_map
from pipeline.training.synthesis.lesions import LesionShape, depth_of
from pipeline.training.synthesis.subject import LESION_GRID, scale_by_brain_median
from pipeline.training.tasks import keep_channels
from pipeline.training.validate import dice_score, predict
from pipeline.training.volumes import axial_affine, resample

Affine = npt.NDArray[np.float64]
Float = npt.NDArray[np.float32]


def measure_implants(
    brain: Network,
    lesion: Network,
    cases: Sequence[RealCase],
    maps: Sequence[Path],
    thresholds: dict[str, float],
    each: int = 6,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Paint `each` outlines into each head and return one row for each lesion and channel combination."""
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases):
        images, inside, to_template = prepare_head(brain, case)
        for attempt in range(each):
            dice = Dice(seed + 1000 * number + attempt)
            path = maps[dice.integer(len(maps))]
            painted = paint_outline(images, inside, to_template, path, dice)
            if painted is None:
                continue
            truth, channels = painted
            stack = torch.stack([channels.get(role, torch.zeros(LESION_GRID.shape)) for role in lesion.architecture.channels])
            for roles in combinations_of(case):
                name = "+".join(roles)
                probability = predict(lesion, keep_channels(stack, lesion.architecture.channels, name))
                mask = (probability >= thresholds.get(name, 0.5)) & inside
                rows.append({"case": case.name, "map": path.name, "input": name, "truth_ml": float(truth.sum()) * LESION_GRID.voxel_ml,
                             "found_ml": float(mask.sum()) * LESION_GRID.voxel_ml, "dice": dice_score(mask, truth)})  # fmt: skip
    return rows


def prepare_head(brain: Network, case: RealCase) -> tuple[dict[str, Tensor], Tensor, Affine]:
    """Return the images and the brain mask on the lesion grid, and the 4x4 from its indices to template coordinates."""
    found = extract_brain(brain, case.images[case.reference])
    voxels = np.argwhere(found.array >= BRAIN_THRESHOLD)
    middle = np.append((voxels.min(axis=0) + voxels.max(axis=0)) / 2, 1.0)
    affine = axial_affine(LESION_GRID.shape, LESION_GRID.spacing_mm, (found.affine @ middle)[:3])
    inside = resample(found, affine, LESION_GRID.shape, smooth=False) >= BRAIN_THRESHOLD
    images = {
        role: resample(volume, affine, LESION_GRID.shape, target_to_source=case.links[role])
        for role, volume in case.images.items()
        if role in ("t1", "flair")
    }
    fixed = images.get("t1", images[case.reference]) * inside
    link = register_template(fixed, affine)
    # LPS mm (x, y, z) to template coordinates (up, to posterior, to the left) is a reversal of the axes.
    reverse = np.eye(4)[[2, 1, 0, 3]]
    return {k: torch.from_numpy(v) for k, v in images.items()}, torch.from_numpy(inside), reverse @ link @ affine


def register_template(fixed: Float, affine: Affine) -> Affine:
    """Return the 4x4 from the head's LPS mm to the template's LPS mm, by mutual information."""
    import nibabel
    import nilearn
    import SimpleITK

    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    template = nibabel.nifti1.Nifti1Image.from_filename(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    data = np.asarray(template.dataobj, np.float32).transpose(2, 1, 0)[:, ::-1, ::-1]
    corner = template.affine[:3, 3] + np.array([data.shape[2] - 1, data.shape[1] - 1, 0])
    moving_affine = np.eye(4)[[2, 1, 0, 3]]
    moving_affine[:3, 3] = (-corner[0], -corner[1], corner[2])
    still, moved = _as_sitk(fixed, affine), _as_sitk(np.ascontiguousarray(data), moving_affine)
    start = SimpleITK.CenteredTransformInitializer(
        still, moved, SimpleITK.AffineTransform(3), SimpleITK.CenteredTransformInitializerFilter.MOMENTS
    )
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2)
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(still, moved)
    link = np.eye(4)
    origin = np.array(start.TransformPoint((0.0, 0.0, 0.0)))
    for axis in range(3):
        unit = [0.0, 0.0, 0.0]
        unit[axis] = 1.0
        link[:3, axis] = np.array(start.TransformPoint(unit)) - origin
    link[:3, 3] = origin
    return link


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
    images: dict[str, Tensor], inside: Tensor, to_template: Affine, path: Path, dice: Dice
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Return the lesion's mask and the scaled images with it; None when hardly anything of it falls on tissue."""
    outline = read_map(path)
    index = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in LESION_GRID.shape), indexing="ij"), dim=-1)
    matrix = torch.from_numpy(to_template.astype(np.float32))
    positions = index @ matrix[:3, :3].T + matrix[:3, 3]
    soft = sample(outline.mask, positions - torch.tensor(outline.origin_mm))[0]
    means = {role: _estimate_means(image[inside], role) for role, image in images.items()}
    mask = (soft > 0.5) & inside
    for role, image in images.items():
        mask &= image > 0.5 * (means[role]["csf"] + means[role]["white"])
    if int(mask.sum()) < 10:
        return None
    shape = LesionShape(mask, depth_of(mask, LESION_GRID), float(mask.sum()) * LESION_GRID.voxel_ml, path.name)
    state = draw_lesion_state(shape, LESION_GRID, dice)
    return mask, {
        role: scale_by_brain_median(paint_lesion(image, state, Contrast(role, means[role]), LESION_GRID, dice), inside)
        for role, image in images.items()
    }


def _estimate_means(values: Tensor, role: str) -> dict[str, float]:
    """Guess tissue means from the percentiles inside the brain."""
    ordered = values.sort().values
    low, middle, high = (float(ordered[int(q * (len(ordered) - 1))]) for q in (0.03, 0.55, 0.85))
    if role == "t1":
        return {"csf": low, "cortex": 0.75 * high, "white": high}
    return {"csf": low, "cortex": 0.5 * (middle + high), "white": middle}
