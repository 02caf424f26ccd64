"""The product as three Python functions: `segment`, `evaluate`, `load_bundle`. See docs/python.md.

They are the node's own image path without a network, a ledger or a configuration file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dicomnode.answer import SHIPPED_MODELS, build_recipe
from dicomnode.offline.cases import NIFTI_FRAME_OF_REFERENCE
from dicomnode.offline.masks import pair_masks, read_pair
from dicomnode.records import Role
from dicomnode.results.outcome import judge, summarize
from dicomnode.settings.config import parse_config
from dicomnode.volumes.nifti import image_of_array, read_nifti, volume_of_image
from pipeline.bundles.bundle import Bundle
from pipeline.evaluate.case import CaseScore, score_case
from pipeline.plan import Recipe
from pipeline.records import Finding, Lesion, PipelineResult, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters import families

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

Source: TypeAlias = "str | Path | Nifti1Image"
"""A NIfTI file, or one that nibabel has opened."""


@dataclass(frozen=True, eq=False)
class Result:
    """The answer for one case; every image lies on the grid of the FLAIR, of the T1 where there is no FLAIR.

    Attributes
    ----------
    outcome
        "lesions", "negative" or "undetermined": the last where finding nothing does not exclude a lesion.
    summary
        The answer in one sentence.
    pipeline
        Everything else: plan, steps, measurements.
    """

    outcome: str
    summary: str
    pipeline: PipelineResult

    @property
    def lesions(self) -> tuple[Lesion, ...]:
        """The lesions with their measurements, largest first; `label` is the value in `labels`."""
        return self.pipeline.lesions

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Graded remarks on the images and the steps."""
        return self.pipeline.findings

    @property
    def total_ml(self) -> float:
        """Volume of all lesions in ml."""
        return sum(item.value for item in self.pipeline.measurements if item.name == "total_volume")

    @property
    def labels(self) -> Nifti1Image:
        """The lesions as labels, uint16: 0 background, 1..N."""
        return _image_of(self.pipeline.labels)

    @property
    def mask(self) -> Nifti1Image:
        """All lesions as one mask, uint8: 0 or 1."""
        labels = self.pipeline.labels
        return _image_of(labels.with_array((labels.array > 0).astype("uint8")))

    @property
    def probability(self) -> Nifti1Image:
        """Lesion probability before the threshold, float32: 0 to 1, not calibrated."""
        return _image_of(self.pipeline.probability)


def segment(
    t1: Source | None = None,
    flair: Source | None = None,
    *,
    model: Bundle | None = None,
    threshold: float | None = None,
    threads: int = 1,
) -> Result:
    """Outline the stroke lesions of one person.

    Parameters
    ----------
    t1, flair
        NIfTI with a known orientation; both in one space, or close enough to be registered. At least one.
    model
        The lesion network (`load_bundle`); the shipped one by default.
    threshold
        Lesion probability from which a voxel counts, 0..1; the model's own by default.
    threads
        Cores that the networks may use.

    Raises
    ------
    CaseRefused
        The images cannot be segmented; `code` says why in one word (`pipeline.errors`).
    ValueError
        Neither image was given, or the threshold is none.
    """
    sources: dict[Role, Source] = {}
    if t1 is not None:
        sources["t1"] = t1
    if flair is not None:
        sources["flair"] = flair
    if not sources:
        raise ValueError("give t1=, flair= or both")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}; it is a probability between 0 and 1")
    images = {role: _read(source, role) for role, source in sources.items()}
    result = run_pipeline(images, _choose_recipe(model, threshold, threads))
    outcome = judge(result, ())
    return Result(outcome.value, summarize(result, outcome), result)


def evaluate(
    prediction: str | Path, truth: str | Path, *, minimum_lesion_ml: float = 0.0
) -> tuple[CaseScore, ...]:
    """Compare masks with their truths.

    Parameters
    ----------
    prediction, truth
        Two files (NIfTI or DICOM-SEG), or two folders whose masks are paired by subject, folder or file name.
    minimum_lesion_ml
        Smaller lesions do not count in the lesion-wise figures.

    Returns
    -------
    tuple of CaseScore
        One for each case: Dice, volumes in ml, surface distances in mm, lesions (docs/offline.md).

    Raises
    ------
    NodeError
        A case is on one side only, or a folder has no masks.
    CaseRefused
        A file is no mask, or two masks do not fit onto one grid.
    """
    pairs = pair_masks(Path(prediction), Path(truth))
    return tuple(score_case(pair.name, *read_pair(pair), minimum_lesion_ml) for pair in pairs)


def load_bundle(model: str | Path) -> Bundle:
    """Return a checked model bundle.

    Parameters
    ----------
    model
        A folder with a `model.toml`, or the name of a shipped one: "name", or "name/version".

    Raises
    ------
    BundleError
        There is no such bundle, or one of its files is not what its manifest says.
    """
    folder = Path(model)
    if folder.is_dir():
        return families.load_bundle(folder)
    return families.find_bundle(SHIPPED_MODELS, str(model))


def _read(source: Source, role: Role) -> Volume:
    if isinstance(source, str | Path):
        return read_nifti(Path(source), NIFTI_FRAME_OF_REFERENCE)
    return volume_of_image(source, f"the {role.upper()}", NIFTI_FRAME_OF_REFERENCE)


def _choose_recipe(model: Bundle | None, threshold: float | None, threads: int) -> Recipe:
    settings = {"pipeline": {"threshold": threshold} if threshold else {}, "compute": {"threads": threads}}
    recipe = build_recipe(parse_config(settings))
    return recipe if model is None else replace(recipe, lesion=model)


def _image_of(volume: Volume) -> Nifti1Image:
    return image_of_array(volume.array, volume.affine)
