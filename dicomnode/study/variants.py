"""Which image of one acquisition a series is.

The parts of MP2RAGE and Dixon, synthetic, reformatted, phase-sensitive images.

Image Type says it (PS3.3 C.8.3.1.1.1 and vendors' own values), else the names.
"""

from __future__ import annotations

from typing import Literal

from dicomnode.records import InstanceHeader

DixonImage = Literal["water", "fat", "in phase", "opposed phase", ""]

_UNIFORM_TYPES = frozenset({"UNI", "UNIFORM", "UNI-DEN", "UNI_DEN", "UNIDEN"})
_DIXON_TYPES: tuple[tuple[DixonImage, frozenset[str]], ...] = (
    ("fat", frozenset({"FAT", "F", "FAT_ONLY", "FATIMAGE"})),
    (
        "opposed phase",
        frozenset({"OPP_PHASE", "OUT_PHASE", "OPPOSED_PHASE", "OPP", "OP", "OUTPHASE", "OUT_OF_PHASE"}),
    ),
    ("in phase", frozenset({"IN_PHASE", "IP", "INPHASE", "IN"})),
    ("water", frozenset({"WATER", "W", "WATER_ONLY"})),
)
_DIXON_SUFFIXES: tuple[tuple[DixonImage, tuple[str, ...]], ...] = (
    ("fat", (" f ",)),
    ("opposed phase", (" op ", " opp ", " out ")),
    ("in phase", (" ip ", " in ")),
    ("water", (" w ",)),
)
_DIXON_CONCEPTS: tuple[tuple[DixonImage, str], ...] = (
    ("opposed phase", "opposed phase"),
    ("in phase", "in phase"),
    ("water", "water image"),
    ("fat", "fat image"),
)


def image_types(header: InstanceHeader) -> frozenset[str]:
    """Return the values of Image Type and of every Frame Type."""
    types = {value.strip() for value in header.ImageType}
    for frame_type in header.extra.get("FrameTypes", ()):
        types |= {value.strip() for value in str(frame_type).split("\\")}
    return frozenset(types)


def is_uniform(header: InstanceHeader, concepts: frozenset[str]) -> bool:
    """Return whether a series is the uniform (UNI) image of an MP2RAGE, denoised or not.

    Its T1 map and its inversion images do not count.
    """
    if concepts & {"map", "other inversion"} or "T1 MAP" in " ".join(sorted(image_types(header))).replace(
        "_", " "
    ):
        return False
    return bool(image_types(header) & _UNIFORM_TYPES) or "uniform" in concepts


def is_denoised(header: InstanceHeader, concepts: frozenset[str]) -> bool:
    """Return whether a uniform image has its background suppressed (UNI-DEN)."""
    return "denoised" in concepts or bool(
        image_types(header) & {"UNI-DEN", "UNI_DEN", "UNIDEN", "DEN", "DENOISED"}
    )


def dixon_image(header: InstanceHeader, concepts: frozenset[str], name: str) -> DixonImage:
    """Return which image of a Dixon acquisition a series is; `name` is its normalised description."""
    types = image_types(header)
    # The letters alone are common codes ("F", "IN"); the first two values of Image Type are never meant.
    named = types - set(header.ImageType[:2])
    for image, values in _DIXON_TYPES:
        if named & values:
            return image
    if "dixon" not in concepts and "DIXON" not in types:
        return ""
    for image, concept in _DIXON_CONCEPTS:
        if concept in concepts:
            return image
    for image, suffixes in _DIXON_SUFFIXES:
        if name.endswith(suffixes):
            return image
    return ""


def is_synthetic(header: InstanceHeader, concepts: frozenset[str]) -> bool:
    """Return whether an image was computed from a quantification (synthetic MR)."""
    by_maker = "SYNTHETIC" in str(header.extra.get("Manufacturer", ""))
    return by_maker or "synthetic" in concepts or any("SYNTH" in value for value in image_types(header))


def is_reformatted(header: InstanceHeader, concepts: frozenset[str]) -> bool:
    """Return whether the images were computed from others of the study by cutting them anew.

    Image Type says so: DERIVED, MPR.
    """
    if (
        is_uniform(header, concepts)
        or "DIXON" in image_types(header)
        or image_types(header) & {"WATER", "FAT", "IN_PHASE"}
    ):
        return False
    derived = bool(header.ImageType) and header.ImageType[0] == "DERIVED"
    return (
        derived or bool(image_types(header) & {"MPR", "REFORMATTED", "RESAMPLED"}) or "reformat" in concepts
    )
