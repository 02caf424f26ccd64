"""Pictures for a person to judge: slices in three directions with an outline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt


def draw_overlay(
    path: Path, image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], columns: int = 8
) -> None:
    """Draw axial slices and one row of sagittal and coronal ones, with the mask outlined.

    The image is (slice, row, column).
    """
    from matplotlib.figure import Figure

    rows = np.flatnonzero((image > 0).any(axis=(1, 2)))
    slice_numbers = np.linspace(rows[0], rows[-1], 2 * columns + 2)[1:-1].round().astype(int)
    top = float(np.quantile(image[image > 0], 0.995))
    figure = Figure(figsize=(1.9 * columns, 6.2), facecolor="black")
    axes = figure.subplots(3, columns)
    planes = [(image[z], mask[z]) for z in slice_numbers]
    half = columns // 2
    for x in np.linspace(0.2, 0.8, half):
        i = round(x * (image.shape[2] - 1))
        planes.append((image[::-1, :, i], mask[::-1, :, i]))
    for y in np.linspace(0.25, 0.75, columns - half):
        i = round(y * (image.shape[1] - 1))
        planes.append((image[::-1, i], mask[::-1, i]))
    for axis, (plane, outline) in zip(axes.ravel(), planes, strict=True):
        axis.imshow(plane, cmap="gray", vmin=0, vmax=top)
        if outline.any():
            axis.contour(outline.astype(float), [0.5], colors="red", linewidths=0.7)
        axis.axis("off")
    figure.tight_layout(pad=0.1)
    figure.savefig(path, dpi=70)
