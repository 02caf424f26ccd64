"""Several looks at one patch: what is averaged, and what share of them votes for a voxel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import BundleError
from pipeline.inference.passes import average_passes, mirrorings
from pipeline.plan import Recipe
from pipeline.records import PipelineResult, Volume
from pipeline.run import run_pipeline
from pipeline.segmenters.families import load_bundle, read_manifest
from tests.factories.onnx import known_lesion_bundle, lesion_manifest, write_manifest

RAMP = np.broadcast_to(np.arange(4, dtype=np.float32), (1, 2, 3, 4)) / 4


def test_every_combination_of_axes_is_looked_at_once() -> None:
    assert mirrorings([]) == [()]
    assert mirrorings([0, 2]) == [(), (0,), (2,), (0, 2)]


def test_the_mean_and_the_share_of_votes_of_mirrored_passes() -> None:
    """A network that answers with the column: mirrored, it answers with the column from the other side."""
    run = average_passes([lambda patch: RAMP], [2], lambda maps: maps, lambda maps: maps >= 0.5)

    maps = run(np.zeros((1, 2, 3, 4), np.float32))

    assert maps.shape == (2, 2, 3, 4)
    assert np.allclose(maps[0], 0.375)
    assert np.allclose(maps[1], 0.5)


def test_networks_vote_beside_each_other() -> None:
    run = average_passes(
        [lambda patch: RAMP, lambda patch: RAMP * 0], [], lambda maps: maps, lambda maps: maps >= 0.5
    )

    maps = run(np.zeros((1, 2, 3, 4), np.float32))

    assert maps[1, 0, 0].tolist() == [0.0, 0.0, 0.5, 0.5]


def test_a_network_that_answers_once_leaves_no_agreement(plain_result: PipelineResult) -> None:
    assert plain_result.agreement is None


def test_mirrored_passes_leave_an_agreement_on_the_reference_grid(
    flair: Volume, recipe: Recipe, plain_result: PipelineResult, tmp_path: Path
) -> None:
    known_lesion_bundle(tmp_path, window__mirror_axes=[2])
    mirrored = dataclasses.replace(recipe, lesion=load_bundle(tmp_path / "known-lesion" / "0.1.0"))

    result = run_pipeline({"flair": flair}, mirrored)

    # This network looks at single voxels, so that both passes say the same, to the bit.
    assert result.agreement is not None
    assert result.agreement.array.shape == result.labels.array.shape
    assert np.array_equal(result.agreement.affine, result.labels.affine)
    assert result.agreement.array.dtype == np.float32
    assert result.agreement.array[result.labels.array > 0].mean() > 0.8
    assert result.agreement.array[result.probability.array < 0.1].max() < 0.5
    assert np.array_equal(plain_result.labels.array, result.labels.array)


@pytest.mark.parametrize("axes", [[3], [0, 0], [True], "0"])
def test_mirror_axes_that_are_none_are_refused(axes: Any, tmp_path: Path) -> None:
    write_manifest(tmp_path, {**lesion_manifest(window__mirror_axes=axes), "files": {"model.onnx": "0" * 64}})
    with pytest.raises(BundleError, match=r"window\.mirror_axes"):
        read_manifest(tmp_path / "model.toml")
