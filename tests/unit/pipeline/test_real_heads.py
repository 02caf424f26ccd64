"""The shipped networks on real heads (../shared/data): brains of a plausible size, T1 on FLAIR, the same tumour on the same side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.geometry import Affine, apply_affine, same_grid
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Role, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.families import find_bundle

pytestmark = pytest.mark.slow

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def shipped(repo_root: Path) -> Recipe:
    models = repo_root / "models"
    return Recipe(
        find_bundle(models, "stroke-lesion-2mm"), find_bundle(models, "brain-extractor-3mm"), threads=2
    )


def read_nifti(path: Path) -> Volume:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.load(path)
    array = np.ascontiguousarray(np.asarray(image.dataobj, dtype=np.float32).squeeze().transpose(2, 1, 0))
    return Volume(array, RAS_TO_LPS @ image.affine @ np.eye(4)[[2, 1, 0, 3]], "2.25.7")


def read_dicom(folder: Path) -> Volume:
    simpleitk = pytest.importorskip("SimpleITK")
    image = simpleitk.ReadImage(simpleitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing()))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()
    return Volume(simpleitk.GetArrayFromImage(image).astype(np.float32), affine, "2.25.7")


def read_transform(path: Path) -> Affine:
    """Read an ITK text transform, x -> M (x - c) + c + t, as 4x4."""
    fields = dict(
        line.split(":", 1)
        for line in path.read_text().splitlines()
        if ":" in line and not line.startswith("#")
    )
    values = np.array(fields["Parameters"].split(), float)
    centre = np.array(fields["FixedParameters"].split(), float)
    matrix = np.eye(4)
    matrix[:3, :3] = values[:9].reshape(3, 3)
    matrix[:3, 3] = values[9:] + centre - matrix[:3, :3] @ centre
    return matrix


def total(result: PipelineResult, name: str) -> float:
    return next(each.value for each in result.measurements if each.name == name)


@pytest.mark.parametrize("case", ["patient01/study2", "patient03/study2", "patient12/study1"])
def test_a_real_t1_is_brought_onto_its_flair(case: str, real_data: Path, shipped: Recipe) -> None:
    stem = real_data / "ms-longitudinal" / "raw" / case
    inputs: dict[Role, Volume] = {
        "t1": read_nifti(Path(f"{stem}_T1W.nii.gz")),
        "flair": read_nifti(Path(f"{stem}_FLAIR.nii.gz")),
    }
    truth = read_transform(Path(f"{stem}_T1W_intrastudy_to_FLAIR.txt"))

    result = run_pipeline(inputs, shipped)

    link = result.links["t1"]
    points = apply_affine(result.brain_mask.affine, np.argwhere(result.brain_mask.array)[::997])
    apart = np.linalg.norm(apply_affine(link, points) - apply_affine(truth, points), axis=1)
    # The reference is itself a registration of 3 mm slices.
    assert apart.max() < 1.5
    assert 1200 < total(result, "brain_volume") < 1700
    assert same_grid(result.labels, inputs["flair"])


def test_a_healthy_t1_has_a_brain_and_next_to_no_lesion(real_data: Path, shipped: Recipe) -> None:
    result = run_pipeline({"t1": read_nifti(real_data / "healthy-t1" / "t1_crop.nii.gz")}, shipped)

    assert 1300 < total(result, "brain_volume") < 1700
    assert total(result, "total_volume") < 5


def test_a_real_mass_on_the_left_is_found_on_the_left(real_data: Path, shipped: Recipe) -> None:
    """A tumour and not a stroke, but bright on FLAIR and on the patient's left: what is large lies there."""
    result = run_pipeline({"flair": read_dicom(real_data / "philips-flair-2d" / "flair")}, shipped)

    largest = result.lesions[0]
    assert largest.centroid_lps_mm[0] > 15
    assert largest.centroid_mni_mm is not None
    assert largest.centroid_mni_mm[0] < -15
    assert next(each.value for each in largest.measurements if each.name == "volume") > 20
    assert {"no-t1", "thick-slices"} <= {finding.code for finding in result.findings}
