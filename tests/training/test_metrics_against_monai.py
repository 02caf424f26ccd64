"""Our figures against MONAI's, on blobs with holes, several pieces and unequal spacing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipeline.evaluate.case import score_case
from pipeline.records import Volume

pytestmark = [
    pytest.mark.train,
    # MONAI calls itself with an argument that it has deprecated.
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning"),
]


@pytest.mark.parametrize("seed", range(6))
def test_overlap_and_distances_are_those_of_monai(seed: int) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import (
        DiceMetric,
        MeanIoU,
        compute_average_surface_distance,
        compute_hausdorff_distance,
    )

    rng = np.random.default_rng(seed)
    shape, spacing = (24, 40, 32), tuple(rng.uniform(0.6, 4.0, 3).tolist())
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2.5)
    truth, prediction = (
        smooth > 0.03,
        smooth + ndimage.gaussian_filter(rng.normal(size=shape), 2.0) * 0.4 > 0.035,
    )
    affine = np.diag([*spacing, 1.0])

    ours = score_case(
        "case",
        Volume(prediction.astype(np.uint8), affine, "1.2"),
        Volume(truth.astype(np.uint8), affine, "1.2"),
    )

    y_pred, y = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, truth))
    assert ours.dice == pytest.approx(float(DiceMetric()(y_pred, y)), abs=1e-6)
    assert ours.jaccard == pytest.approx(float(MeanIoU()(y_pred, y)), abs=1e-6)
    average = compute_average_surface_distance(
        y_pred, y, include_background=True, symmetric=True, spacing=list(spacing)
    )
    hausdorff = compute_hausdorff_distance(
        y_pred, y, include_background=True, percentile=95, spacing=list(spacing)
    )
    assert ours.average_distance_mm == pytest.approx(float(average), rel=1e-4)
    assert ours.distance_95_mm == pytest.approx(float(hausdorff), rel=1e-4)
    assert 0.3 < ours.dice < 0.99
