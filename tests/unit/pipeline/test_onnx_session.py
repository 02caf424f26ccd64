"""Sessions stay warm, and a network that answers NaN is stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BundleError
from pipeline.inference.session import open_network
from pipeline.segmenters.families import load_bundle
from tests.factories.onnx import lesion_manifest, nan_graph, threshold_graph, write_bundle

PATCH = [4, 5, 6]


def test_a_second_call_uses_the_open_session(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path, threshold_graph([0.0, 1.0], 0.5, PATCH), lesion_manifest(input__patch=PATCH)
    )

    first, second = (open_network(load_bundle(folder), 1) for _ in range(2))

    assert first is second
    assert open_network(load_bundle(folder), 2) is not first


def test_a_patch_is_answered_channel_by_channel(tmp_path: Path) -> None:
    folder = write_bundle(
        tmp_path, threshold_graph([0.0, 1.0], 0.5, PATCH), lesion_manifest(input__patch=PATCH)
    )
    patch = np.zeros((2, 4, 5, 6), np.float32)
    patch[1, 1, 2, 3] = 1.0

    answer = open_network(load_bundle(folder), 1)(patch)

    assert answer.shape == (1, 4, 5, 6)
    assert [tuple(place) for place in np.argwhere(answer[0] > 0.5)] == [(1, 2, 3)]


def test_a_network_that_answers_nan_is_stopped(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, nan_graph(2, PATCH), lesion_manifest(input__patch=PATCH))

    with pytest.raises(BundleError) as caught:
        open_network(load_bundle(folder), 1)(np.ones((2, 4, 5, 6), np.float32))

    assert caught.value.code == "model-output-not-finite"
