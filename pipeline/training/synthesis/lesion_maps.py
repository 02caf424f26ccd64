"""Real lesion outlines: a folder of binary maps in MNI space, or one file that `pack_maps` made of it.

They are split by name into training and held-out maps. A map in a packed file goes by the file's path and its
own name (`maps.npz/bwsrsub-1000_lesion.nii.gz`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.training.packed_file import read_packed, write_packed
from pipeline.training.problem import TrainingProblem

HELD_OUT = 150
"""How many maps are kept out of training: those whose names have the smallest hashes."""


PACKED = ".npz"
PackedMap = tuple[np.ndarray, tuple[int, ...], tuple[float, float, float]]
"""The voxels of a cropped map, eight to a byte, its shape, and the template coordinate of its first voxel."""


class LesionMapError(TrainingProblem):
    """A folder or file of lesion maps cannot be used."""


@dataclass(frozen=True, eq=False)
class LesionMap:
    """One outline, cropped to its box.

    Attributes
    ----------
    name
        File name, the only identity a map has.
    mask
        (1, slice, row, column) float32, 0 or 1, 1 mm voxels in template directions (up, to posterior, to the
        left).
    origin_mm
        Template coordinate of voxel (0, 0, 0).
    """

    name: str
    mask: Tensor
    origin_mm: tuple[float, float, float]

    @property
    def volume_ml(self) -> float:
        """Volume in template space."""
        return float(self.mask.sum()) / 1000.0


def list_maps(folder: Path, *, held_out: bool) -> list[Path]:
    """Return the maps for training, or the held-out ones, in a stable order.

    Raises
    ------
    LesionMapError
        The folder has no NIfTI file.
    TrainingProblem
        The packed file cannot be read.
    """
    paths = sorted(all_maps(folder), key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    if not paths:
        raise LesionMapError(
            f"{folder} has no *.nii.gz file: leave out --lesion-maps to use procedural lesions only"
        )
    # A small folder keeps a tenth out.
    cut = min(HELD_OUT, max(1, len(paths) // 10)) if len(paths) > 1 else 0
    return paths[:cut] if held_out else paths[cut:]


def all_maps(folder: Path) -> list[Path]:
    """Return every map of a folder or of a packed file, by name.

    Raises
    ------
    TrainingProblem
        The packed file cannot be read.
    """
    if folder.suffix == PACKED:
        return [folder / name for name in sorted(_open_pack(folder))]
    return sorted(folder.glob("*.nii.gz"))


def pack_maps(paths: Sequence[Path], packed: Path) -> None:
    """Write maps into one file, eight voxels to a byte, each cropped to its lesion.

    Raises
    ------
    LesionMapError
        A map cannot be used.
    TrainingProblem
        The file cannot be written.
    """
    maps = [_read_packed(path) for path in paths]
    arrays = {
        "name": np.array([path.name for path in paths]),
        "shape": np.array([shape for _, shape, _ in maps], np.int32).reshape(-1, 3),
        "origin_mm": np.array([origin for _, _, origin in maps], np.float64).reshape(-1, 3),
        "bits": np.concatenate([bits for bits, _, _ in maps]) if maps else np.zeros(0, np.uint8),
    }
    write_packed(packed, arrays)


@functools.lru_cache(maxsize=2)
def _open_pack(packed: Path) -> dict[str, PackedMap]:
    names, shapes, origins, bits = read_packed(packed, ("name", "shape", "origin_mm", "bits"))
    ends = np.cumsum([(int(np.prod(shape)) + 7) // 8 for shape in shapes])
    if len({len(names), len(shapes), len(origins)}) > 1 or (ends[-1] if len(ends) else 0) != len(bits):
        raise LesionMapError(f"{packed} does not hold what its tables say; pack the maps again")
    parts = np.split(bits, ends[:-1]) if len(ends) else []
    return {
        str(name): (part, tuple(shape), (float(origin[0]), float(origin[1]), float(origin[2])))
        for name, part, shape, origin in zip(names, parts, shapes.tolist(), origins, strict=True)
    }


def check_maps(paths: Sequence[Path]) -> None:
    """Read the headers of all maps, so that a run does not find a wrong one after an hour.

    Raises
    ------
    LesionMapError
        One of them is no NIfTI file, or not on 1 mm voxels along the MNI axes.
    """
    for path in paths:
        if path.parent.suffix != PACKED:
            _open(path)


def _open(path: Path) -> Any:
    import nibabel

    try:
        image: Any = nibabel.as_closest_canonical(nibabel.load(path))
    except (OSError, EOFError, nibabel.filebasedimages.ImageFileError) as problem:
        raise LesionMapError(f"{path.name} cannot be read as NIfTI: {problem}") from None
    if image.ndim != 3 or not np.allclose(image.affine[:3, :3], np.eye(3), atol=1e-3):
        sizes = "x".join(f"{size:g}" for size in image.header.get_zooms())
        raise LesionMapError(
            f"{path.name}: a lesion map needs three axes with 1 mm voxels along the MNI axes, "
            f"this one has shape {image.shape} and voxels of "
            f"{sizes} mm: resample it to MNI space at 1 mm"
        )
    return image


def read_map(path: Path) -> LesionMap:
    """Read one map and crop it to its lesion.

    Raises
    ------
    LesionMapError
        The map is empty or its grid is not 1 mm along the axes of MNI space.
    """
    packed, shape, origin = _read_packed(path)
    flat = np.unpackbits(packed, count=int(np.prod(shape)))
    mask = torch.from_numpy(flat.reshape(1, *shape).astype(np.float32))
    return LesionMap(path.name, mask, origin)


@functools.lru_cache(maxsize=4096)
def _read_packed(path: Path) -> PackedMap:
    if path.parent.suffix == PACKED:
        packed_maps = _open_pack(path.parent)
        if path.name not in packed_maps:
            raise LesionMapError(f"{path.parent} holds no map {path.name}")
        return packed_maps[path.name]
    image = _open(path)
    affine = image.affine
    mask = np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1] > 0.5
    if not mask.any():
        raise LesionMapError(f"{path.name}: the map is empty")
    right, anterior, up = affine[:3, 3]
    corner = (up, -(anterior + mask.shape[1] - 1), -(right + mask.shape[2] - 1))
    box = [np.flatnonzero(mask.any(axis=tuple(j for j in range(3) if j != i))) for i in range(3)]
    crop = mask[tuple(slice(b[0], b[-1] + 1) for b in box)]
    crop = np.pad(crop, 2)
    origin = tuple(float(c + b[0] - 2) for c, b in zip(corner, box, strict=True))
    return np.packbits(crop), crop.shape, origin  # type: ignore[return-value]
