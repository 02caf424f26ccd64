"""What the physics of a sequence says about its contrast; no words are read here.

Echo, repetition and inversion time, flip angle, sequence family and variant are weighed together. The limits
hold from 0.06 T to 7 T: where a limit depends on relaxation, it is written as the relaxation's formula, not
as a number of one scanner. Sources: PS3.3 C.8.3.1 and C.8.13.4; Bernstein, King, Zhou, Handbook of MRI Pulse
Sequences (2004), chapters 14 (gradient echo, Ernst angle), 14.2 and 16 (inversion recovery); Marques et al.,
NeuroImage 49 (2010) for MP2RAGE; Sudhyadhom et al., NeuroImage 47 (2009) for FGATIR; Sheth et al., JAMA
Neurology 78 (2021) for 0.064 T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from dicomnode.records import InstanceHeader, Role

_T1_OF_FLUID_MS = 4300.0
_T1_OF_TISSUE_MS = 1000.0
_LOW_FIELD_T = 0.2
# Inversion time over the one that nulls fluid; long echo trains and low field shorten it, double inversion
# lies above.
_FLUID_NULLED = (0.68, 1.27)
_MAGNETISATION_TRANSFER = ("MTC", "MT", "MT_GEMS", "MTON")
_FLOW_COMPENSATION = (
    "FC",
    "FC_SLICE_AX_GEMS",
    "FC_FREQ_AX_GEMS",
    "FC_SLICE",
    "FC_FREQ",
    "FLOWCOMP",
    "GMR",
    "TONE",
    "RAMP_IS_GEMS",
    "RAMP",
)


class Certainty(IntEnum):
    """How far the physics decides.

    It says nothing, leaves two readings open, makes one likely, or leaves no other.
    """

    SILENT = 0
    OPEN = 1
    LIKELY = 2
    DECISIVE = 3


@dataclass(frozen=True)
class Weighting:
    """The reading of a sequence.

    The role that it can fill (None: neither), its kind, how sure, and why in a sentence.
    """

    role: Role | None
    kind: str
    certainty: Certainty
    reason: str


def read_weighting(header: InstanceHeader) -> Weighting:
    """Return what the timing, the family and the variant of a sequence say.

    Kind "unknown" where timing is absent.
    """
    if not header.EchoTime or not header.RepetitionTime:
        return Weighting(None, "unknown", Certainty.SILENT, "no sequence timing in the headers")
    special = _steady_state(header) or _flow(header)
    if special is not None:
        return special
    spin = is_spin_echo(header)
    if spin is not False and header.EchoTime >= 60 and header.RepetitionTime >= 3000:
        return _long_echo(header)
    if header.EchoTime > 35:
        return _none("T2", "T2 or T2* weighted", header)
    if header.InversionTime and header.InversionTime > 0:
        gradient = spin is False or (
            spin is None and (header.RepetitionTime < 100 or (header.FlipAngle or 90) <= 30)
        )
        return _inverted_gradient_echo(header) if gradient else _inverted_spin_echo(header)
    return _spin_echo(header) if spin else _gradient_echo(header)


def is_spin_echo(header: InstanceHeader) -> bool | None:
    """Return the family of the sequence, None when the headers do not say."""
    pulse = header.extra.get("EchoPulseSequence")
    if pulse in {"SPIN", "GRADIENT"}:
        return bool(pulse == "SPIN")
    families = {code for code in header.ScanningSequence if code in {"SE", "GR"}}
    if len(families) == 1:
        return families == {"SE"}
    # Philips writes the family into Image Type, and "IR" alone as the Scanning Sequence of a FLAIR.
    for code in header.ImageType:
        if code in {"M_SE", "M_IR", "M_FFE"}:
            return code != "M_FFE"
    return None


def timing_of(header: InstanceHeader) -> str:
    """Return echo, repetition and inversion time in words."""
    timing = (("TE", header.EchoTime), ("TR", header.RepetitionTime), ("TI", header.InversionTime))
    return ", ".join(f"{name} {value:.4g} ms" for name, value in timing if value is not None)


def has_magnetisation_transfer(header: InstanceHeader) -> bool:
    """Return whether off-resonance pulses lower the signal of tissue.

    Sequence Variant then is MTC (PS3.3 C.8.3.1).
    """
    codes = {*header.SequenceVariant, *header.extra.get("ScanOptions", ())}
    return bool(codes & set(_MAGNETISATION_TRANSFER)) or header.extra.get("MagnetizationTransfer") in {
        "ON_RESONANCE",
        "OFF_RESONANCE",
    }


def fluid_null_ms(RepetitionTime: float) -> float:
    """Return the inversion time in ms that nulls fluid at a repetition time.

    It is T1 ln(2 / (1 + exp(-TR / T1))).
    """
    return _T1_OF_FLUID_MS * math.log(2 / (1 + math.exp(-RepetitionTime / _T1_OF_FLUID_MS)))


def ernst_angle(RepetitionTime: float) -> float:
    """Return the flip angle in degrees of the strongest spoiled signal of tissue.

    Above it an image is T1-weighted.
    """
    return math.degrees(math.acos(math.exp(-RepetitionTime / _T1_OF_TISSUE_MS)))


def _role(
    role: Role, words: str, header: InstanceHeader, certainty: Certainty = Certainty.DECISIVE
) -> Weighting:
    return Weighting(role, role, certainty, f"{words}: {timing_of(header)}")


def _none(
    kind: str, words: str, header: InstanceHeader, certainty: Certainty = Certainty.DECISIVE
) -> Weighting:
    return Weighting(None, kind, certainty, f"{words}: {timing_of(header)}")


def _long_echo(header: InstanceHeader) -> Weighting:
    """Read a refocused sequence with a long echo.

    Fluid-attenuated when fluid is nulled, else T2 or another inversion.
    """
    inversion, repetition = header.InversionTime or 0.0, header.RepetitionTime or 0.0
    if len(header.extra.get("InversionTimes", ())) > 1:
        return _none("double inversion", "two inversions in one repetition", header)
    lowest, highest = (factor * fluid_null_ms(repetition) for factor in _FLUID_NULLED)
    if lowest <= inversion <= highest:
        return _role("flair", "fluid-attenuated inversion recovery", header)
    if inversion:
        return _none(
            "other inversion",
            f"inversion time does not null fluid ({fluid_null_ms(repetition):.0f} ms would)",
            header,
        )
    if repetition < 4000:
        return _none("T2", "T2 weighted", header)
    if (
        "IR" in header.ScanningSequence
        or header.extra.get("InversionRecovery") == "YES"
        or "M_IR" in header.ImageType
    ):
        return _role("flair", "inversion recovery with long echo and repetition", header, Certainty.LIKELY)
    return _none("T2", "T2 weighted, no inversion time", header, Certainty.OPEN)


def _inverted_gradient_echo(header: InstanceHeader) -> Weighting:
    """Read an inversion-prepared gradient echo.

    Some vendors give the distance of excitations as repetition time, others of inversions.
    """
    inversion, repetition = header.InversionTime or 0.0, header.RepetitionTime or 0.0
    if inversion > 1450:
        return _none(
            "second inversion image", "inversion time of a second MP2RAGE image or of no T1 weighting", header
        )
    if repetition >= 3900:
        return _none(
            "first inversion image", "repetition time of an MP2RAGE, whose inversion images are no T1", header
        )
    if repetition >= 1500 and inversion < 540:
        return _none("white matter nulled", "inversion time that nulls white matter (FGATIR)", header)
    if inversion < 200 or (repetition < 1500 and (header.EchoTime or 0) > 12):
        return _none("other inversion", "inversion time of no T1 weighting", header)
    return _role("t1", "T1 weighted by inversion", header)


def _inverted_spin_echo(header: InstanceHeader) -> Weighting:
    inversion, repetition = header.InversionTime or 0.0, header.RepetitionTime or 0.0
    if _is_low_field(header) and 150 <= inversion <= 700 and 600 <= repetition <= 1950:
        return _role("t1", "T1 weighted by inversion", header)
    if repetition < 1200:
        certainty = Certainty.LIKELY if inversion >= 300 else Certainty.OPEN
        return _role("t1", "T1 weighted spin echo with inversion", header, certainty)
    if inversion < 300:
        return _none("short inversion", "inversion time that nulls fat (STIR)", header)
    if inversion < 560:
        return _none(
            "other inversion",
            "inversion time of a phase-sensitive or tissue-nulled image, not of a T1",
            header,
        )
    if inversion <= 1450 and repetition <= 3900:
        return _role("t1", "T1 weighted by inversion", header)
    return _none("other inversion", "inversion recovery with short echo that is neither T1 nor FLAIR", header)


def _spin_echo(header: InstanceHeader) -> Weighting:
    if (header.RepetitionTime or 0.0) <= 1100:
        return _role("t1", "T1 spin echo", header)
    if (
        _is_low_field(header)
        or "IR" in header.ScanningSequence
        or header.extra.get("InversionRecovery") == "YES"
    ):
        return _none(
            "unclear inversion",
            "inversion recovery with short echo, no inversion time",
            header,
            Certainty.OPEN,
        )
    return _none("proton density", "proton density or other spin echo", header)


def _steady_state(header: InstanceHeader) -> Weighting | None:
    """Return a balanced steady state.

    Named so, or with an echo in the middle of a short repetition and a large flip angle.

    Sequence Variant SS without SP is no proof: Philips writes it for spoiled T1-FFE.
    """
    pulse = header.extra.get("SteadyStatePulseSequence")
    if pulse in {"FREE_PRECESSION", "TRANSVERSE", "TIME_REVERSED"}:
        return _none("balanced", "steady state that is not spoiled", header)
    echo, repetition, flip = header.EchoTime or 0.0, header.RepetitionTime or 0.0, header.FlipAngle or 0.0
    if is_spin_echo(header) is not False or header.InversionTime or repetition > 15:
        return None
    middle = 0.35 <= echo / repetition <= 0.65
    spoiled = "SP" in header.SequenceVariant or pulse == "LONGITUDINAL"
    if flip >= 28 and ((middle and not spoiled) or repetition < 7):
        return _none(
            "balanced",
            f"balanced steady state or angiogram after contrast agent, flip {flip:g} degrees",
            header,
        )
    return None


def _flow(header: InstanceHeader) -> Weighting | None:
    """Return an inflow angiogram or an image with magnetisation transfer.

    Gradient echoes with the timing of a T1.
    """
    if is_spin_echo(header) is True and has_magnetisation_transfer(header) and (header.EchoTime or 0) <= 35:
        return _none(
            "magnetisation transfer", "magnetisation transfer pulses change the T1 weighting", header
        )
    if is_spin_echo(header) is not False:
        return None
    if has_magnetisation_transfer(header):
        return _none(
            "magnetisation transfer", "gradient echo with magnetisation transfer, as in angiograms", header
        )
    options = {str(option) for option in header.extra.get("ScanOptions", ())}
    compensated = bool(options & set(_FLOW_COMPENSATION)) or header.extra.get("FlowCompensation") not in {
        None,
        "NONE",
    }
    inflow = (
        10 <= (header.RepetitionTime or 0) <= 60 and (header.EchoTime or 0) <= 12 and not header.InversionTime
    )
    if compensated and inflow:
        return _none(
            "inflow", "flow-compensated gradient echo with short repetition, as in inflow angiograms", header
        )
    return None


def _gradient_echo(header: InstanceHeader) -> Weighting:
    """Read a gradient echo without inversion time by the flip angle that the repetition time asks for."""
    echo, repetition, flip = header.EchoTime or 0.0, header.RepetitionTime or 0.0, header.FlipAngle
    if echo > 12 or repetition > 3900:
        return _none("T2*", "not T1 weighted gradient echo", header)
    if repetition > 500:
        return _slow_gradient_echo(header)
    if header.MRAcquisitionType == "2D" and repetition < 60:
        return _none(
            "fast 2D gradient echo",
            "two-dimensional gradient echo with short repetition, as in localizers and inflow angiograms",
            header,
        )
    if flip is None:
        return _none(
            "unclear gradient echo",
            "gradient echo of unclear weighting, no flip angle",
            header,
            Certainty.OPEN,
        )
    if flip < 0.8 * ernst_angle(repetition):
        return _none("low flip", f"flip {flip:g} degrees is too small for T1 weighting", header)
    alternative = _other_reading(header, repetition, flip)
    words = f"spoiled gradient echo, flip {flip:g} degrees"
    return _role("t1", words + alternative, header, Certainty.OPEN if alternative else Certainty.LIKELY)


def _other_reading(header: InstanceHeader, repetition: float, flip: float) -> str:
    """Return what a spoiled gradient echo with the timing of a T1 may be as well.

    "" when nothing else has that timing.
    """
    if 15 <= repetition < 60 and flip < 28:
        return ", T1 or an inflow or susceptibility image"
    if 10 <= repetition < 15 and flip < 1.3 * ernst_angle(repetition) and "MP" not in header.SequenceVariant:
        return ", T1 or a phase-contrast image"
    return ", T1 or a fast scout" if repetition < 4 else ""


def _slow_gradient_echo(header: InstanceHeader) -> Weighting:
    repetition = header.RepetitionTime or 0.0
    inverted = "IR" in header.ScanningSequence or header.extra.get("InversionRecovery") == "YES"
    if repetition > 1000 and (inverted or "MP" in header.SequenceVariant):
        return _role("t1", "magnetization-prepared gradient echo", header, Certainty.LIKELY)
    return _none("unclear gradient echo", "gradient echo of unclear weighting", header, Certainty.OPEN)


def _is_low_field(header: InstanceHeader) -> bool:
    return 0 < (header.MagneticFieldStrength or 0.0) < _LOW_FIELD_T
