"""Real heads with or without a truth, for measuring only.

Found in a data folder that is never part of the project.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.records import Volume
from pipeline.training.volumes import read_nifti

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RealCase:
    """One subject.

    Attributes
    ----------
    images
        Role ("t1", "flair", "t2") to volume.
    reference
        Role whose patient space the truths are given in.
    links
        Role to 4x4 from the reference's patient mm to that image's patient mm.
    brain
        Reference brain mask, with `brain_link` from the reference's mm to the mask's mm.
    lesion
        Lesion truth on the reference's patient space; an all-zero one for a head that counts as free of
        stroke.
    """

    name: str
    images: dict[str, Volume]
    reference: str
    links: dict[str, Affine] = field(default_factory=dict)
    brain: Volume | None = None
    brain_link: Affine | None = None
    lesion: Volume | None = None
    stroke_free: bool = False


def read_itk_transform(path: Path) -> Affine:
    """Read a text MatrixOffsetTransform as 4x4 in LPS mm: x -> M (x - c) + c + t."""
    fields = dict(
        line.split(":", 1) for line in path.read_text().splitlines() if ":" in line and line[0] != "#"
    )
    values = [float(v) for v in fields["Parameters"].split()]
    centre = np.array([float(v) for v in fields["FixedParameters"].split()])
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(values[:9], (3, 3))
    matrix[:3, 3] = np.array(values[9:]) + centre - matrix[:3, :3] @ centre
    return matrix


def ms_cases(data: Path) -> Iterator[RealCase]:
    """Yield ms-longitudinal: whole-head FLAIR, T1 where there is one, brain mask; no stroke."""
    for folder in sorted((data / "ms-longitudinal" / "raw").glob("patient*")):
        mask = data / "ms-longitudinal" / "coregistered" / folder.name / "brainmask.nii.gz"
        for study in ("study1", "study2"):
            flair, t1 = folder / f"{study}_FLAIR.nii.gz", folder / f"{study}_T1W.nii.gz"
            if not flair.exists():
                continue
            images = {"flair": read_nifti(flair)}
            links: dict[str, Affine] = {"flair": np.eye(4)}
            if t1.exists():
                images["t1"] = read_nifti(t1)
                # The file maps points of the FLAIR to points of the T1, as a resampling filter wants it.
                links["t1"] = read_itk_transform(folder / f"{study}_T1W_intrastudy_to_FLAIR.txt")
            to_common = np.linalg.inv(
                read_itk_transform(folder / f"{study}_FLAIR_to_common_space.txt")
            ).astype(np.float64)
            yield RealCase(
                f"{folder.name}-{study}",
                images,
                "flair",
                links,
                read_nifti(mask),
                to_common,
                stroke_free=True,
            )


def single_cases(data: Path) -> Iterator[RealCase]:
    """Yield the heads of one image each."""
    healthy = data / "healthy-t1" / "t1_crop.nii.gz"
    if healthy.exists():
        yield RealCase("healthy-t1", {"t1": read_nifti(healthy)}, "t1", {"t1": np.eye(4)}, stroke_free=True)
    stroke = data / "stroke-t2-clinical" / "T2.nii.gz"
    if stroke.exists():
        yield RealCase(
            "stroke-t2-clinical",
            {"t2": read_nifti(stroke)},
            "t2",
            {"t2": np.eye(4)},
            lesion=read_nifti(stroke.with_name("lesionT2.nii.gz")),
        )
    other_volume = data / "stroke-t2-m2265" / "M2265_T2w.nii.gz"
    if other_volume.exists():
        yield RealCase("stroke-t2-m2265", {"t2": read_nifti(other_volume)}, "t2", {"t2": np.eye(4)})
    for name, role, folder in (
        ("ge-t1-3d-cor", "t1", "ge-t1-3d-cor/dicom"),
        ("philips-flair-2d", "flair", "philips-flair-2d/flair"),
    ):
        if (data / folder).is_dir():
            yield RealCase(
                name,
                {role: read_dicom_folder(data / folder)},
                role,
                {role: np.eye(4)},
                stroke_free=name.startswith("ge"),
            )


def further_cases(data: Path) -> Iterator[RealCase]:
    """Yield heads without a stroke that no training saw: T1 of other vendors, an MS pair in MNI space."""
    for name in ("siemens-skyra", "uih-umr770"):
        path = data / "real-heads" / f"{name}-t1.nii.gz"
        if path.exists():
            yield RealCase(name, {"t1": read_nifti(path)}, "t1", {"t1": np.eye(4)}, stroke_free=True)
    paths = {
        role: data
        / "ms-t1flair-mask-p07"
        / f"{prefix}_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
        for role, prefix in (("t1", "T1"), ("flair", "FLAIR"))
    }
    if all(path.exists() for path in paths.values()):
        images = {role: read_nifti(path) for role, path in paths.items()}
        yield RealCase("p07", images, "flair", {role: np.eye(4) for role in images}, stroke_free=True)


def read_dicom_folder(folder: Path) -> Volume:
    """Read one classic series with SimpleITK."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, :3] = direction[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(SimpleITK.GetArrayFromImage(image).astype(np.float32), affine, "0")
