"""The anatomy that all subjects are deformed from.

Soft tissue maps and distance maps of the ICBM 2009 average brain.

Source: the 1 mm T1, grey and white matter maps that nilearn ships (ICBM 152 nonlinear symmetric 2009a, Fonov
2011). Template coordinates are mm in axial canonical directions: (up, to posterior, to the left), origin as
in MNI space.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from pipeline.training.packed_file import read_packed, write_packed
from pipeline.training.problem import TrainingProblem
from pipeline.training.synthesis.fields import blur

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

CORTEX, DEEP, WHITE, VENTRICLE, CSF = range(5)
"""Channel order of the tissue maps."""

TEMPLATE_VARIABLE = "DICOMNODE_TEMPLATE"
"""Environment variable: the file of `pack_template`, on a machine without nilearn."""

MARGIN_MM = (70, 25, 25)
"""How far the distance maps reach below, around and beside the box of the tissue maps."""


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Soft maps of the average brain, on 1 mm and 2 mm grids of template coordinates.

    Attributes
    ----------
    tissue
        (5, slice, row, column) at 1 mm: cortical grey, deep grey, white, ventricle, other CSF; sums to <= 1.
    tissue_origin_mm
        Template coordinate of voxel (0, 0, 0) of `tissue`.
    distances
        (6, slice, row, column) at 2 mm: signed distance to the brain edge, to the smoothed brain hull and to
        the ventricles (mm, positive outside), and the three components of the push away from the ventricles.
    distances_origin_mm
        Template coordinate of voxel (0, 0, 0) of the 2 mm maps.
    """

    tissue: Tensor
    tissue_origin_mm: tuple[float, float, float]
    distances: Tensor
    distances_origin_mm: tuple[float, float, float]

    @functools.lru_cache(maxsize=4)  # noqa: B019 - one anatomy lives as long as the process
    def tissue_for(self, spacing_mm: float) -> Tensor:
        """Return the tissue maps, blurred against aliasing when sampled at `spacing_mm`."""
        sigma = 0.42 * max(spacing_mm**2 - 1.0, 0.0) ** 0.5
        return blur(self.tissue, (sigma, sigma, sigma))


@functools.lru_cache(maxsize=1)
def load_anatomy() -> Anatomy:
    """Build the anatomy from the average head (about 15 s)."""
    grey, white, mask, origin = _scale_template()
    tissue = _split_tissue(grey, white, mask, origin)
    distances, far_origin = _distance_maps(mask, tissue[VENTRICLE] > 0.5, origin)
    return Anatomy(torch.from_numpy(tissue), origin, torch.from_numpy(distances), far_origin)


@dataclass(frozen=True, eq=False)
class Template:
    """The average head's maps, (slice, row, column) uint8 at 1 mm, and where their first voxel is."""

    grey: npt.NDArray[np.uint8]
    white: npt.NDArray[np.uint8]
    t1: npt.NDArray[np.uint8]
    origin_mm: tuple[float, float, float]


def read_template() -> Template:
    """Read the average head: from the file that `$DICOMNODE_TEMPLATE` names, else from nilearn.

    Raises
    ------
    TrainingProblem
        The file cannot be read, or none is named and nilearn is not installed.
    """
    if packed := os.environ.get(TEMPLATE_VARIABLE):
        return _read_packed_template(Path(packed))
    try:
        import nilearn
    except ImportError:
        raise TrainingProblem(
            "the anatomy comes with nilearn, which is not installed: install it, or set "
            f"{TEMPLATE_VARIABLE} to the template.npz that `python -m pipeline.training pack` wrote "
            "where it is"
        ) from None
    import nibabel

    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    arrays = []
    for kind in ("gm", "wm", "t1"):
        image = nibabel.nifti1.Nifti1Image.from_filename(
            folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
        )
        # The files are (to right, to anterior, up); here (up, to posterior, to the left).
        arrays.append(np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1].astype(np.uint8))
    shape, offset = arrays[0].shape, image.affine[:3, 3]
    origin = (float(offset[2]), float(-(offset[1] + shape[1] - 1)), float(-(offset[0] + shape[2] - 1)))
    return Template(arrays[0], arrays[1], arrays[2], origin)


def pack_template(path: Path) -> None:
    """Write the average head to one file, for a machine without nilearn."""
    write_packed(path, vars(read_template()))


def _read_packed_template(path: Path) -> Template:
    grey, white, t1, origin = read_packed(path, ("grey", "white", "t1", "origin_mm"))
    up, back, left = origin.tolist()
    return Template(grey, white, t1, (up, back, left))


def _scale_template() -> tuple[Float, Float, Bool, tuple[float, float, float]]:
    """Return grey and white matter, 0..1, the brain, and the coordinate of the first voxel."""
    template = read_template()
    grey, white, t1 = (
        values.astype(np.float32) / 255.0 for values in (template.grey, template.white, template.t1)
    )
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(grey + white > 0.3, iterations=4))
    mask |= ndimage.binary_opening(t1 > 0.05, iterations=2)
    return grey, white, mask, template.origin_mm


def coordinates(shape: tuple[int, ...], origin: tuple[float, float, float], step: float = 1.0) -> list[Float]:
    """Return open (broadcastable) template coordinates of a grid, one array per axis."""
    return [
        (o + step * np.arange(n, dtype=np.float32)).reshape([-1 if i == axis else 1 for i in range(3)])
        for axis, (n, o) in enumerate(zip(shape, origin, strict=True))
    ]


def _split_tissue(grey: Float, white: Float, mask: Bool, origin: tuple[float, float, float]) -> Float:
    """Split grey matter into cortical and deep, CSF into ventricles and the rest."""
    up, back, left = coordinates(mask.shape, origin)
    grey, white = grey * mask, white * mask
    csf = np.clip(mask - grey - white, 0.0, 1.0)
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    central = ((up - 4) / 24) ** 2 + ((back - 4) / 36) ** 2 + (left / 40) ** 2 < 1
    deep = central & (depth > 18)
    ventricle = _find_ventricles(csf, depth, up, back, left)
    return np.stack([grey * ~deep, grey * deep, white, csf * ventricle, csf * ~ventricle]).astype(np.float32)


def _find_ventricles(csf: Float, depth: Float, up: Float, back: Float, left: Float) -> Bool:
    box = (up > -40) & (up < 36) & (back > -42) & (back < 62) & (np.abs(left) < 42)
    # The quadrigeminal cistern lies behind the midbrain, the interhemispheric fissure above the corpus
    # callosum.
    cistern = (np.abs(left) < 14) & (back > 28) & (up > -14) & (up < 12)
    fissure = (np.abs(left) < 4) & ((back < -12) | (back > 40)) & (up > -12)
    core = (csf > 0.35) & (depth > 14) & box & ~cistern & ~fissure
    labels, count = ndimage.label(core)
    sizes = ndimage.sum_labels(core, labels, np.arange(1, count + 1))
    large_components = np.isin(labels, 1 + np.flatnonzero(sizes > 400))
    ventricles: Bool = ndimage.binary_dilation(large_components, iterations=2) & (csf > 0.05)
    return ventricles


def _distance_maps(
    mask: Bool, ventricle: Bool, origin: tuple[float, float, float]
) -> tuple[Float, tuple[float, float, float]]:
    """Return (edge, hull, ventricle, push z, push y, push x) on a 2 mm grid with a margin, and its origin."""
    below, around, beside = MARGIN_MM
    pads = [(below, 25), (around, around), (beside, beside)]
    far = tuple(o - low for o, (low, _) in zip(origin, pads, strict=True))
    small = np.pad(mask, pads)[::2, ::2, ::2]
    hull = ndimage.gaussian_filter(small.astype(np.float32), 3.0) > 0.42
    vent = np.pad(ventricle, pads)[::2, ::2, ::2]
    distance = _signed_distance(vent)
    smooth = ndimage.gaussian_filter(distance, 2.0)
    push = np.stack(np.gradient(smooth))
    push /= np.maximum(np.linalg.norm(push, axis=0), 1e-3)
    push *= np.exp(-np.abs(distance) / 13.0)
    maps = [_signed_distance(small), _signed_distance(hull), distance, *push]
    return np.stack(maps).astype(np.float32), far  # type: ignore[return-value]


def _signed_distance(mask: Bool) -> Float:
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    signed: Float = (2.0 * np.where(mask, 0.5 - inside, outside - 0.5)).astype(np.float32)
    return signed
