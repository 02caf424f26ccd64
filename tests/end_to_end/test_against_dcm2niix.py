"""Every real series that becomes a volume lies, voxel for voxel, where dcm2niix puts it: a third converter that shares no code with ours."""

from __future__ import annotations

import importlib
import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicomnode.errors import StudyRefused, UnreadableInstance
from dicomnode.records import IndexedInstance, Series
from dicomnode.study.assembly import assemble
from dicomnode.study.headers import read_header
from dicomnode.volumes.load import load_volume
from pipeline.geometry import apply_affine

pytestmark = [pytest.mark.tools, pytest.mark.slow, pytest.mark.timeout(900)]

LARGEST_DEVIATION_VOXELS = 0.01
FEWEST_SERIES = 5
"""Of those in the data folder: with fewer the test would show little."""


@pytest.fixture(scope="module")
def dcm2niix() -> str:
    try:
        return str(importlib.import_module("dcm2niix").bin)
    except ImportError:
        pytest.skip("dcm2niix is not installed: install the extra `tools`")


def list_series(data: Path) -> Iterator[Series]:
    """Yield every stack of every study below a folder."""
    for folder in sorted(
        {path.parent for path in data.rglob("*.dcm")}
        | {path for path in data.rglob("dicom") if path.is_dir()}
    ):
        instances = []
        for path in sorted(item for item in folder.iterdir() if item.is_file() and item.suffix != ".txt"):
            try:
                header = read_header(path)
                # De-identified test files lack it; without it the node refuses, and there is nothing to compare.
                header = replace(header, FrameOfReferenceUID=header.FrameOfReferenceUID or "1.2.9")
                instances.append(IndexedInstance(str(path), 0.0, header))
            except UnreadableInstance:
                continue
        for uid in sorted({item.header.StudyInstanceUID for item in instances}):
            yield from assemble(
                uid, [item for item in instances if item.header.StudyInstanceUID == uid]
            ).series


def convert(program: str, series: Series, folder: Path) -> list[nib.nifti1.Nifti1Image]:
    """Return what dcm2niix makes of the files of one series."""
    source, target = folder / "in", folder / "out"
    source.mkdir(parents=True)
    target.mkdir()
    for number, path in enumerate(sorted({item.path for item in series.instances})):
        (source / f"{number:05d}.dcm").symlink_to(path)
    # Whole values as they are, rescaled as displayed (-p n: Philips' private scaling is another unit), nothing cropped.
    command = [
        program,
        "-b",
        "n",
        "-z",
        "n",
        "-p",
        "n",
        "-l",
        "o",
        "-x",
        "n",
        "-f",
        "image",
        "-o",
        str(target),
        str(source),
    ]
    subprocess.run(command, check=False, capture_output=True, timeout=300)
    return [nib.nifti1.load(path) for path in sorted(target.glob("*.nii"))]


def have_one_content(theirs: np.ndarray, ours: np.ndarray) -> bool:
    """Return whether two volumes hold the same image, up to what dcm2niix makes of its unit.

    Where Philips gives no Rescale Slope it takes the Real World Value Mapping: another factor for the
    whole image. Where slices have rescales of their own it takes the first slice's for all: another
    line for each slice (ours is held against pydicom in test_real_series).
    """
    tolerance = 1e-5 * float(np.abs(ours).max())
    factor = float((theirs * ours).sum() / (ours.astype(np.float64) ** 2).sum())
    if np.allclose(theirs / factor, ours, rtol=1e-5, atol=tolerance):
        return True
    lines = [
        np.polyfit(other.ravel(), own.ravel().astype(np.float64), 1)
        for other, own in zip(theirs, ours, strict=True)
    ]
    return all(
        np.allclose(np.polyval(line, other), own, atol=tolerance)
        for line, other, own in zip(lines, theirs, ours, strict=True)
    )


def test_every_real_series_lies_where_dcm2niix_puts_it(
    real_data: Path, tmp_path: Path, dcm2niix: str
) -> None:
    compared, different = 0, list[str]()
    for number, series in enumerate(list_series(real_data)):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            volume, _, _ = load_volume(series, "t1", Path("/"), folder)
        except StudyRefused:
            continue
        images = [
            image
            for image in convert(dcm2niix, series, folder)
            if sorted(image.shape) == sorted(volume.array.shape)
        ]
        name = f"{Path(series.instances[0].path).parent.relative_to(real_data)}"
        if not images:
            different.append(f"{name}: dcm2niix made no image of this shape")
            continue
        # Our index to LPS mm to RAS mm to theirs.
        to_theirs = np.linalg.inv(images[0].affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
        corners = np.array(
            list(itertools.product(*([0, size - 1] for size in volume.array.shape))), dtype=float
        )
        index = apply_affine(to_theirs, corners)
        deviation = float(np.abs(index - np.rint(index)).max())
        everywhere = np.rint(apply_affine(to_theirs, np.argwhere(np.ones(volume.array.shape, bool)))).astype(
            int
        )
        inside = bool(((everywhere >= 0) & (everywhere < images[0].shape)).all())
        if deviation > LARGEST_DEVIATION_VOXELS or not inside:
            different.append(f"{name}: {deviation:.4f} voxels from where dcm2niix puts it")
            continue
        theirs = np.asarray(images[0].dataobj)[tuple(everywhere.T)].reshape(volume.array.shape)
        if not have_one_content(theirs, volume.array):
            different.append(f"{name}: other values than dcm2niix")
        compared += 1

    assert different == []
    assert compared >= FEWEST_SERIES
