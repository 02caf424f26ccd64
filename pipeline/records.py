"""Frozen records that cross the pipeline's rooms. Shapes, axis order and units are named here once.

Arrays are (slice, row, column). Affines map such an index to patient coordinates in mm, LPS
(PS3.3 C.7.6.2.1.1: x to the patient's left, y to posterior, z to the head).
The canonical order that networks see ("axial") has axis 0 towards the head, axis 1 towards posterior,
axis 2 towards the patient's left.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.counts import counted
from pipeline.errors import GeometryError, ImageError

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float32]
Role = Literal["t1", "flair"]
ROLES: tuple[Role, ...] = ("t1", "flair")
Grade = Literal["info", "warning", "refuse"]
Laterality = Literal["left", "right", "both", "unknown"]
Change = Literal["new", "grown", "shrunk", "unchanged", "gone", "not imaged"]
Side = Literal["left", "right", "both", ""]
RegionName = Literal[
    "frontal",
    "parietal",
    "temporal",
    "occipital",
    "insula",
    "basal-ganglia",
    "thalamus",
    "cerebellum",
    "brain-stem",
    "periventricular",
]


@dataclass(frozen=True, eq=False)
class Volume:
    """One 3D image in patient space.

    Attributes
    ----------
    array
        (slice, row, column), any real dtype, all values finite.
    affine
        4x4, index (slice, row, column) to LPS mm, invertible.
    frame_of_reference_uid
        Never empty: two volumes are comparable only when these are equal.
    """

    array: Array
    affine: npt.NDArray[np.float64]
    frame_of_reference_uid: str

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or 0 in self.array.shape:
            raise ImageError(f"a volume needs 3 non-empty axes, got shape {self.array.shape}", code="not-3d")
        if np.issubdtype(self.array.dtype, np.floating) and not np.isfinite(self.array).all():
            raise ImageError("the volume has NaN or infinite voxels", code="voxels-not-finite")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise GeometryError("the affine must be a finite 4x4 matrix", code="affine-invalid")
        if not np.allclose(self.affine[3], (0, 0, 0, 1)) or abs(np.linalg.det(self.affine[:3, :3])) < 1e-9:
            raise GeometryError("the affine is not invertible", code="affine-invalid")
        if not self.frame_of_reference_uid:
            raise GeometryError("the volume has no frame of reference UID", code="frame-of-reference-missing")

    def with_array(self, array: Array) -> Volume:
        """Return the same grid with other voxels; the shape must be the same."""
        if array.shape != self.array.shape:
            raise GeometryError(
                f"shape {array.shape} does not fit the grid {self.array.shape}", code="grid-mismatch"
            )
        return Volume(array, self.affine, self.frame_of_reference_uid)


@dataclass(frozen=True)
class StepRecord:
    """A line of the log.

    A step's name, the parameters that it decided on (JSON types), its seconds, whether it was done before.
    """

    name: str
    parameters: Mapping[str, Any]
    seconds: float
    cached: bool = False


@dataclass(frozen=True)
class Finding:
    """One graded remark about the input or a step: stable code, plain sentence, the value that was seen."""

    code: str
    grade: Grade
    message: str
    value: str = ""


@dataclass(frozen=True)
class Measurement:
    """One number: what it is, its value, its UCUM unit, how it was obtained.

    `name` is the key of `dicomnode.results.words.measured`: "volume", "total_volume", "lesion_count",
    "long_axis", ...
    """

    name: str
    value: float
    unit: str
    method: str


@dataclass(frozen=True)
class LongAxis:
    """Longest in-slice diameter of a lesion on the reference grid (for the SR's SCOORD).

    Attributes
    ----------
    slice_index
        Index along axis 0 of the reference grid.
    start, end
        (row, column) of the end points, in voxel-centre coordinates of that slice; on pixel edges, so halves
        occur.
    length_mm
        Euclidean distance of the end points in patient space.
    """

    slice_index: int
    start: tuple[float, float]
    end: tuple[float, float]
    length_mm: float


@dataclass(frozen=True)
class RegionShare:
    """How much of a lesion lies in one region of the brain.

    Attributes
    ----------
    region
        The region's key, a `RegionName`.
    side
        Which half of the brain that share lies in: "both" when each half holds at least a tenth of it, empty
        for a region that has no sides.
    share
        0..1 of the lesion's voxels.
    """

    region: str
    side: Side
    share: float


@dataclass(frozen=True)
class TerritoryShare:
    """How much of a lesion lies in one territory of the site's own atlas.

    Attributes
    ----------
    number, name
        The territory's label in the atlas and its name in the atlas's table.
    code
        (CodeValue, CodingSchemeDesignator, CodeMeaning) where the table has one, else empty.
    share
        0..1 of the lesion's voxels.
    """

    number: int
    name: str
    share: float
    code: tuple[str, str, str] | tuple[()] = ()


@dataclass(frozen=True)
class Lesion:
    """One connected lesion on the reference grid.

    `label` is its value in the label map, 1..N by falling volume.

    Attributes
    ----------
    mean_probability
        Mean of the network's own, uncalibrated, probability over the lesion. What results say is `certainty`.
    laterality
        Side of the patient's own midsagittal plane.
    mean_agreement
        Mean over the lesion of how far members, planes or folds agreed, 0..1; None where only one network
        answered.
    centroid_mni_mm
        The centroid in the MNI template (ICBM 152 2009a), RAS mm; None where the affine registration to it
        was not believed.
    regions, territories
        Where in the brain the lesion lies, largest share first. Both are empty where that registration was
        not believed, the territories also where the site has no atlas.
    """

    label: int
    voxel_count: int
    centroid_lps_mm: tuple[float, float, float]
    long_axis: LongAxis
    measurements: tuple[Measurement, ...]
    mean_probability: float
    laterality: Laterality = "unknown"
    mean_agreement: float | None = None
    centroid_mni_mm: tuple[float, float, float] | None = None
    regions: tuple[RegionShare, ...] = ()
    territories: tuple[TerritoryShare, ...] = ()

    @property
    def certainty(self) -> float:
        """How sure results say the network is of the lesion, 0..1; calibrated where the plan says how."""
        return next(item.value for item in self.measurements if item.name in CERTAINTIES) / 100


@dataclass(frozen=True)
class ModelIdentity:
    """Which network answered: copied into every result."""

    name: str
    version: str
    family: str
    sha256: str
    statement: str
    licence: str


@dataclass(frozen=True)
class NetworkPlan:
    """How one network is run on one case.

    Attributes
    ----------
    manifest_sha256
        Over every key of the manifest.
    graphs
        File name to SHA-256.
    threshold
        Probability at or above which one pass, plane, fold or member calls a voxel lesion (or brain).
    bias_correction
        Whether N4 divides the images by their bias field first.
    provider, threads
        What runs the graphs, and on how many threads: the last bits of a probability depend on both.
    members
        The networks of an ensemble, in the order in which their answers are combined.
    """

    model: ModelIdentity
    manifest_sha256: str
    graphs: Mapping[str, str]
    threshold: float
    bias_correction: bool
    provider: str
    threads: int
    members: tuple[NetworkPlan, ...] = ()


@dataclass(frozen=True)
class LesionRule:
    """What makes lesions of probabilities.

    Attributes
    ----------
    peak
        Probability that a lesion must reach somewhere; at or below the threshold it asks for nothing.
    peaks
        The same by channel combination, for where an image does not reach; empty where the operator sets one
        peak for all.
    """

    threshold: float
    peak: float
    peaks: Mapping[str, float]
    minimum_volume_mm3: float
    connectivity: int
    brain_margin_mm: float

    @property
    def asks_for_peak(self) -> bool:
        """Whether a lesion must reach more than the threshold somewhere."""
        return self.peak > self.threshold


@dataclass(frozen=True)
class Calibration:
    """How a lesion's mean probability and volume become the chance that the lesion is one.

    A logistic regression (Platt, 1999). A finding was right when at least a tenth of it lay inside the
    outline of an expert (`pipeline.evaluate.lesions.DETECTION_SHARE`). It changes what is said of a lesion,
    never its outline.

    Attributes
    ----------
    slope
        Of the log-odds of the mean probability; above 0.
    volume_slope
        Of the natural logarithm of the volume in ml; 0 or above.
    intercept
        Log-odds of a lesion of 1 ml and a mean probability of one half.
    findings, people
        How many marked lesions in how many people it was fitted on.
    fitted_on
        What images of whom they were, in words.
    """

    slope: float
    volume_slope: float
    intercept: float
    findings: int
    people: int
    fitted_on: str

    @property
    def origin(self) -> str:
        """On whom it was fitted, in words."""
        people = counted(self.people, "person", "people")
        return f"{counted(self.findings, 'marked lesion')} in {people} ({self.fitted_on})"

    def chance(self, mean_probability: float, volume_ml: float) -> float:
        """Return the chance that a marked lesion is one, 0..1; it rises with probability and volume.

        >>> Calibration(1.0, 0.5, 0.0, 100, 50, "a test").chance(0.75, 1.0)
        0.75
        """
        probability = min(max(mean_probability, _LEAST), 1 - _LEAST)
        log_odds = self.slope * math.log(probability / (1 - probability)) + self.intercept
        log_odds += self.volume_slope * math.log(max(volume_ml, _LEAST))
        return 1 / (1 + math.exp(-min(max(log_odds, -_MOST_LOG_ODDS), _MOST_LOG_ODDS)))


CERTAINTIES = ("certainty", "calibrated_certainty")
"""Names of the measurement that says how sure the network is of a lesion; each lesion has one of them."""
_LEAST = 1e-4
_MOST_LOG_ODDS = 30.0

Stage = Literal["brain", "register", "infer", "lesions"]
STAGES: tuple[Stage, ...] = ("brain", "register", "infer", "lesions")
"""The stages of an answer in their order; each depends on the plans of those before it."""


@dataclass(frozen=True)
class Plan:
    """Everything that an answer depends on besides the voxels of its images.

    `pipeline.plan.make_plan` makes it.

    Attributes
    ----------
    algorithm
        Number of the program's own rules: another one means other results from the same numbers.
    roles
        The images that the lesion network answers from, the reference first.
    left_out
        Images that the case has and that were not used.
    require_head
        Whether an image that does not look like a head is refused.
    region_map
        Name and version or digest of the map that regions of the brain are read from.
    territories
        SHA-256 of the site's atlas of arterial territories; empty where it has none.
    calibration
        How the certainty of a lesion is calibrated; None where it is not.
    """

    algorithm: int
    brain: NetworkPlan
    lesion: NetworkPlan
    rule: LesionRule
    roles: tuple[Role, ...]
    left_out: tuple[Role, ...] = ()
    require_head: bool = True
    region_map: str = ""
    territories: str = ""
    calibration: Calibration | None = None

    @property
    def models(self) -> tuple[ModelIdentity, ModelIdentity]:
        """The lesion network and the brain extractor."""
        return (self.lesion.model, self.brain.model)

    def digest(self, until: Stage = "lesions") -> str:
        """Return the SHA-256 over the plan's stages up to and with `until`.

        Equal digests, equal answers of equal images.
        """
        stages: dict[Stage, Any] = {
            "brain": asdict(self.brain),
            "register": [],
            # Votes are counted at the rule's threshold, and the rule comes later: a replay with another
            # threshold shares this stage.
            "infer": {name: value for name, value in asdict(self.lesion).items() if name != "threshold"},
            "lesions": [
                asdict(self.rule),
                self.roles,
                self.left_out,
                self.require_head,
                self.region_map,
                self.territories,
                None if self.calibration is None else asdict(self.calibration),
            ],
        }
        digest = hashlib.sha256(f"algorithm {self.algorithm}".encode())
        for stage in STAGES[: STAGES.index(until) + 1]:
            text = json.dumps([stage, stages[stage]], sort_keys=True)
            digest = hashlib.sha256(digest.digest() + text.encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Earlier:
    """An earlier study to compare with.

    Attributes
    ----------
    image
        The image that was segmented then.
    labels
        Its lesions, 1..N, on any grid in the image's frame of reference.
    tracking_uids
        Label to Tracking UID.
    identity
        SOP Instance UID of the segmentation.
    date
        When the study was made, YYYYMMDD; empty when not known.
    """

    image: Volume
    labels: Volume
    tracking_uids: dict[int, str]
    identity: str
    date: str = ""


@dataclass(frozen=True)
class LesionChange:
    """What became of one lesion.

    Attributes
    ----------
    label
        Today's label; None when the lesion is gone or was not imaged today.
    earlier_labels
        What it is compared with; several where lesions merged, the same ones for several lesions where one
        split.
    tracking_uid
        The earlier lesion's, which goes on; empty for a new lesion and for the smaller pieces of one that
        split.
    volume_ml, earlier_ml
        Today's own volume, and the sum of what it is compared with.
    """

    kind: Change
    label: int | None
    earlier_labels: tuple[int, ...]
    tracking_uid: str
    volume_ml: float
    earlier_ml: float


@dataclass(frozen=True)
class FollowUp:
    """Today's lesions against those of an earlier study, whose segmentation is `earlier`."""

    earlier: str
    date: str
    changes: tuple[LesionChange, ...]


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """The answer for one case, on the grid of the reference volume.

    Attributes
    ----------
    plan
        Everything that the answer depends on besides its images.
    links
        Role to the 4x4 from the reference's mm (LPS) to that image's mm; the reference's own is the identity.
    labels
        uint16, 0 background, 1..N the lesions.
    probability
        float32, 0..1, lesion probability.
    brain_mask
        uint8, 0 or 1.
    steps
        What was done, in order: a log for people. No code reads it.
    agreement
        float32, 0..1: share of the network's passes (mirrored images, folds, planes, members) that call the
        voxel lesion, before the limit to the brain and the minimum volume. None where the network answered
        once.
    """

    plan: Plan
    links: Mapping[Role, npt.NDArray[np.float64]]
    labels: Volume
    probability: Volume
    brain_mask: Volume
    lesions: tuple[Lesion, ...]
    measurements: tuple[Measurement, ...]
    steps: tuple[StepRecord, ...]
    findings: tuple[Finding, ...]
    agreement: Volume | None = None
    follow_up: FollowUp | None = None

    @property
    def reference_role(self) -> Role:
        """Role whose grid everything lies on."""
        return self.plan.roles[0]

    @property
    def used(self) -> tuple[Role, ...]:
        """The roles whose images were segmented, reference first."""
        return self.plan.roles

    @property
    def models(self) -> tuple[ModelIdentity, ModelIdentity]:
        """The lesion network and the brain extractor."""
        return self.plan.models

    @property
    def threshold(self) -> float:
        """Probability at or above which a voxel counts as lesion."""
        return self.plan.rule.threshold
