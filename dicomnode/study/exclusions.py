"""What a series is when it is neither T1 nor FLAIR, whatever its timing says: maps, phase, colour, localizers, other body parts."""

from __future__ import annotations

import re

from dicomnode.records import InstanceHeader, Series
from dicomnode.study.checks import is_mosaic
from dicomnode.study.classes import MR_STORAGE
from dicomnode.study.contrast import words_of
from dicomnode.study.stacks import is_not_magnitude

Exclusion = tuple[str, str]
"""Reason code and sentence."""

_COLOR_MR = "1.2.840.10008.5.1.4.1.1.4.3"

# Values of Image Type and Frame Type (PS3.3 C.8.3.1.1.1, C.8.13.3.1.1, and vendors' own) that name a map or a projection.
_MAPS = frozenset(
    [
        "ADC",
        "EADC",
        "FA",
        "RA",
        "TRACEW",
        "TRACE",
        "EXP",
        "TENSOR",
        "TENSOR_B0",
        "DIFFUSION",
        "B0",
        "CBF",
        "CBV",
        "MTT",
        "TTP",
        "TMAX",
        "RCBV",
        "RCBF",
        "RMTT",
        "PERFUSION",
        "ASL",
        "SUBTRACTION",
        "SUBTRACT",
        "MIP",
        "MINIP",
        "MNIP",
        "PROJECTION",
        "SWI",
        "FIELD_MAP",
        "FIELDMAP",
        "B0_MAP",
        "FMRI",
        "T1_MAP",
        "T2_MAP",
        "T2_STAR",
        "T2STAR",
        "R2",
        "R2_STAR",
        "QUANT",
        "SPECTROSCOPY",
        "FLOW_ENCODED",
        "VELOCITY",
        "MPR_CURVED",
    ]
)
_MAP_PHRASES = ("T1 MAP", "T2 MAP", "T2* MAP", "R2 MAP", "PHASE MAP", "PROJECTION IMAGE", "SCREEN SAVE", "SECONDARY CAPTURE")
_OTHER_CONTRASTS = frozenset({"DIFFUSION", "PERFUSION", "FLOW_ENCODED", "TAGGING", "TEMPERATURE", "SPECTROSCOPY", "TIME_OF_FLIGHT"})

# A part that cannot be meant when a head is imaged (PS3.16 Annex L); "HEADNECK" and the like contain HEAD and pass.
_HEAD_PARTS = re.compile(r"HEAD|BRAIN|SKULL|CRAN|NEURO|CEREB|WHOLE|ORBIT|FACE|PITUIT|IAC|TEMPORAL")
_OTHER_PARTS = re.compile(
    r"KNEE|SPINE|NECK|CHEST|THORAX|ABDOMEN|PELVIS|HIP|SHOULDER|ELBOW|WRIST|HAND|FINGER|ANKLE|FOOT|TOE|LEG|THIGH|CALF|FEMUR|TIBIA|ARM\b|"
    r"FOREARM|HUMERUS|HEART|CARDIAC|BREAST|PROSTATE|LIVER|KIDNEY|EXTREMITY|UTERUS|BLADDER|AORTA|LUMBAR|THORACIC|CERVICAL|SACRUM|PHANTOM"
)
_PART_WORDS = re.compile(r"\b(knee|spine|shoulder|ankle|hip|pelvis|prostate|liver|breast|cardiac|wrist|elbow|lumbar|phantom)\b")
_LOCALIZER_WORDS = re.compile(r"locali[sz]er|scout\b|\bsurvey|3 ?plane|smart ?brain")
# Coil calibrations and field maps have the timing of a T1; "ASSET" alone is an acceleration and stands in names of true images too.
_CALIBRATION_WORDS = re.compile(r"calibration|\bcal\b|\bref ?(scan|head)\b|\b(sense|clear) ref\b|field ?map|\bb[01] ?map|\bshim\b")
_ANGIO_WORDS = re.compile(r"\btof\b|angio|\bmra\b")
_EPI_NAME = re.compile(r"^\*?ep(fid|_?se|2d|_b|i)", re.IGNORECASE)
_OTHER_WORDS = re.compile(r"\bswi\b|\bdwi\b|\badc\b|perfusion|\basl\b|\bdti\b|\bmip\b|\binv ?[12]\b")


def find_exclusion(series: Series) -> Exclusion | None:
    """Return why a series cannot be a T1 or FLAIR volume of a head; None when nothing speaks against it."""
    return find_hard_exclusion(series) or _not_anatomical(series) or _wrong_part(series.instances[0].header)


def find_hard_exclusion(series: Series) -> Exclusion | None:
    """Return what not even a site's rule can overrule: not MR, colour, mosaic."""
    header = series.instances[0].header
    if header.Modality not in {"MR", ""} or header.SOPClassUID not in MR_STORAGE:
        what = header.Modality[:16] if header.Modality.isalnum() else "unknown"
        return ("wrong-modality", f"not an MR image (modality {what})")
    if header.SOPClassUID == _COLOR_MR or int(header.extra.get("SamplesPerPixel", 1)) > 1:
        return ("colour-image", "a colour image")
    if is_mosaic(series):
        return ("mosaic-not-supported", "a Siemens mosaic, which is not supported")
    return None


def is_derived(header: InstanceHeader) -> bool:
    """Return whether the images were computed from others (Image Type value 1)."""
    return bool(header.ImageType) and header.ImageType[0] == "DERIVED"


def _not_anatomical(series: Series) -> Exclusion | None:
    header = series.instances[0].header
    types = _types(header)
    if "LOCALIZER" in types or _LOCALIZER_WORDS.search(words_of(header)):
        return ("localizer", "a localizer")
    if _CALIBRATION_WORDS.search(words_of(header)):
        return ("calibration", "described as a coil calibration or a field map")
    if types & _MAPS or any(phrase in " ".join(sorted(types)) for phrase in _MAP_PHRASES):
        return ("derived-map", f"a map or projection ({', '.join(sorted(types & _MAPS)) or 'by its image type'})")
    if all(is_not_magnitude(instance.header) for instance in series.instances):
        return ("not-magnitude", "a phase, real or imaginary image")
    return _special_sequence(header)


def _special_sequence(header: InstanceHeader) -> Exclusion | None:
    if header.AcquisitionContrast in _OTHER_CONTRASTS or float(header.extra.get("DiffusionBValue") or 0) > 0:
        return ("other-contrast", f"another contrast ({header.AcquisitionContrast or 'diffusion'})")
    planar = header.extra.get("EchoPlanarPulseSequence") == "YES" or "EP" in header.ScanningSequence
    if planar or _EPI_NAME.match(header.SequenceName):
        return ("echo-planar", "an echo-planar series")
    angio = header.extra.get("AngioFlag") == "Y" or header.extra.get("TimeOfFlightContrast") == "YES" or "TOF" in header.SequenceVariant
    if angio or _ANGIO_WORDS.search(words_of(header)):
        return ("angiography", "an angiography")
    if _OTHER_WORDS.search(words_of(header)):
        return ("other-contrast", "described as susceptibility, diffusion, perfusion or a part of MP2RAGE")
    return None


def _wrong_part(header: InstanceHeader) -> Exclusion | None:
    part = header.BodyPartExamined
    if part and not _HEAD_PARTS.search(part) and _OTHER_PARTS.search(part):
        return ("wrong-body-part", f"Body Part Examined is {part[:16]}, not the head")
    if not part and _PART_WORDS.search(words_of(header)):
        return ("wrong-body-part", "described as another body part, and Body Part Examined is absent")
    return None


def _types(header: InstanceHeader) -> set[str]:
    types = {value.strip() for value in header.ImageType}
    for frame_type in header.extra.get("FrameTypes", ()):
        types |= {value.strip() for value in str(frame_type).split("\\")}
    return types
