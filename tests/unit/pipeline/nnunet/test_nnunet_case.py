"""nnU-Net's own rules, one by one, on numbers that can be checked by hand; and a whole study through an imported network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.bundles.bundle import Bundle, verify_bundle
from pipeline.errors import BundleError, ImageError
from pipeline.plan import Recipe
from pipeline.run import run_pipeline
from pipeline.segmenters.families import find_bundle, load_bundle
from pipeline.segmenters.nnunet.case_plan import apply_case, plan_case, undo_case
from pipeline.segmenters.nnunet.normalize import apply_nnunet_scheme
from pipeline.segmenters.nnunet.resample import apply_resize, find_thick_axis, plan_shape
from pipeline.segmenters.nnunet.segment import Window, predict_array, predict_votes
from pipeline.segmenters.nnunet.spec import Intensity, NnUNetSpec
from tests.factories.onnx import lesion_manifest, write_bundle, write_manifest
from tests.factories.steps import logged
from tests.factories.volumes import AXIAL, LEFT_BALL, RIGHT_BALL, SAGITTAL, draw_head, grid_affine


def spec(**changes: Any) -> NnUNetSpec:
    """A v2 network of one channel and two classes; `changes` by field."""
    values: dict[str, Any] = {
        "version": 2, "transpose": (0, 1, 2), "planar": False, "schemes": ("zscore",), "masked": (False,), "mirror_axes": (),
        "classes": 2, "lesion_classes": (1,), "orientation": "LPS",
    }  # fmt: skip
    return NnUNetSpec(**(values | changes))


def texture(*shape: int) -> Any:
    return np.random.default_rng(5).normal(100, 20, shape).astype(np.float32)


def test_slices_are_resized_in_plane_and_repeated_or_left_out() -> None:
    image = texture(1, 3, 8, 10)

    taller = apply_resize(image, (5, 8, 10), 3, 0)[0]
    lower = apply_resize(image, (2, 8, 10), 3, 0)[0]

    # Centres of 5 slices in units of the old ones: -0.2, 0.4, 1.0, 1.6, 2.2.
    assert [int(np.flatnonzero([np.array_equal(row, old) for old in image[0]])[0]) for row in taller] == [
        0,
        0,
        1,
        2,
        2,
    ]
    # Centres of 2 slices: 0.25 and 1.75.
    assert [int(np.flatnonzero([np.array_equal(row, old) for old in image[0]])[0]) for row in lower] == [0, 2]


def test_a_resized_ramp_stays_a_ramp_within_its_range() -> None:
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32), (1, 4, 6, 12))

    finer = apply_resize(ramp, (4, 6, 24), 1, None)[0]

    # Voxel centres of the finer grid lie at -1/4, 1/4, 3/4, ...; beyond the outer centres the edge goes on.
    assert np.allclose(finer[0, 0, 1:-1], np.arange(22) / 2 + 0.25)
    assert finer.min() == 0
    assert finer.max() == 11


@pytest.mark.parametrize(
    ("first", "second", "axis"),
    [
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((3, 1, 1), (1, 1, 1), None),
        ((1, 1, 1), (1, 4, 1), 1),
        ((1, 4, 4), (5, 1, 1), None),
    ],
)
def test_the_first_thick_spacing_decides(first: Any, second: Any, axis: int | None) -> None:
    assert find_thick_axis(first, second) == axis


def test_halves_round_to_even() -> None:
    assert plan_shape((5, 7, 3), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)) == (2, 4, 2)


def test_zscore_over_the_box_or_the_mask() -> None:
    image = texture(4, 5, 6)
    inside = np.zeros(image.shape, bool)
    inside[1:3, 1:4, 2:5] = True
    image[~inside] = 0

    whole = apply_nnunet_scheme(spec(), 0, image, inside)
    masked = apply_nnunet_scheme(spec(masked=(True,)), 0, image, inside)

    assert abs(whole.mean()) < 1e-5
    assert whole.std() == pytest.approx(1, abs=1e-5)
    assert (masked[~inside] == 0).all()
    assert abs(masked[inside].mean()) < 1e-5
    assert masked[inside].std() == pytest.approx(1, abs=1e-5)


def test_ct_clips_and_scales_by_the_training_set() -> None:
    facts = Intensity(mean=50.0, std=10.0, low=30.0, high=80.0)
    image = np.array([0.0, 50.0, 70.0, 999.0], np.float32).reshape(1, 2, 2)

    answer = apply_nnunet_scheme(
        spec(schemes=("ct",), intensity=(facts,)), 0, image, np.ones(image.shape, bool)
    )

    assert answer.ravel().tolist() == [-2.0, 0.0, 2.0, 3.0]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_way_back_ends_on_the_voxels_it_began_on(version: int, transpose: tuple[int, int, int]) -> None:
    array = np.zeros((1, 9, 14, 11), np.float32)
    array[0, 2:7, 3:12, 1:10] = texture(5, 9, 9)
    chosen = spec(version=version, transpose=transpose, schemes=("none",))

    plan, inside = plan_case(chosen, (1.0, 1.0, 1.0), array, (1.0, 1.0, 1.0))
    seen = apply_case(chosen, plan, inside, array)
    back = undo_case(chosen, plan, seen, np.array([-1.0], np.float32))

    assert seen.shape[1:] == tuple((5, 9, 9)[axis] for axis in transpose)
    assert np.array_equal(back[0, 2:7, 3:12, 1:10], array[0, 2:7, 3:12, 1:10])
    back[0, 2:7, 3:12, 1:10] = -1
    assert (back == -1).all()


def test_an_image_of_zeros_is_refused() -> None:
    with pytest.raises(ImageError, match="every voxel of every channel is zero"):
        plan_case(spec(), (1.0, 1.0, 1.0), np.zeros((1, 4, 4, 4), np.float32), (1.0, 1.0, 1.0))


def test_mirroring_and_folds_are_averaged() -> None:
    """A network that answers with the position along one axis: mirrored along it, the mean is the same everywhere."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 4, 6, 8))

    def climbing(patch: Any) -> Any:
        return np.concatenate([np.zeros_like(patch[:1]), ramp])

    window = Window((1.0, 1.0, 1.0), (4, 6, 8), 0.5, gaussian=True)
    image = texture(1, 4, 6, 8)

    plain, _ = predict_array([climbing], spec(), window, image, (1.0, 1.0, 1.0))
    mirrored, _ = predict_array([climbing], spec(mirror_axes=(0, 2)), window, image, (1.0, 1.0, 1.0))
    folds, _ = predict_array(
        [climbing, lambda patch: 0 * climbing(patch)], spec(), window, image, (1.0, 1.0, 1.0)
    )

    sigmoid = 1 / (1 + np.exp(-ramp[0]))
    assert np.allclose(plain, sigmoid, atol=1e-6)
    assert np.allclose(mirrored, 1 / (1 + np.exp(-3.5)), atol=1e-6)
    assert np.allclose(folds, 1 / (1 + np.exp(-ramp[0] / 2)), atol=1e-6)


@pytest.mark.parametrize("version", [1, 2])
def test_folds_vote_at_the_threshold(version: int) -> None:
    """Two folds, of which one calls it lesion at 0.9 and none at 0.999: half the votes, then none; zero where nothing was seen."""
    high, low = (
        lambda patch, level=level: np.stack([0 * patch[0], 0 * patch[0] + level]) for level in (6.0, -2.0)
    )
    window = Window((1.0, 1.0, 1.0), (4, 4, 4), 0.5, gaussian=True)
    image = np.zeros((1, 4, 4, 6), np.float32)
    image[..., 2:] = texture(1, 4, 4, 4)

    found, none, once = (
        predict_votes(networks, spec(version=version), window, image, (1.0, 1.0, 1.0), at)
        for networks, at in (([high, low], 0.9), ([high, low], 0.999), ([high], 0.9))
    )

    assert found.votes is not None
    assert none.votes is not None
    assert found.votes[0, 0].tolist() == [0, 0, 0.5, 0.5, 0.5, 0.5]
    assert none.votes.max() == 0
    assert once.votes is None


def test_v1_averages_probabilities_where_v2_averages_logits() -> None:
    high, low = (
        lambda patch, level=level: np.stack([0 * patch[0], 0 * patch[0] + level]) for level in (6.0, -2.0)
    )
    window = Window((1.0, 1.0, 1.0), (4, 4, 4), 0.5, gaussian=True)
    image = texture(1, 4, 4, 4)

    first, _ = predict_array([high, low], spec(version=1), window, image, (1.0, 1.0, 1.0))
    second, _ = predict_array([high, low], spec(version=2), window, image, (1.0, 1.0, 1.0))

    assert first[0, 0, 0] == pytest.approx((1 / (1 + np.exp(-6)) + 1 / (1 + np.exp(2))) / 2, abs=1e-6)
    assert second[0, 0, 0] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)


def bright_graph(patch: tuple[int, int, int], level: float, channels: int = 1) -> onnx.ModelProto:
    """Two logits: 0, and 20 x (first channel - level)."""
    kernel = np.zeros((2, channels, 1, 1, 1), np.float32)
    kernel[1, 0] = 20.0
    stored = [
        numpy_helper.from_array(kernel, "kernel"),
        numpy_helper.from_array(np.array([0.0, -20 * level], np.float32), "bias"),
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "kernel", "bias"], ["logits"])],
        "bright",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *patch])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, *patch])],
        stored,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bright_manifest(**changes: Any) -> dict[str, Any]:
    values = lesion_manifest(
        name="bright",
        input__channels=["flair"],
        input__accepts=[["flair"]],
        input__spacing_mm=[2.0, 1.0, 1.0],
        input__patch=[24, 40, 32],
        preprocess__resample="nnunet",
        preprocess__normalise="nnunet",
        preprocess__normalise_parameters={},
        window__aggregate="logits",
        output__name="logits",
        output__activation="softmax",
        output__thresholds={},
    )
    values["nnunet"] = spec(masked=(True,), mirror_axes=(2,), **changes).table()
    return values


def bright_bundle(models: Path, **changes: Any) -> Bundle:
    return load_bundle(write_bundle(models, bright_graph((24, 40, 32), 4.0), bright_manifest(**changes)))


@pytest.mark.parametrize(("orientation", "scan"), [("LPS", AXIAL), ("RAS", SAGITTAL)])
def test_a_study_through_an_imported_network(
    known_models: Path, tmp_path: Path, orientation: str, scan: Any
) -> None:
    shape, spacing = ((44, 84, 70), (3.4, 2.2, 2.2)) if scan is AXIAL else ((50, 62, 80), (3.0, 2.3, 2.3))
    volume = draw_head(shape, grid_affine(shape, spacing, directions=scan))
    bundle = bright_bundle(tmp_path, orientation=orientation)
    verify_bundle(bundle)

    result = run_pipeline(
        {"flair": volume},
        Recipe(bundle, find_bundle(known_models, "known-brain"), bias_correction=False, require_head=False),
    )

    places = sorted((lesion.centroid_lps_mm for lesion in result.lesions), key=lambda place: -place[0])
    assert np.allclose(places, [LEFT_BALL.at_mm, RIGHT_BALL.at_mm], atol=1.0)
    assert next(each.value for each in result.measurements if each.name == "total_volume") == pytest.approx(
        LEFT_BALL.volume_ml + RIGHT_BALL.volume_ml, rel=0.1
    )
    assert logged(result, "infer")["conventions"] == "nnU-Net v2"
    assert result.models[0].name == "bright"


@pytest.mark.slow
def test_channels_come_onto_the_grid_that_the_manifest_names(known_models: Path, tmp_path: Path) -> None:
    """T1 and FLAIR of different grids; the network works on the T1's voxels, the answer lies on the FLAIR's."""
    flair = draw_head((40, 80, 66), grid_affine((40, 80, 66), (3.6, 2.3, 2.3), directions=AXIAL))
    t1 = draw_head(
        (70, 64, 80), grid_affine((70, 64, 80), (2.2, 2.3, 2.3), directions=SAGITTAL), contrast="t1"
    )
    manifest = bright_manifest()
    manifest["input"] |= {"channels": ["flair", "t1"], "accepts": [["flair", "t1"]]}
    manifest["nnunet"] |= {"schemes": ["zscore"] * 2, "masked": [True] * 2, "grid": "t1"}
    bundle = load_bundle(write_bundle(tmp_path, bright_graph((24, 40, 32), 4.0, channels=2), manifest))

    result = run_pipeline(
        {"t1": t1, "flair": flair},
        Recipe(bundle, find_bundle(known_models, "known-brain"), bias_correction=False, require_head=False),
    )

    places = sorted((lesion.centroid_lps_mm for lesion in result.lesions), key=lambda place: -place[0])
    assert result.labels.array.shape == flair.array.shape
    assert logged(result, "infer")["grid"] == "t1"
    assert np.allclose(places, [LEFT_BALL.at_mm, RIGHT_BALL.at_mm], atol=1.5)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("version", 3, "nnunet.version"),
        ("transpose", [0, 1, 1], "nnunet.transpose"),
        ("schemes", ["zscore", "zscore"], "nnunet.schemes"),
        ("schemes", ["magic"], "nnunet.schemes"),
        ("masked", [1], "nnunet.masked"),
        ("mirror_axes", [3], "nnunet.mirror_axes"),
        ("lesion_classes", [2], "nnunet.lesion_classes"),
        ("orientation", "XYZ", "nnunet.orientation"),
        ("grid", "t1", "nnunet.grid"),
        ("cascade", True, "nnunet.cascade: is not known"),
    ],
)
def test_a_wrong_table_is_refused_by_key(tmp_path: Path, key: str, value: Any, said: str) -> None:
    bundle = bright_bundle(tmp_path)
    values = bright_manifest()
    values["files"] = dict(bundle.graphs)
    values["nnunet"][key] = value
    write_manifest(bundle.folder, values)

    with pytest.raises(BundleError, match=said):
        load_bundle(bundle.folder)


def test_a_fold_that_was_altered_is_refused(tmp_path: Path) -> None:
    bundle = bright_bundle(tmp_path)
    data = bundle.graph_bytes()
    (bundle.folder / "fold-1.onnx").write_bytes(data)
    write_manifest(
        bundle.folder,
        {**bright_manifest(), "files": {"model.onnx": bundle.sha256, "fold-1.onnx": bundle.sha256}},
    )
    assert len(load_bundle(bundle.folder).graphs) == 2

    (bundle.folder / "fold-1.onnx").write_bytes(data + b"\0")

    with pytest.raises(BundleError, match=r"fold-1\.onnx: the SHA-256 differs"):
        load_bundle(bundle.folder)
