"""Is this a head? One decision from several measured facts.

Docs/quality-gates.md has the figures that it was fitted on.

The brain extractor finds a "brain" in almost everything: cylinders, melons, knees. What it finds in a head
fits the template's outline without being stretched to one side, has detail, and has its detail where the
template has it. A large lesion spoils one of these, a phantom lacks several: so they are weighed together,
and none of them refuses alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.errors import BrainExtractionError
from pipeline.geometry import Affine
from pipeline.preprocess.extract_brain import Brain
from pipeline.preprocess.register import grid_around
from pipeline.preprocess.resample import sample_gaussian_linear, sample_linear
from pipeline.preprocess.template import MARGIN_MM, WORKING_SPACING_MM, TemplateFit, load_template
from pipeline.records import Array, Volume

BACKGROUND_VOXELS = 3.0
"""Standard deviation of the Gaussian whose result is taken for shading, about 10 mm: what is left is detail.
"""
BINS = 24
SMALLEST_CORE_VOXELS = 500
TEMPLATE_EDGE = 0.05
"""Of the template's median: below lies its background."""
# Fitted by logistic regression on 134 heads and 102 phantoms; both kinds count alike.
WEIGHTS = {"overlap": 39.54, "anatomy": 3.61, "detail": 6.28, "stretch": -3.03}
CONSTANT = -22.36
SMALLEST_SCORE = -0.3
"""Between the least head-like head (0.46) and the most head-like phantom (-1.00)."""
ANATOMY_RANGE = (0.002, 0.3)
DETAIL_RANGE = (0.005, 0.1)


@dataclass(frozen=True)
class HeadFacts:
    """What tells a head from what is none.

    Attributes
    ----------
    overlap
        Dice of the brain's outline and the template's after an affine registration.
    stretch
        Largest over smallest scale of that affine.
    anatomy
        0..1, correlation ratio: the share of the image's detail that the template's detail explains, whatever
        the contrast.
    detail
        Standard deviation of the detail over the brain's median.
    """

    overlap: float
    stretch: float
    anatomy: float
    detail: float

    @property
    def score(self) -> float:
        """Logarithm of the odds for a head."""
        return float(
            WEIGHTS["overlap"] * self.overlap
            + WEIGHTS["anatomy"] * np.log10(np.clip(self.anatomy, *ANATOMY_RANGE))
            + WEIGHTS["detail"] * np.log10(np.clip(self.detail, *DETAIL_RANGE))
            + WEIGHTS["stretch"] * np.log(max(self.stretch, 1.0))
            + CONSTANT
        )

    @property
    def is_head(self) -> bool:
        """Whether the facts together speak for a head."""
        return self.score >= SMALLEST_SCORE


def measure_head(image: Volume, brain: Brain, fit: TemplateFit) -> HeadFacts:
    """Measure a brain against the template that was fitted to it.

    Parameters
    ----------
    image, brain
        The reference image in axial canonical order, and its brain.
    """
    template = load_template()
    grid = grid_around(brain, WORKING_SPACING_MM, MARGIN_MM)
    link: Affine = fit.link
    # Image and template, both as the patient lies.
    signal, anatomy = sample_gaussian_linear(image, grid), sample_linear(template, grid, link)
    # The template fades out at its rim: what is darker than this is no brain.
    edge = TEMPLATE_EDGE * float(np.median(template.array[template.array > 0]))
    both = (sample_linear(brain.soft, grid) >= brain.threshold) & (anatomy > edge)
    # The rim is left out: there outlines differ, not tissue.
    core = ndimage.binary_erosion(both, iterations=2)
    # How unlike a sphere the affine makes a sphere.
    largest, smallest = fit.scales
    stretch = largest / max(smallest, 1e-3)
    median = float(np.median(signal[core])) if core.sum() >= SMALLEST_CORE_VOXELS else 0.0
    if median <= 0:
        return HeadFacts(fit.overlap, stretch, 0.0, 0.0)
    # Detail relative to the brain's signal, so that the scanner's gain cancels.
    detail = _take_detail(signal, both)[core] / median
    # How much of that the template's detail explains, dark or bright alike.
    share = explained_share(detail, _take_detail(anatomy, both)[core])
    return HeadFacts(fit.overlap, stretch, share, float(detail.std()))


def find_head_problem(facts: HeadFacts | None) -> BrainExtractionError | None:
    """Return why an image is refused as no head, with the figures; None for a head.

    `facts` is None where no template could be fitted.
    """
    if facts is None:
        return BrainExtractionError(
            (
                "the image does not look like a head: it cannot be laid on the brain template. Send "
                "a T1 or FLAIR of a head."
            ),
            code="not-a-head",
        )
    if facts.is_head:
        return None
    figures = (
        f"overlap with the brain template {facts.overlap:.2f}, stretched by {facts.stretch:.2f}, "
        f"detail {100 * facts.detail:.1f} %, of which the template explains {100 * facts.anatomy:.1f} %; "
        f"together {facts.score:.1f}, at least {SMALLEST_SCORE:g}"
    )
    return BrainExtractionError(
        f"the image does not look like a head ({figures}). Send a T1 or FLAIR of a head.", code="not-a-head"
    )


def explained_share(values: Array, reference: Array) -> float:
    """Return the correlation ratio (Pearson).

    Variance of the means of `values` in 24 equal bins of `reference`, over all variance.
    """
    # Ranks instead of values: the bins hold equally many voxels.
    bins = np.argsort(np.argsort(reference)) * BINS // len(reference)
    counts = np.bincount(bins, minlength=BINS)
    means = np.bincount(bins, values, minlength=BINS) / np.maximum(counts, 1)
    # Variance between the bins over all variance.
    total = float(((values - values.mean()) ** 2).sum())
    return float((counts * (means - values.mean()) ** 2).sum()) / total if total > 0 else 0.0


def _take_detail(image: Array, inside: npt.NDArray[np.bool_]) -> Array:
    """Return the image without its shading, which is averaged over the voxels inside alone."""
    weight = ndimage.gaussian_filter(inside.astype(np.float64), BACKGROUND_VOXELS)
    shading = ndimage.gaussian_filter(image * inside.astype(np.float64), BACKGROUND_VOXELS) / np.maximum(
        weight, 1e-3
    )
    detail: Array = image - shading
    return detail
