"""T1, FLAIR or something else: the witnesses of a series weighed against each other, physics before words.

Order of the evidence: which image of an acquisition it is (MP2RAGE); Acquisition Contrast of enhanced
objects; the physics (`weighting`); the vendor's sequence name; the names that people gave. Witnesses that
contradict each other are written down: a role that only words or only a sequence name would give is then not
given; one that the physics gives is given with a finding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from dicomnode.records import InstanceHeader, Role
from dicomnode.study.names import Names, names_of
from dicomnode.study.variants import is_uniform
from dicomnode.study.weighting import Certainty, Weighting, read_weighting, timing_of

Evidence = Literal["attributes", "sequence name", "description", "none"]

# PS3.3 C.8.13.3.1: contrast of a whole image; other defined terms are neither T1 nor FLAIR.
_ACQUISITION_CONTRAST: dict[str, Role] = {"T1": "t1", "FLUID_ATTENUATED": "flair"}
_SILENT_CONTRASTS = frozenset({"", "UNKNOWN", "MIXED"})

_FLAIR_SEQUENCES = re.compile(r"^\*?(spcir|tir_rr|cubeflair|3d_?flair|flair)", re.IGNORECASE)
_T1_SEQUENCES = re.compile(r"^\*?(tfl3d|mprage|efgre3d|3dfgre|bravo|t1tfe|t1ffe)", re.IGNORECASE)


@dataclass(frozen=True)
class Contrast:
    """What a series shows.

    A role or None, by which evidence, the reading in words, and what contradicts it ("" when nothing).
    """

    role: Role | None
    evidence: Evidence
    reason: str
    contradiction: str = ""


def read_contrast(header: InstanceHeader, names: Names | None = None) -> Contrast:
    """Return the contrast that the witnesses speak for.

    Parameters
    ----------
    header
        Header of the series' first instance.
    names
        The names that are evidence about the series; None when it is looked at alone.
    """
    names = names_of(header) if names is None else names
    if is_uniform(header, names.all_concepts):
        return Contrast("t1", "attributes", "uniform T1-weighted image of an MP2RAGE")
    weighting = read_weighting(header)
    if header.AcquisitionContrast not in _SILENT_CONTRASTS:
        return _doubt(_by_acquisition_contrast(header, weighting), names)
    if weighting.certainty >= Certainty.LIKELY:
        return _doubt(Contrast(weighting.role, "attributes", weighting.reason), names)
    if weighting.certainty == Certainty.OPEN:
        return _by_names_within(weighting, names)
    return _without_timing(header, names)


def _by_acquisition_contrast(header: InstanceHeader, weighting: Weighting) -> Contrast:
    stated = header.AcquisitionContrast[:16]
    if stated == "T2" and weighting.role == "flair":
        # Some scanners name a T2-weighted FLAIR by its weighting.
        return Contrast(
            "flair", "attributes", f"Acquisition Contrast T2 with fluid attenuation: {timing_of(header)}"
        )
    role = _ACQUISITION_CONTRAST.get(header.AcquisitionContrast)
    reading = Contrast(role, "attributes", f"Acquisition Contrast {stated}")
    if role is None or weighting.certainty < Certainty.LIKELY or weighting.role == role:
        return reading
    contradiction = f"Acquisition Contrast is {stated}, and the timing says otherwise ({weighting.reason})"
    if role == "flair" and weighting.role == "t1":
        # A T1 with nulled fluid is fluid-attenuated too, and still a T1.
        return Contrast("t1", "attributes", weighting.reason, contradiction)
    return Contrast(None, "attributes", contradiction, contradiction)


def _doubt(reading: Contrast, names: Names) -> Contrast:
    """Add what the names say against a reading; they never overrule it."""
    named = names.weightings
    listed = " and ".join(sorted(name.upper() for name in named))
    against_t1 = reading.role == "t1" and bool(named) and "t1" not in named
    against_flair = reading.role == "flair" and ("t1" in named or named == {"pd"})
    if not reading.contradiction and (against_t1 or against_flair):
        return replace(
            reading,
            contradiction=(
                f"its name says {listed}, and its physics says {str(reading.role).upper()} ({reading.reason})"
            ),
        )
    if (
        reading.role is None
        and not reading.contradiction
        and named
        and named <= {"flair", "t2"}
        and "flair" in named
    ):
        return replace(
            reading, contradiction=f"its name says FLAIR, and its physics says otherwise ({reading.reason})"
        )
    return reading


def _by_names_within(weighting: Weighting, names: Names) -> Contrast:
    """Read a series whose physics leaves two readings open; a name may only choose between those two."""
    named = names.weightings
    if weighting.kind == "T2":
        if "flair" in named and "t1" not in named:
            return Contrast(
                "flair",
                "description",
                f"long echo and repetition without inversion time, described as FLAIR: {weighting.reason}",
            )
        return Contrast(None, "attributes", weighting.reason)
    if "t1" in named and "t2" not in named:
        return Contrast("t1", "description", f"{weighting.reason}; described as T1")
    undecided = "and its name does not decide" if not named else "and its name says another contrast"
    return Contrast(None, "none", f"{weighting.reason}, {undecided}")


def _without_timing(header: InstanceHeader, names: Names) -> Contrast:
    """Read a series without timing.

    The vendor's sequence name and the names are weighed together, never against each other.
    """
    sequence = header.SequenceName or str(header.extra.get("PulseSequenceName", ""))
    by_sequence: Role | None = (
        "flair" if _FLAIR_SEQUENCES.match(sequence) else "t1" if _T1_SEQUENCES.match(sequence) else None
    )
    named = names.weightings
    missing = "no sequence timing in the headers"
    if (
        {"t1", "flair"} <= named
        or (by_sequence == "t1" and named and "t1" not in named)
        or (by_sequence == "flair" and "t1" in named)
    ):
        listed = " and ".join(sorted(name.upper() for name in named))
        contradiction = (
            f"{missing}, and the names contradict each other "
            f"({listed}{f', sequence {sequence[:16]}' if sequence else ''})"
        )
        return Contrast(None, "none", contradiction, contradiction)
    if by_sequence is not None:
        return Contrast(
            by_sequence, "sequence name", f"sequence name of a {by_sequence.upper()}, timing absent"
        )
    if "flair" in named or named == {"t1"}:
        return Contrast(
            "flair" if "flair" in named else "t1",
            "description",
            f"{missing}; taken from the description alone",
        )
    return Contrast(None, "none", f"{missing}, and the description does not decide")
