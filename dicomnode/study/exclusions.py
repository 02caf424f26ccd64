"""What a series is when it is neither T1 nor FLAIR, whatever its timing says.

Maps, phase, colour, localizers, other body parts.
"""

from __future__ import annotations

import re

from dicomnode.records import IndexedInstance, InstanceHeader, Series
from dicomnode.study.checks import is_mosaic
from dicomnode.study.classes import MR_STORAGE
from dicomnode.study.names import Names, names_of
from dicomnode.study.stacks import is_not_magnitude
from dicomnode.study.variants import dixon_image, image_types, is_uniform
from dicomnode.study.weighting import Certainty, read_weighting
from dicomnode.study.words import concepts_of, normalise

Exclusion = tuple[str, str]
"""Reason code and sentence."""

_COLOR_MR = "1.2.840.10008.5.1.4.1.1.4.3"

# Values of Image Type and Frame Type (PS3.3 C.8.3.1.1.1, C.8.13.3.1.1, and vendors' own) that name a map or a
# projection.
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
        "QSM",
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
        "R2*",
        "QUANT",
        "SPECTROSCOPY",
        "FLOW_ENCODED",
        "VELOCITY",
        "VELOCITY_MAP",
        "MPR_CURVED",
        "PCA",
        "PC",
        "M_PCA",
        "TOF",
        "ANGIO",
        "PSIR",
        "T1RHO",
    ]
)
_MAP_PHRASES = (
    "T1 MAP",
    "T2 MAP",
    "T2* MAP",
    "R2 MAP",
    "PHASE MAP",
    "PROJECTION IMAGE",
    "SCREEN SAVE",
    "SECONDARY CAPTURE",
    "PHASE CONTRAST",
)
_OTHER_CONTRASTS = frozenset(
    [
        "DIFFUSION",
        "PERFUSION",
        "FLOW_ENCODED",
        "TAGGING",
        "TEMPERATURE",
        "SPECTROSCOPY",
        "TIME_OF_FLIGHT",
        "TOF",
        "STIR",
        "T2_STAR",
        "PROTON_DENSITY",
    ]
)

# A part that cannot be meant when a head is imaged (PS3.16 Annex L); "HEADNECK" and the like contain HEAD and
# pass.
_HEAD_PARTS = re.compile(r"HEAD|BRAIN|SKULL|CRAN|NEURO|CEREB|WHOLE|ORBIT|FACE|PITUIT|IAC|TEMPORAL")
_OTHER_PARTS = re.compile(
    r"KNEE|SPINE|NECK|CHEST|THORAX|ABDOMEN|PELVIS|HIP|SHOULDER|ELBOW|WRIST|HAND|FINGER|ANKLE|FOOT|TOE|LEG|"
    r"THIGH|CALF|FEMUR|TIBIA|ARM\b|FOREARM|HUMERUS|HEART|CARDIAC|BREAST|PROSTATE|LIVER|KIDNEY|EXTREMITY|"
    r"UTERUS|BLADDER|AORTA|LUMBAR|THORACIC|CERVICAL|SACRUM|PHANTOM"
)
_EPI_NAME = re.compile(r"^\*?ep(fid|_?se|2d|_b|i|_)", re.IGNORECASE)
# Vendors' names of sequences that are neither: balanced and unspoiled steady states, flow, susceptibility,
# several echoes.
_OTHER_SEQUENCES: tuple[tuple[re.Pattern[str], Exclusion], ...] = (
    (
        re.compile(r"^\*?(fi[23]d|tof|3dtof|2dtof)|_v\d+(in|through)?$|^\*?pc[23]?d", re.IGNORECASE),
        ("angiography", "by its sequence name an angiography"),
    ),
    (
        re.compile(r"^\*?(swi|qfl|swan|me2d|medic|qsm)", re.IGNORECASE),
        ("other-contrast", "by its sequence name susceptibility-weighted"),
    ),
    (
        re.compile(r"^\*?(tfi|ci3d|de3d|fiesta|ssfp|trufi)", re.IGNORECASE),
        ("other-contrast", "by its sequence name a steady state that is no T1"),
    ),
    (
        re.compile(r"^\*?(fm2d|rfmap|fieldmap)", re.IGNORECASE),
        ("calibration", "by its sequence name a field map"),
    ),
)
_EXCLUDING_CONCEPTS: tuple[tuple[str, Exclusion], ...] = (
    ("localizer", ("localizer", "a localizer")),
    ("calibration", ("calibration", "described as a coil calibration or a field map")),
    ("map", ("derived-map", "described as a map")),
    ("subtraction", ("derived-map", "described as a subtraction")),
    (
        "other inversion",
        (
            "other-contrast",
            (
                "described as another inversion recovery (DIR, STIR, PSIR, FGATIR or an inversion "
                "image of MP2RAGE)"
            ),
        ),
    ),
    ("balanced", ("other-contrast", "described as a balanced steady state")),
    ("spectroscopy", ("other-contrast", "described as spectroscopy")),
    ("angiography", ("angiography", "described as an angiography or venography")),
    ("susceptibility", ("other-contrast", "described as susceptibility or T2* weighted")),
    ("diffusion", ("other-contrast", "described as diffusion")),
    ("perfusion", ("other-contrast", "described as perfusion or dynamic")),
    ("magnetisation transfer", ("other-contrast", "described as magnetisation transfer")),
    ("functional", ("other-contrast", "described as functional or echo-planar")),
)


def find_exclusion(series: Series, names: Names | None = None) -> Exclusion | None:
    """Return why a series cannot be a T1 or FLAIR volume of a head; None when nothing speaks against it.

    Parameters
    ----------
    names
        The names that are evidence about the series; None when it is looked at alone.
    """
    header = series.instances[0].header
    names = names_of(header) if names is None else names
    return (
        find_hard_exclusion(series)
        or _by_image_type(series, names)
        or _by_sequence(header)
        or _by_names(header, names)
        or _wrong_part(header, names)
    )


def find_hard_exclusion(series: Series) -> Exclusion | None:
    """Return what not even a site's rule can overrule: not MR, colour, mosaic."""
    header = series.instances[0].header
    if header.Modality not in {"MR", ""} or header.SOPClassUID not in MR_STORAGE:
        modality = header.Modality[:16] if header.Modality.isalnum() else "unknown"
        return ("wrong-modality", f"not an MR image (modality {modality})")
    if header.SOPClassUID == _COLOR_MR or int(header.extra.get("SamplesPerPixel", 1)) > 1:
        return ("colour-image", "a colour image")
    if is_mosaic(series):
        return ("mosaic-not-supported", "a Siemens mosaic, which is not supported")
    return None


def is_excluded_by_attributes(header: InstanceHeader) -> bool:
    """Return whether an instance alone, whatever names and neighbours say, shows another kind of image.

    Not MR, colour, a mosaic, a localizer, a map, echo-planar, diffusion, an angiography.
    """
    series = Series(header.SeriesInstanceUID, (IndexedInstance("", 0.0, header),))
    types = image_types(header)
    return (
        find_hard_exclusion(series) is not None
        or bool(types & (_MAPS | {"LOCALIZER"}))
        or _by_sequence(header) is not None
    )


def _by_image_type(series: Series, names: Names) -> Exclusion | None:
    header = series.instances[0].header
    types = image_types(header)
    if "LOCALIZER" in types:
        return ("localizer", "a localizer")
    if types & _MAPS or any(phrase in " ".join(header.ImageType) for phrase in _MAP_PHRASES):
        return (
            "derived-map",
            f"a map or projection ({', '.join(sorted(types & _MAPS)) or 'by its image type'})",
        )
    if all(is_not_magnitude(instance.header) for instance in series.instances):
        return ("not-magnitude", "a phase, real or imaginary image")
    image = dixon_image(header, names.all_concepts, normalise(names.description or names.protocol))
    if image in {"fat", "opposed phase"}:
        return ("other-contrast", f"the {image} image of a Dixon acquisition")
    return None


def _by_sequence(header: InstanceHeader) -> Exclusion | None:
    if header.AcquisitionContrast in _OTHER_CONTRASTS or float(header.extra.get("DiffusionBValue") or 0) > 0:
        return ("other-contrast", f"another contrast ({header.AcquisitionContrast or 'diffusion'})")
    sequences = (header.SequenceName, str(header.extra.get("PulseSequenceName", "")))
    planar = header.extra.get("EchoPlanarPulseSequence") == "YES" or "EP" in header.ScanningSequence
    if planar or any(_EPI_NAME.match(sequence) for sequence in sequences):
        return ("echo-planar", "an echo-planar series")
    flags = {header.extra.get("TimeOfFlightContrast"), header.extra.get("PhaseContrast")}
    if header.extra.get("AngioFlag") == "Y" or "YES" in flags or {"TOF", "PC"} & set(header.SequenceVariant):
        return ("angiography", "an angiography")
    for pattern, exclusion in _OTHER_SEQUENCES:
        if any(pattern.search(sequence) for sequence in sequences):
            return exclusion
    return None


def _by_names(header: InstanceHeader, names: Names) -> Exclusion | None:
    """Return what the names say.

    A protocol's name counts only where description and physics have not decided already.
    """
    described = concepts_of(names.description)
    decided = bool(described & {"t1", "flair"}) and read_weighting(header).certainty >= Certainty.LIKELY
    concepts = described if decided else names.all_concepts
    if is_uniform(header, names.all_concepts):
        concepts -= {"other inversion"}
    return next((exclusion for concept, exclusion in _EXCLUDING_CONCEPTS if concept in concepts), None)


def _wrong_part(header: InstanceHeader, names: Names) -> Exclusion | None:
    examined = header.BodyPartExamined
    examined_concepts = concepts_of(examined)
    is_head = bool(_HEAD_PARTS.search(examined)) or "head" in examined_concepts
    if examined and not is_head and (_OTHER_PARTS.search(examined) or "other part" in examined_concepts):
        return ("wrong-body-part", f"Body Part Examined is {examined[:16]}, not the head")
    if "other part" in names.concepts and "head" not in names.all_concepts:
        if is_head:
            return (
                "wrong-body-part",
                f"described as another body part, which contradicts Body Part Examined ({examined[:16]})",
            )
        return (
            "wrong-body-part",
            "described as another body part, and Body Part Examined does not name the head",
        )
    return None
