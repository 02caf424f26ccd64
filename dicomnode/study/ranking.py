"""Which of several candidates for one role is the better one.

A list of criteria, the first that differs decides.

Each criterion is a number, smaller is better, and the words that say why a series lost. Geometry (coverage,
thin 3D, the plane and grid of the FLAIR) stands before resolution; names count only for what they say about a
contrast agent.
"""

from __future__ import annotations

from dataclasses import dataclass

from dicomnode.records import InstanceHeader, Role
from dicomnode.study.agent import AgentEvidence
from dicomnode.study.checks import plane_of
from dicomnode.study.names import Names
from dicomnode.study.stacks import Stack
from dicomnode.study.variants import dixon_image, is_denoised, is_reformatted, is_synthetic, is_uniform
from dicomnode.study.words import normalise

# How far a stack must reach along its normal to show the whole brain of most adults, in mm.
_WHOLE_BRAIN_MM = {"axial": 110.0, "sagittal": 115.0, "coronal": 140.0}
_THIN_MM = 3.0

# Why a candidate lost, by criterion; the order is the rank.
_PREDICATES: dict[str, str] = {
    "damaged": "has slices that cannot be used as they are",
    "rule": "is not the one that a rule of this site names",
    "contradiction": "has witnesses that contradict each other",
    "evidence": "is recognised by its name only",
    "agent": "was acquired after contrast agent",
    "agent_words": "is not named as without contrast agent",
    "follows_agent": "was acquired later than a series with contrast agent",
    "synthetic": "is a synthetic image",
    "reformatted": "was computed from other images",
    "uniform": "is the uniform image of an MP2RAGE, or the one with its noise",
    "coverage": "covers less of the head",
    "volumetric": "is no thin 3D series",
    "grid": "does not share the plane and grid of the FLAIR",
    "frame_of_reference": "does not share the frame of reference of the FLAIR",
    "spacing": "has slices that are further apart",
    "plane": "is not axial",
    "pixel": "has larger pixels",
    "dixon": "is another image of the same Dixon acquisition",
    "normalised": "has intensities that are not normalised",
    "distortion": "is less corrected for distortion",
}
CRITERIA = tuple(_PREDICATES)


@dataclass(frozen=True)
class Reference:
    """The FLAIR that a T1 is to fit: its stack and frame of reference."""

    stack: Stack
    FrameOfReferenceUID: str


@dataclass(frozen=True)
class Standing:
    """What ranks a candidate besides its images: the state of its slices and the strength of its evidence."""

    is_damaged: bool
    by_rule: bool
    is_contradicted: bool
    is_weak: bool
    agent: AgentEvidence


def rank_of(
    header: InstanceHeader,
    role: Role,
    stack: Stack | None,
    names: Names,
    standing: Standing,
    reference: Reference | None,
) -> tuple[float, ...]:
    """Return the rank of a candidate, a number a criterion of `CRITERIA`.

    The smaller tuple is the better candidate.
    """
    concepts = names.all_concepts
    uniform = 0 if not is_uniform(header, concepts) else 1 if is_denoised(header, concepts) else 2
    agent = standing.agent
    values = {
        "damaged": standing.is_damaged,
        "rule": not standing.by_rule,
        "contradiction": standing.is_contradicted,
        "evidence": standing.is_weak,
        "agent": agent.is_given,
        "agent_words": agent.is_given and agent.words != "without",
        "follows_agent": agent.follows,
        "synthetic": is_synthetic(header, concepts),
        "reformatted": is_reformatted(header, concepts),
        "uniform": uniform,
        **_geometry(header, stack, reference),
        "pixel": round(max(header.PixelSpacing, default=99.0), 1),
        "dixon": _dixon_rank(header, role, names),
        "normalised": "NORM" not in header.ImageType,
        "distortion": 0 if "DIS3D" in header.ImageType else 1 if "DIS2D" in header.ImageType else 2,
    }
    return tuple(float(values[criterion]) for criterion in CRITERIA)


def why_behind(loser: tuple[float, ...], winner: tuple[float, ...]) -> str:
    """Return the words of the first criterion in which a loser is worse than the winner.

    "" when they are equal.
    """
    pairs = zip(CRITERIA, loser, winner, strict=True)
    return next((_PREDICATES[criterion] for criterion, behind, ahead in pairs if behind != ahead), "")


def _geometry(header: InstanceHeader, stack: Stack | None, reference: Reference | None) -> dict[str, float]:
    if stack is None:
        return {
            "coverage": 1,
            "volumetric": 1,
            "grid": 2,
            "frame_of_reference": 1,
            "spacing": 99.0,
            "plane": 1,
        }
    plane, spacing = plane_of(stack), stack.spacing_mm
    # A 3D acquisition with thick slices serves no better than a 2D one.
    volumetric = (header.MRAcquisitionType == "3D" and spacing <= _THIN_MM) or (
        not header.MRAcquisitionType and spacing <= 2
    )
    elsewhere = reference is not None and reference.FrameOfReferenceUID != header.FrameOfReferenceUID
    return {
        "coverage": stack.coverage_mm < _WHOLE_BRAIN_MM[plane],
        "volumetric": not volumetric,
        "grid": 0 if volumetric else _grid_distance(stack, reference),
        "frame_of_reference": elsewhere,
        "spacing": round(spacing, 1),
        "plane": 0 if volumetric or plane == "axial" else 1,
    }


def _grid_distance(stack: Stack, reference: Reference | None) -> int:
    """Return 0 for slices parallel to the FLAIR's and as far apart, 1 for parallel ones, 2 for others."""
    if reference is None:
        return 0
    if abs(float(stack.normal @ reference.stack.normal)) < 0.98:
        return 2
    return int(abs(stack.spacing_mm - reference.stack.spacing_mm) > 0.1 * reference.stack.spacing_mm)


def _dixon_rank(header: InstanceHeader, role: Role, names: Names) -> int:
    """Return 0 for the Dixon image that is nearest to what the networks were trained on.

    An image that is no Dixon image gets 0, too.
    """
    image = dixon_image(header, names.all_concepts, normalise(names.description or names.protocol))
    preferred = "in phase" if role == "t1" else "water"
    return 0 if image in {"", preferred} else 1
