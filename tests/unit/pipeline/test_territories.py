"""A site's atlas of arterial territories: read strictly, shares of a lesion by territory."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.geometry import axial_affine
from pipeline.measure.regions.quadrics import QUADRICS
from pipeline.measure.regions.shares import Placement, measure_territories
from pipeline.measure.regions.territories import AtlasError, Territory, read_table, read_territories
from pipeline.records import TerritoryShare

ARTERIES = Path(__file__).parents[3].parent / "shared" / "data" / "arterial-atlas" / "ArterialAtlas136.nii.gz"
MNI_2MM = np.array([[-2.0, 0, 0, 40.0], [0, 2.0, 0, -40.0], [0, 0, 2.0, -40.0], [0, 0, 0, 1.0]])
# One voxel a millimetre; in patient space (LPS), whose middle is the origin.
IN_MNI = axial_affine((3, 3, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
TABLE = "number,name,code,scheme,meaning\n1,front,17232002,SCT,Middle cerebral artery\n2,back,,,\n"


def write_atlas(folder: Path, table: str = TABLE, ending: str = ".csv", affine: np.ndarray = MNI_2MM) -> Path:
    """Territory 1 in front of y = 0, territory 2 behind it, nothing above z = 20 mm."""
    labels = np.zeros((41, 41, 41), np.int16)
    labels[:, 20:, :30], labels[:, :20, :30] = 1, 2
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "arteries.nii.gz")
    (folder / f"arteries{ending}").write_text(table)
    return folder / "arteries.nii.gz"


def test_shares_by_territory_with_the_sites_names_and_codes(tmp_path: Path) -> None:
    atlas = read_territories(write_atlas(tmp_path))
    # (slice, row, column) run to the head, back and left: 6 voxels in front, 3 behind, 1 above the atlas.
    voxels = np.array([[0, -10, 5]] * 6 + [[0, 12, 5]] * 3 + [[35, 12, 5]]) + 1

    shares = measure_territories(voxels, IN_MNI, Placement(np.eye(4), QUADRICS, atlas))

    assert shares == (
        TerritoryShare(1, "front", 0.6, ("17232002", "SCT", "Middle cerebral artery")),
        TerritoryShare(2, "back", 0.3),
    )
    assert measure_territories(voxels, IN_MNI, Placement(np.eye(4), QUADRICS)) == ()


@pytest.mark.parametrize(
    "text",
    [
        "1|F|front|1\n2|B|back|2\n",
        "1;front\n2;back\n",
        "1\tfront\n2\tback\n",
        "label,NAME\n1,front\n2,back\n",
        "# made by hand\n\n 1 | front \n 2 | back \n",
    ],
)
def test_tables_of_many_forms(text: str) -> None:
    assert read_table("arteries.txt", text) == {1: Territory("front"), 2: Territory("back")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("1|front\n1|back\n", "label 1 has two rows"),
        ("1|front\ntwo|back\n", "'two|back' needs a label"),
        ("1|front\n2|\n", "'2|' needs a label"),
        ("1\n2\n", "needs a label"),
        ("number,name,code\n1,front,12345678901234567\n", "the code of label 1 is too long"),
    ],
)
def test_a_bad_table_is_refused_by_its_row(text: str, words: str) -> None:
    with pytest.raises(AtlasError, match=r"arteries\.txt") as refusal:
        read_table("arteries.txt", text)

    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("no table", "put arteries.txt"),
        ("no volume", "cannot be read"),
        ("no NIfTI", "is no NIfTI volume"),
        ("row missing", "no row for the label 2"),
        ("not in MNI", "does not lie in MNI space"),
        ("probabilities", "no labels"),
        ("four axes", "has 4 axes"),
    ],
)
def test_a_bad_atlas_is_refused_with_its_reason(damage: str, words: str, tmp_path: Path) -> None:
    volume = write_atlas(
        tmp_path,
        "1|front\n" if damage == "row missing" else "1|front\n2|back\n",
        ".txt",
        np.diag([2.0, 2.0, 2.0, 1.0]) if damage == "not in MNI" else MNI_2MM,
    )
    if damage == "no table":
        volume.with_name("arteries.txt").unlink()
    elif damage == "no volume":
        volume.unlink()
    elif damage == "no NIfTI":
        volume.write_bytes(gzip.compress(b"not a volume"))
    elif damage == "probabilities":
        nibabel.save(nibabel.Nifti1Image(np.full((41, 41, 41), 0.3, np.float32), MNI_2MM), volume)
    elif damage == "four axes":
        nibabel.save(nibabel.Nifti1Image(np.ones((41, 41, 41, 2), np.int16), MNI_2MM), volume)

    with pytest.raises(AtlasError) as refusal:
        read_territories(volume)

    assert words in str(refusal.value)


def test_another_table_is_another_atlas(tmp_path: Path) -> None:
    first = read_territories(write_atlas(tmp_path)).sha256
    second = read_territories(write_atlas(tmp_path, TABLE.replace("back", "rear"))).sha256

    assert first != second


@pytest.mark.skipif(not ARTERIES.is_file(), reason="shared/data/arterial-atlas is not here")
def test_a_published_atlas_names_the_territories_of_known_points() -> None:
    atlas = read_territories(ARTERIES)

    assert len(atlas.territories) == 32
    for point, name in {
        (-50.0, 10.0, 20.0): "frontal pars of middle cerebral artery left",
        (10.0, -90.0, 5.0): "occipital pars of posterior cerebral artery right",
        (-5.0, 50.0, 10.0): "anterior cerebral artery left",
        (20.0, -60.0, -45.0): "inferior cerebellar right",
    }.items():
        (label,) = atlas.labels_at(np.array([point]))
        assert atlas.territories[int(label)].name == name, point
