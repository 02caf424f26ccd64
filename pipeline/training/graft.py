"""Another person's lesion in a slice: the lesion with some of its surroundings, carved out and pasted.

The method is CarveMix (Zhang et al., NeuroImage 2023, arXiv 2108.06883), which draws the size of what is
carved from the distances to the outline; the soft rim and the matched brightness are our own.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

LARGEST_RIM_PX = 10.0
SOFT_RIM_PX = 2.0
BRIGHTNESS_CHANGE = (0.75, 1.35)
"""How far a pasted piece may be dimmed or brightened until its rim fits."""


def graft_lesion(
    image: Tensor, mask: Tensor, donor: Tensor, outline: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Paste the lesion of `donor` with a rim of random width into `image`.

    Parameters
    ----------
    image, donor
        (row, column) FLAIR in multiples of the brain's median, 0 outside the brain.
    mask, outline
        (row, column), 0 or 1: the lesions of the two.

    Returns
    -------
    tuple
        Image and mask. Nothing is pasted outside the brain of `image` or from outside that of `donor`.
    """
    brain = (image > 0) & (donor > 0)
    if not bool((brain & (outline > 0)).any()):
        return image, mask
    distance = torch.from_numpy(ndimage.distance_transform_edt(outline.numpy() == 0).astype(np.float32))
    rim_px = LARGEST_RIM_PX * float(torch.rand((), generator=generator)) ** 2
    # 1 in the lesion and its rim, then falling to 0.
    share = (1.0 + (rim_px - distance) / SOFT_RIM_PX).clamp(0.0, 1.0) * brain
    ring = (distance > 0) & (distance <= rim_px + 2 * SOFT_RIM_PX) & brain & (mask == 0)
    factor = 1.0
    if int(ring.sum()) >= 20:
        factor = float(image[ring].median() / donor[ring].median().clamp_min(1e-3))
        factor = min(max(factor, BRIGHTNESS_CHANGE[0]), BRIGHTNESS_CHANGE[1])
    pasted = (1.0 - share) * image + share * donor * factor
    # What the rim covers of the lesion that was there is covered.
    return pasted, torch.maximum(mask * (share < 0.5), outline * brain)
