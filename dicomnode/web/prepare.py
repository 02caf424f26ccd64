"""Images made ready for the viewer, in a process of their own.

Decoding foreign pixels may crash or take memory.

Everything comes onto one upright grid: axis 0 to the head, 1 to the back, 2 to the left. That is the grid of
the image that the lesions lie on; others are resampled by their positions in the scanner, without
registration.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from scipy import ndimage

from dicomnode.errors import StudyRefused
from dicomnode.results.seg.earlier import referenced_series
from dicomnode.volumes.nifti import read_nifti
from dicomnode.volumes.study_images import load_study
from dicomnode.web.sources import FolderSource, StudySource
from pipeline.geometry import apply_affine, orientation_of, reorient, spacing_mm
from pipeline.records import ROLES, Array, Role, Volume

_FRAME_OF_REFERENCE = "2.25.102"


def prepare(source: StudySource | FolderSource, target: Path) -> None:
    """Write `case.json` and one array an image into `target`, as a whole or not at all.

    Raises
    ------
    StudyRefused
        The images cannot be loaded (any more).
    """
    images, labels, probability = (
        _load_study(source) if isinstance(source, StudySource) else _load_folder(source.folder)
    )
    reference = next(iter(images.values()))
    upright = reorient(reference, orientation_of(reference.affine))
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    for role, image in images.items():
        np.save(partial / f"{role}.npy", _onto(upright, image).astype(np.float32))
    marks = np.zeros(upright.array.shape, np.uint16) if labels is None else _place(upright, labels, np.uint16)
    np.save(partial / "labels.npy", marks)
    if probability is not None:
        np.save(partial / "probability.npy", _place(upright, probability, np.float32))
    facts = {
        "roles": list(images),
        "shape": list(upright.array.shape),
        "spacing_mm": list(spacing_mm(upright.affine)),
        "windows": {role: _window(image.array) for role, image in images.items()},
        "lesions": _lesions(marks, upright),
        "has_probability": probability is not None,
    }
    (partial / "case.json").write_text(json.dumps(facts), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _load_study(source: StudySource) -> tuple[dict[Role, Volume], Volume | None, Volume | None]:
    """Return the images of a study, the one that the segmentation lies on first; labels and probability."""
    with tempfile.TemporaryDirectory(prefix="dicomnode-") as work_dir:
        loaded = load_study(source.StudyInstanceUID, source.instances, (), source.config, Path(work_dir))
    first = loaded.sources[0].role
    if source.segmentation is not None:
        series = referenced_series(source.segmentation)
        first = next((item.role for item in loaded.sources if item.SeriesInstanceUID == series), first)
    volumes: Mapping[Role, Volume] = loaded.volumes
    ordered = {first: volumes[first], **{role: volumes[role] for role in volumes if role != first}}
    labels = None if source.segmentation is None else _read_seg(source.segmentation)
    probability = None if source.probability is None else _read_fractions(source.probability)
    return ordered, labels, probability


def _load_folder(folder: Path) -> tuple[dict[Role, Volume], Volume | None, Volume | None]:
    anat = folder / "anat"

    def read(pattern: str) -> Volume | None:
        path = next(iter(sorted(anat.glob(pattern))), None)
        return None if path is None else read_nifti(path, _FRAME_OF_REFERENCE)

    by_role = {"flair": read("*_FLAIR.nii.gz"), "t1": read("*_T1w.nii.gz")}
    images: dict[Role, Volume] = {role: image for role in ROLES if (image := by_role.get(role)) is not None}
    labels = read("*_desc-lesions_dseg.nii.gz")
    if not images or labels is None:
        raise StudyRefused("the result has no images that could be shown", code="nothing-to-show")
    on_grid = [role for role, image in images.items() if image.array.shape == labels.array.shape]
    first = on_grid[0] if on_grid else next(iter(images))
    ordered = {first: images[first], **{role: image for role, image in images.items() if role != first}}
    return ordered, labels, read("*_label-L_probseg.nii.gz")


def _read_seg(path: Path) -> Volume:
    """Return the segment numbers of a SEG on the grid of its frames."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = hd.seg.segread(path).get_volume(
            combine_segments=True, relabel=False, skip_overlap_checks=True, allow_missing_positions=True
        )
    return Volume(
        np.asarray(volume.array, np.uint16),
        np.asarray(volume.affine, np.float64),
        str(volume.frame_of_reference_uid),
    )


def _read_fractions(path: Path) -> Volume:
    """Return the values 0..1 of a FRACTIONAL SEG of one segment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = hd.seg.segread(path).get_volume(segment_numbers=[1], allow_missing_positions=True)
    return Volume(
        np.asarray(volume.array[..., 0], np.float32),
        np.asarray(volume.affine, np.float64),
        str(volume.frame_of_reference_uid),
    )


def _onto(grid: Volume, image: Volume) -> Array:
    """Sample an image at the voxels of a grid, linearly, by position in patient space (LPS mm)."""
    upright = reorient(image, orientation_of(image.affine))
    if upright.array.shape == grid.array.shape and np.allclose(upright.affine, grid.affine, atol=1e-3):
        return upright.array
    # Index of the grid -> mm -> index of the image.
    step = np.linalg.inv(upright.affine) @ grid.affine
    sampled: Array = ndimage.affine_transform(
        upright.array.astype(np.float32), step[:3, :3], step[:3, 3], output_shape=grid.array.shape, order=1
    )
    return sampled


def _place(grid: Volume, part: Volume, kind: Any) -> Array:
    """Lay what is not zero in a volume onto a grid that has the same voxels, by position in patient space."""
    placed = np.zeros(grid.array.shape, kind)
    voxels = np.argwhere(part.array > 0)
    to_index = np.asarray(np.linalg.inv(grid.affine), dtype=np.float64)
    index = np.rint(apply_affine(to_index, apply_affine(part.affine, voxels))).astype(int)
    inside = ((index >= 0) & (index < grid.array.shape)).all(axis=1)
    placed[tuple(index[inside].T)] = part.array[tuple(voxels[inside].T)]
    return placed


def _window(array: Array) -> list[float]:
    """Return grey values for black and white, and the largest: 1st, 99.5th percentile, maximum."""
    low, high = (float(value) for value in np.percentile(array, (1, 99.5)))
    return [low, max(high, low + 1e-6), float(array.max())]


def _lesions(labels: Array, grid: Volume) -> list[dict[str, Any]]:
    """Return each label with its volume and the voxel to jump to: its own one nearest to its middle."""
    voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000
    lesions = []
    for label in np.unique(labels[labels > 0]).tolist():
        voxels = np.argwhere(labels == label)
        middle = voxels[np.linalg.norm(voxels - voxels.mean(axis=0), axis=1).argmin()]
        lesions.append({"label": label, "ml": len(voxels) * voxel_ml, "index": middle.tolist()})
    return lesions
