"""T1, FLAIR or something else, read from the physics of the sequence; the description is the last and weakest witness.

Order of the evidence: Acquisition Contrast (enhanced objects); sequence family with echo, repetition and inversion time;
the vendor's sequence name; the description. The thresholds are wide enough for 1.5 T to 7 T and narrow enough to part
T1 from proton density and FLAIR from STIR and T2.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from dicomnode.records import InstanceHeader, Role

Evidence = Literal["attributes", "sequence name", "description", "none"]

# PS3.3 C.8.13.3.1: contrast of a whole image; other defined terms are neither T1 nor FLAIR.
_ACQUISITION_CONTRAST: dict[str, Role] = {"T1": "t1", "FLUID_ATTENUATED": "flair"}
_UNTOLD = frozenset({"", "UNKNOWN", "MIXED"})

_FLAIR_TI_MS = (1500, 3200)
_T1_TI_MS = (250, 1450)
_T1_OF_TISSUE_MS = 1000.0

_FLAIR_WORDS = re.compile(r"flair|dark.?fluid|tirm")
_T1_WORDS = re.compile(r"t1|mp.?rage|bravo|spgr|tfl3d")
_OTHER_WORDS = re.compile(r"\bdir\b|double.?inversion|stir\b|t2.?star|t2\*")
_FLAIR_SEQUENCES = re.compile(r"^\*?(spcir|spcirR|tir2d|tir_rr|cubeflair|3d_?flair)", re.IGNORECASE)
_T1_SEQUENCES = re.compile(r"^\*?(tfl3d|fl3d1|mprage|efgre3d|3dfgre|bravo)", re.IGNORECASE)


@dataclass(frozen=True)
class Contrast:
    """What a series shows: a role or None, by which evidence, and the reading in words."""

    role: Role | None
    evidence: Evidence
    reason: str


def read_contrast(header: InstanceHeader) -> Contrast:
    """Return the contrast that a header's attributes speak for."""
    told = header.AcquisitionContrast
    timing = _timing_words(header)
    if told == "T2" and _is_fluid_attenuated(header):
        # Some scanners name a T2-weighted FLAIR by its weighting.
        return Contrast("flair", "attributes", f"Acquisition Contrast T2 with fluid attenuation: {timing}")
    if told not in _UNTOLD:
        return Contrast(_ACQUISITION_CONTRAST.get(told), "attributes", f"Acquisition Contrast {told[:16]}")
    if header.EchoTime and header.RepetitionTime:
        return _by_timing(header, timing)
    if _FLAIR_SEQUENCES.match(header.SequenceName):
        return Contrast("flair", "sequence name", "sequence name of a FLAIR, timing absent")
    if _T1_SEQUENCES.match(header.SequenceName):
        return Contrast("t1", "sequence name", "sequence name of a T1, timing absent")
    return _by_description(header, "no sequence timing in the headers")


def words_of(header: InstanceHeader) -> str:
    """Return what people called the series, in lower case and with blanks between the words: "t1 mprage sag +c"."""
    return re.sub(r"[^a-z0-9+*]+", " ", f"{header.SeriesDescription} {header.ProtocolName}".lower()).strip()


def _by_timing(header: InstanceHeader, timing: str) -> Contrast:
    if _OTHER_WORDS.search(words_of(header)):
        return Contrast(None, "description", f"{timing}; described as another contrast (DIR, STIR or T2*)")
    spin_echo = _is_spin_echo(header)
    echo, repetition = header.EchoTime or 0.0, header.RepetitionTime or 0.0
    inversion = header.InversionTime or 0.0
    # A gradient echo loses its signal at such echo times, so a long echo means refocusing whatever the family says.
    long_echo = echo >= 60
    if spin_echo is not False and long_echo and repetition >= 4000:
        return _fluid_attenuated_or_t2(header, timing)
    if long_echo or echo > 35:
        return Contrast(None, "attributes", f"T2 or T2* weighted: {timing}")
    if _T1_TI_MS[0] <= inversion <= _T1_TI_MS[1]:
        return Contrast("t1", "attributes", f"T1 weighted by inversion: {timing}")
    if spin_echo:
        weighted = repetition <= 1100 and not inversion
        return Contrast("t1" if weighted else None, "attributes", f"{'T1' if weighted else 'proton density or other'} spin echo: {timing}")
    return _gradient_echo(header, timing)


def _is_fluid_attenuated(header: InstanceHeader) -> bool:
    long = (header.EchoTime or 0.0) >= 60 and (header.RepetitionTime or 0.0) >= 4000
    return long and _FLAIR_TI_MS[0] <= (header.InversionTime or 0.0) <= _FLAIR_TI_MS[1]


def _fluid_attenuated_or_t2(header: InstanceHeader, timing: str) -> Contrast:
    if _is_fluid_attenuated(header):
        return Contrast("flair", "attributes", f"fluid-attenuated inversion recovery: {timing}")
    if header.InversionTime:
        return Contrast(None, "attributes", f"inversion time does not null fluid: {timing}")
    if "IR" in header.ScanningSequence:
        return Contrast("flair", "attributes", f"inversion recovery with long echo and repetition: {timing}")
    if _FLAIR_WORDS.search(words_of(header)):
        return Contrast("flair", "description", f"long echo and repetition without inversion time, described as FLAIR: {timing}")
    return Contrast(None, "attributes", f"T2 weighted: {timing}")


def _gradient_echo(header: InstanceHeader, timing: str) -> Contrast:
    echo, repetition, flip = header.EchoTime or 0.0, header.RepetitionTime or 0.0, header.FlipAngle
    balanced = "SS" in header.SequenceVariant and "SP" not in header.SequenceVariant
    if echo > 12 or repetition > 3500 or balanced:
        return Contrast(None, "attributes", f"not T1 weighted gradient echo: {timing}")
    if repetition > 1000 and "MP" in header.SequenceVariant:
        return Contrast("t1", "attributes", f"magnetization-prepared gradient echo: {timing}")
    if repetition <= 500 and flip is not None:
        ernst = math.degrees(math.acos(math.exp(-repetition / _T1_OF_TISSUE_MS)))
        if flip >= 0.8 * ernst:
            return Contrast("t1", "attributes", f"spoiled gradient echo, flip {flip:g} degrees: {timing}")
        return Contrast(None, "attributes", f"flip {flip:g} degrees is too small for T1 weighting: {timing}")
    return _by_description(header, f"gradient echo of unclear weighting, {timing}")


def _by_description(header: InstanceHeader, why: str) -> Contrast:
    words = words_of(header)
    flair, t1 = bool(_FLAIR_WORDS.search(words)), bool(_T1_WORDS.search(words))
    if flair != t1 and not _OTHER_WORDS.search(words):
        return Contrast("flair" if flair else "t1", "description", f"{why}; taken from the description alone")
    return Contrast(None, "none", f"{why}, and the description does not decide")


def _is_spin_echo(header: InstanceHeader) -> bool | None:
    """Return the family of the sequence, None when the headers do not say."""
    pulse = str(header.extra.get("EchoPulseSequence", ""))
    if pulse in {"SPIN", "GRADIENT"}:
        return pulse == "SPIN"
    if "GR" in header.ScanningSequence:
        return False
    return True if "SE" in header.ScanningSequence else None


def _timing_words(header: InstanceHeader) -> str:
    named = (("TE", header.EchoTime), ("TR", header.RepetitionTime), ("TI", header.InversionTime))
    return ", ".join(f"{name} {value:.4g} ms" for name, value in named if value is not None)
