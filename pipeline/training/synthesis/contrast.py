"""Mean intensities of tissues for each kind of image. The one table of what is bright and what is dark."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.training.synthesis.fields import Dice

# Range of each tissue's mean, relative to the brightest normal brain tissue of that contrast.
# T1 is relative to white matter, FLAIR and T2 to grey matter.
RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "t1": {
        "white": (1.0, 1.0), "cortex": (0.58, 0.86), "deep": (0.66, 0.95), "csf": (0.06, 0.42),
        "fat": (0.9, 1.9), "muscle": (0.4, 0.8), "bone": (0.02, 0.18), "marrow": (0.45, 1.4),
        "mucosa": (0.4, 0.9), "eye": (0.1, 0.35), "vessel": (0.1, 1.5), "air": (0.0, 0.03),
    },
    "flair": {
        "white": (0.66, 0.95), "cortex": (1.0, 1.0), "deep": (0.86, 1.06), "csf": (0.05, 0.42),
        "fat": (0.4, 1.5), "muscle": (0.3, 0.75), "bone": (0.02, 0.18), "marrow": (0.25, 1.0),
        "mucosa": (0.7, 1.6), "eye": (0.05, 0.45), "vessel": (0.1, 0.9), "air": (0.0, 0.03),
    },
    "t2": {
        "white": (0.45, 0.8), "cortex": (1.0, 1.0), "deep": (0.7, 1.0), "csf": (1.2, 2.6),
        "fat": (0.5, 1.6), "muscle": (0.2, 0.6), "bone": (0.02, 0.18), "marrow": (0.3, 1.2),
        "mucosa": (1.0, 2.0), "eye": (1.2, 2.6), "vessel": (0.02, 0.8), "air": (0.0, 0.03),
    },
}  # fmt: skip

KINDS = tuple(RANGES)
CLINICAL_FLAIR = RANGES["flair"] | {"white": (0.82, 1.04), "deep": (0.9, 1.08), "csf": (0.03, 0.36)}
"""Grey and white matter as close, and fluid as dark.

As in 1,037 clinical FLAIRs (cortex to white matter 1.07, ventricle to white matter 0.22).
"""


@dataclass(frozen=True)
class Contrast:
    """One image's tissue means.

    Attributes
    ----------
    kind
        "t1", "flair" or "t2": how lesions look in it.
    means
        Tissue name to mean intensity.
    """

    kind: str
    means: dict[str, float]


def draw_contrast(kind: str, dice: Dice, *, wild: float = 0.15, clinical: bool = False) -> Contrast:
    """Draw tissue means; with probability `wild` any tissue may have any brightness (air stays dark)."""
    ranges = CLINICAL_FLAIR if clinical and kind == "flair" else RANGES[kind]
    if dice.chance(wild):
        return Contrast(kind, {name: dice.uniform(0.05, 1.0) if name != "air" else 0.01 for name in ranges})
    return Contrast(kind, {name: dice.uniform(*span) for name, span in ranges.items()})
