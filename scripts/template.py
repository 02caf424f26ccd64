"""Write the small brain template behind the MNI coordinates: `python -m scripts.template`.

It needs the train extra: nilearn ships the T1.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import nilearn
import numpy as np
from scipy import ndimage

SPACING_MM = 3
OUT = Path("pipeline/preprocess/icbm152_2009a_3mm.npz")


def main() -> None:
    """Average blocks of 3 x 3 x 3 mm of the skull-stripped T1 and store them as bytes.

    Axes are slice (to the head), row (to posterior) and column (to the left).
    """
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    image = _open(folder, "t1")
    t1 = _read(folder, "t1")
    tissue = _read(folder, "gm") + _read(folder, "wm")
    brain = ndimage.binary_fill_holes(ndimage.binary_closing(tissue > 0.3 * tissue.max(), iterations=3))
    array = (t1 * brain).transpose(2, 1, 0)[:, ::-1, ::-1]
    shape = [n // SPACING_MM for n in array.shape]
    cut = array[tuple(slice(0, n * SPACING_MM) for n in shape)]
    blocks = cut.reshape(shape[0], SPACING_MM, shape[1], SPACING_MM, shape[2], SPACING_MM).mean(
        axis=(1, 3, 5)
    )
    # RAS corner of the file, voxels of 1 mm: the first index of the turned axes is the last of the file's.
    corner_ras = image.affine[:3, 3]
    last_ras = corner_ras + np.array(t1.shape) - 1
    offset = (SPACING_MM - 1) / 2
    origin_lps = (-(last_ras[0] - offset), -(last_ras[1] - offset), corner_ras[2] + offset)
    scaled = np.clip(np.round(blocks * (255.0 / np.percentile(blocks[blocks > 0], 99.9))), 0, 255).astype(
        np.uint8
    )
    np.savez_compressed(
        OUT, t1=scaled, origin_lps_mm=np.array(origin_lps), spacing_mm=np.array(SPACING_MM, np.float64)
    )
    print(
        f"{OUT}: {scaled.shape}, {int((scaled > 0).sum()) * SPACING_MM**3 / 1000:.0f} mL, "
        f"{OUT.stat().st_size} bytes, origin {origin_lps}"
    )


def _open(folder: Path, kind: str) -> nibabel.nifti1.Nifti1Image:
    return nibabel.nifti1.Nifti1Image.from_filename(
        folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    )


def _read(folder: Path, kind: str) -> np.ndarray:
    return np.asarray(_open(folder, kind).dataobj, np.float32)


if __name__ == "__main__":
    main()
