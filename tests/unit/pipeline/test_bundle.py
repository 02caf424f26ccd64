"""A bundle is taken as its manifest says, or refused by name."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bundles import reader
from pipeline.bundles.bundle import Bundle, open_graph, verify_bundle
from pipeline.errors import BundleError
from pipeline.preprocess import normalize, resample
from pipeline.quality.trained_range import QUANTILES
from pipeline.segmenters.families import SEGMENTERS, find_bundle, list_bundles, load_bundle
from pipeline.segmenters.patch3d.segment import ACTIVATIONS
from tests.factories.onnx import (
    known_brain_bundle,
    known_lesion_bundle,
    lesion_manifest,
    nan_graph,
    threshold_graph,
    write_bundle,
)

PATCH = [4, 4, 4]


def small(**changes: Any) -> dict[str, Any]:
    return lesion_manifest(**{"input__patch": PATCH, **changes})


def write_small(models: Path, **changes: Any) -> Path:
    return write_bundle(models, threshold_graph([0.0, 1.0], 1.0, PATCH), small(**changes))


def refusal(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    return caught.value


def test_a_bundle_says_what_it_needs(tmp_path: Path) -> None:
    bundle = load_bundle(write_small(tmp_path))

    assert (bundle.name, bundle.version, bundle.task, bundle.channels) == (
        "known-lesion",
        "0.1.0",
        "lesion",
        ("t1", "flair"),
    )
    assert bundle.input.patch == (4, 4, 4)
    assert bundle.identity.sha256 == bundle.sha256
    assert bundle.output.threshold_for(["t1", "flair"]) == 0.5
    assert bundle.trained == {}
    verify_bundle(bundle)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"schema": 2}, "schema"),
        ({"schema": 0}, "schema"),
        ({"task": "tumour"}, "task"),
        ({"family": "patch4d"}, "family"),
        ({"statement": " "}, "statement"),
        ({"licence": 7}, "licence"),
        ({"input__channels": []}, "input.channels"),
        ({"input__channels": ["t1", "t1"]}, "input.channels"),
        ({"input__accepts": [["t2"]]}, "input.accepts"),
        ({"input__accepts": []}, "input.accepts"),
        ({"input__head": "half"}, "input.head"),
        ({"input__patch": [4, 4]}, "input.patch"),
        ({"input__spacing_mm": [2.0, 0.0, 2.0]}, "input.patch"),
        ({"input__dtype": "float16"}, "input.dtype"),
        ({"window__step": 0}, "window.step"),
        ({"window__gaussian": "yes"}, "window.gaussian"),
        ({"window__aggregate": "logits"}, "window.aggregate"),
        ({"output__activation": "tanh"}, "output.activation"),
        ({"output__threshold": 1.5}, "output.threshold"),
        ({"output__thresholds": {"t1": 2.0}}, "output.thresholds"),
        ({"output__peaks": {"t1": 1.0}}, "output.peaks"),
        ({"output__peak": -0.1}, "output.peak"),
        ({"output__connectivity": 18}, "output.connectivity"),
        ({"output__minimum_volume_mm3": -1}, "output.minimum_volume_mm3"),
        ({"preprocess__bias_correction": True}, "preprocess.bias_correction"),
        ({"preprocess__reference": "t2"}, "preprocess.reference"),
        ({"trained": {"t2": {"p10": [0.1, 0.7]}}}, "trained.t2"),
        ({"trained": {"t1": 0.4}}, "trained.t1"),
        ({"trained": {"t1": {"p10": [0.7, 0.1]}}}, "trained.t1.p10"),
        ({"trained": {"t1": {"p10": [0.7]}}}, "trained.t1.p10"),
    ],
)
def test_a_wrong_manifest_names_its_key(changes: dict[str, Any], key: str, tmp_path: Path) -> None:
    problem = refusal(write_small(tmp_path, **changes))

    assert problem.code == "model-manifest-invalid"
    assert f": {key}: " in str(problem)


@pytest.mark.parametrize(
    ("table", "slip", "meant"),
    [
        ("output", "peakz", "peak"), ("output", "brain_margin", "brain_margin_mm"), ("window", "mirror_axis", "mirror_axes"),
        ("preprocess", "bias_corection", "bias_correction"), ("", "measurd", "measured"), ("", "preproces", "preprocess"),
        ("preprocess.normalise_parameters", "cilp", "clip"), ("output.thresholds", "t1+flare", "t1+flair"),
    ],
)  # fmt: skip
def test_a_key_that_nobody_reads_is_refused_with_the_nearest_known_one(
    table: str, slip: str, meant: str, tmp_path: Path
) -> None:
    path = "__".join((*table.split("."), slip) if table else (slip,))
    problem = refusal(write_small(tmp_path, **{path: {} if not table else 0.5}))

    assert problem.code == "model-manifest-invalid"
    assert f": {table + '.' if table else ''}{slip}: is not known; was {meant} meant?" in str(problem)


@pytest.mark.parametrize(
    "key",
    [
        "output.threshold",
        "output.connectivity",
        "input.patch",
        "window.step",
        "licence",
        "preprocess",
        "family",
    ],
)
def test_a_slip_of_the_pen_in_a_key_that_must_be_there_names_both(key: str, tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    manifest = folder / "model.toml"
    name = key.rpartition(".")[2]
    slip = name[:2] + name[3:]
    lines = [
        line.replace(name, slip, 1)
        if line.strip('"[').startswith((f"{name}]", f"{name} =", f'{name}" ='))
        else line
        for line in manifest.read_text().splitlines()
    ]
    manifest.write_text("\n".join(lines))

    assert f"{slip} is not known: was {key}" in str(refusal(folder))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"input__patch": [4.5, 4, 4]}, "input.patch"), ({"window__step": True}, "window.step"), ({"output__connectivity": True}, "output.connectivity"),
        ({"input__accepts": ["t1"]}, "input.accepts"), ({"preprocess__normalise": "z-scor"}, "preprocess.normalise"),
        ({"preprocess__normalise_parameters": {"clip": [3.0, 0.0]}}, "preprocess.normalise_parameters.clip"),
        ({"preprocess__normalise_parameters": {"clip": "wide"}}, "preprocess.normalise_parameters.clip"),
        ({"preprocess__resample": "cubic"}, "preprocess.resample"), ({"window__mirror_axes": [0, 0]}, "window.mirror_axes"),
        ({"window__mirror_axes": [False]}, "window.mirror_axes"), ({"trained": {"t1": {"p99": [0.1, 0.7]}}}, "trained.t1.p99"),
        ({"measured": 3}, "measured"), ({"output": 3}, "output.connectivity"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_by_its_key(
    changes: dict[str, Any], key: str, tmp_path: Path
) -> None:
    assert f": {key}: " in str(refusal(write_small(tmp_path, **changes)))


def test_the_manifest_knows_the_schemes_that_the_program_has() -> None:
    assert set(reader.RESAMPLINGS) == set(resample.SCHEMES)
    assert set(reader.NORMALISATIONS) == set(normalize.SCHEMES)
    assert set(reader.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(reader.TRAINED) == set(QUANTILES)


def test_a_family_is_known_to_bundles_by_its_row_only(repo_root: Path) -> None:
    words = {"triplanar", "proposal", "nnunet", "patch3d", "EnsembleSpec"}
    found = {
        word
        for path in (repo_root / "pipeline" / "bundles").glob("*.py")
        for word in words
        if word in path.read_text()
    }

    assert found == set()
    assert {row.family.word for row in SEGMENTERS.values()} == {
        "patch3d",
        "triplanar",
        "proposal3d",
        "ensemble",
    }


def test_a_bundle_of_a_newer_program_says_so(tmp_path: Path) -> None:
    assert "made by a newer program (schema 2, this one knows 1); update the node" in str(
        refusal(write_small(tmp_path, schema=2))
    )


@pytest.mark.parametrize(
    "key", ["name", "statement", "licence", "intended_use", "[preprocess]", "connectivity", "gaussian"]
)
def test_a_missing_key_is_refused(key: str, tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    manifest = folder / "model.toml"
    lines = [line for line in manifest.read_text().splitlines() if not line.strip('"').startswith(key)]
    manifest.write_text("\n".join(lines))

    assert refusal(folder).code == "model-manifest-invalid"


def test_an_altered_graph_is_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    load_bundle(folder)
    with (folder / "model.onnx").open("ab") as graph:
        graph.write(b"\0")

    assert refusal(folder).code == "model-altered"


def test_a_graph_altered_after_loading_never_runs(tmp_path: Path) -> None:
    bundle = load_bundle(write_small(tmp_path))
    graph = bundle.folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\1")

    with pytest.raises(BundleError) as caught:
        open_graph(bundle, threads=1)

    assert caught.value.code == "model-altered"


@pytest.mark.parametrize("name", ["weights.pkl", "model.pt", "hidden.bin"])
def test_a_file_that_is_not_data_we_know_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    (folder / name).write_bytes(b"x")

    assert refusal(folder).code == "model-unusable"


def test_a_second_graph_is_refused(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    (folder / "other.onnx").write_bytes(b"x")

    assert refusal(folder).code == "model-missing"


def test_a_folder_must_be_called_as_the_manifest_says(tmp_path: Path) -> None:
    folder = write_small(tmp_path)
    moved = folder.rename(folder.with_name("0.2.0"))

    assert refusal(moved).code == "model-manifest-invalid"


@pytest.mark.parametrize(
    "graph",
    [threshold_graph([1.0], 1.0, PATCH), threshold_graph([0.0, 1.0], 1.0, [4, 4, 6])],
    ids=["one channel", "another patch"],
)
def test_a_graph_that_disagrees_with_its_manifest_is_refused(graph: Any, tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, graph, small()))

    with pytest.raises(BundleError) as caught:
        verify_bundle(bundle)

    assert caught.value.code == "model-graph-mismatch"


@pytest.mark.parametrize("key", ["input__name", "output__name"])
def test_a_tensor_of_another_name_is_refused(key: str, tmp_path: Path) -> None:
    bundle = load_bundle(write_small(tmp_path, **{key: "something"}))

    with pytest.raises(BundleError, match="something"):
        verify_bundle(bundle)


def test_a_network_that_answers_nan_fails_verification(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, nan_graph(2, PATCH), small()))

    with pytest.raises(BundleError) as caught:
        verify_bundle(bundle)

    assert caught.value.code == "model-output-not-finite"


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    class NotOnnx:
        def SerializeToString(self) -> bytes:  # noqa: N802 - the name that onnx uses
            return b"not a graph"

    bundle = load_bundle(write_bundle(tmp_path, NotOnnx(), small()))  # type: ignore[arg-type]

    with pytest.raises(BundleError) as caught:
        verify_bundle(bundle)

    assert caught.value.code == "model-unusable"


def test_the_newest_version_is_found_and_an_exact_one_too(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.10.0"):
        write_small(tmp_path, version=version)

    assert find_bundle(tmp_path, "known-lesion").version == "0.10.0"
    assert find_bundle(tmp_path, "known-lesion/0.9.0").version == "0.9.0"
    assert [bundle.version for bundle in list_bundles(tmp_path)] == ["0.9.0", "0.10.0"]


@pytest.mark.parametrize("name", ["absent", "known-lesion/9.9.9", "", "/0.1.0"])
def test_a_bundle_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    write_small(tmp_path)

    with pytest.raises(BundleError) as caught:
        find_bundle(tmp_path, name)

    assert caught.value.code == "model-missing"


@pytest.mark.parametrize(
    ("available", "chosen"), [({"t1", "flair"}, ("t1", "flair")), ({"flair"}, ("flair",)), ({"t1"}, ("t1",))]
)
def test_the_largest_trained_combination_is_chosen(
    available: set[str], chosen: tuple[str, ...], tmp_path: Path
) -> None:
    assert load_bundle(write_small(tmp_path)).choose_channels(available) == chosen


def test_two_channels_never_run_on_one_without_leave(tmp_path: Path) -> None:
    bundle = load_bundle(write_small(tmp_path, input__accepts=[["t1", "flair"]]))

    with pytest.raises(BundleError) as caught:
        bundle.choose_channels({"flair"})

    assert caught.value.code == "channels-missing"


def test_weights_stored_as_float16_run_as_float32(tmp_path: Path) -> None:
    bundle = load_bundle(write_small(tmp_path))
    session = open_graph(bundle, threads=1)

    answer = session.run(None, {"image": np.full((1, 2, 4, 4, 4), 1.0, np.float32)})[0]

    assert answer.dtype == np.float32
    assert answer == pytest.approx(0.5)


def test_the_files_of_the_shipped_bundles_are_those_of_their_manifests(repo_root: Path) -> None:
    bundles = list_bundles(repo_root / "models")

    assert {bundle.task for bundle in bundles} == {"brain", "lesion"}
    assert all("not for diagnosis" in bundle.statement for bundle in bundles)
    for manifest in (repo_root / "models").rglob("model.toml"):
        promised = tomllib.loads(manifest.read_text(encoding="utf-8")).get("files", {})
        lying_there = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in manifest.parent.glob("*.onnx")
        }
        assert promised == lying_there, manifest


@pytest.mark.slow
def test_the_shipped_networks_answer_as_their_manifests_say(repo_root: Path) -> None:
    for bundle in list_bundles(repo_root / "models"):
        verify_bundle(bundle)


def test_the_known_bundles_of_the_tests_load(tmp_path: Path) -> None:
    bundles: list[Bundle] = [known_lesion_bundle(tmp_path), known_brain_bundle(tmp_path)]

    assert [bundle.task for bundle in bundles] == ["lesion", "brain"]
