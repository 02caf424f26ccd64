"""What cannot be imported is named, and nothing is left behind; what can is compared before it is installed."""

from __future__ import annotations

import json
import stat
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from pipeline.errors import BundleError
from pipeline.importing import parity
from pipeline.importing import weights as weights_room
from pipeline.importing.nnunet_folder import NnUNetOptions, import_nnunet
from pipeline.importing.problem import ImportProblem
from pipeline.importing.reference import reference_network
from pipeline.segmenters.families import list_bundles
from tests.importing.nnunet_original import configuration

OPTIONS = NnUNetOptions(("t1", "flair"), "tiny", mirroring=False)
SHAPE = {
    "patch": [8, 12, 8],
    "features": [3, 4],
    "kind": "plain",
    "spacing": [1.0, 1.0, 1.0],
    "channels": 2,
    "masked": False,
}


def weights(classes: int = 2) -> dict[str, torch.Tensor]:
    """A PlainConvUNet of two stages, by the names that its state has."""
    torch.manual_seed(4)
    state: dict[str, torch.Tensor] = {}

    def block(name: str, inside: int, outside: int) -> None:
        state[f"{name}.conv.weight"] = torch.randn(outside, inside, 3, 3, 3) * 0.3
        state[f"{name}.conv.bias"] = torch.randn(outside)
        state[f"{name}.norm.weight"] = torch.ones(outside)
        state[f"{name}.norm.bias"] = torch.randn(outside) * 0.1

    for stage, (inside, outside) in enumerate([(2, 3), (3, 4)]):
        block(f"encoder.stages.{stage}.0.convs.0", inside, outside)
        block(f"encoder.stages.{stage}.0.convs.1", outside, outside)
    state["decoder.transpconvs.0.weight"], state["decoder.transpconvs.0.bias"] = (
        torch.randn(4, 3, 2, 2, 2) * 0.3,
        torch.randn(3),
    )
    block("decoder.stages.0.convs.0", 6, 3)
    block("decoder.stages.0.convs.1", 3, 3)
    state["decoder.seg_layers.0.weight"], state["decoder.seg_layers.0.bias"] = (
        torch.randn(classes, 3, 1, 1, 1),
        torch.zeros(classes),
    )
    return state


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small v2 result folder with two folds."""
    results = tmp_path / "Dataset500_Tiny" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    chosen = configuration(
        {**SHAPE, "schemes": "ZScoreNormalization", "kernels": None, "strides": None, "old_plans": False}
    )
    plans = {
        "dataset_name": "Dataset500_Tiny",
        "transpose_forward": [0, 1, 2],
        "configurations": {"3d_fullres": chosen},
    }
    dataset = {"channel_names": {"0": "T1w", "1": "FLAIR"}, "labels": {"background": 0, "lesion": 1}}
    for fold in (0, 1):
        (results / f"fold_{fold}").mkdir(parents=True)
        save(results, fold, {})
    write(results / "plans.json", plans)
    write(results / "dataset.json", dataset)
    return results


def save(
    results: Path, fold: int, changes: dict[str, Any], state: dict[str, torch.Tensor] | None = None
) -> None:
    checkpoint = {
        "network_weights": weights() if state is None else state,
        "trainer_name": "nnUNetTrainer",
        "_best_ema": np.float64(0.5),
    }
    checkpoint |= {
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint | changes, results / f"fold_{fold}" / "checkpoint_final.pth")


def write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values))


def edit(path: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    write(path, values)


def plans(change: Callable[[Any], None]) -> Callable[[Path], None]:
    return lambda results: edit(
        results / "plans.json", lambda values: change(values["configurations"]["3d_fullres"])
    )


def dataset(change: Callable[[Any], None]) -> Callable[[Path], None]:
    return lambda results: edit(results / "dataset.json", change)


def network(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(results: Path) -> None:
        state = weights()
        change(state)
        save(results, 0, {}, state)

    return apply


class Harm:
    """Pickles as a call of a function of the attacker's choice."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no dataset.json": (lambda results: (results / "dataset.json").unlink(), "no dataset.json beside plans.json"),
    "no plans": (lambda results: (results / "plans.json").unlink(), "is no nnU-Net result folder"),
    "broken plans": (lambda results: (results / "plans.json").write_text("{"), r"plans\.json cannot be read"),
    "plans of nothing": (lambda results: write(results / "plans.json", {}), r"plans\.json is not as nnU-Net writes it"),
    "fold without checkpoint": (lambda results: (results / "fold_1" / "checkpoint_final.pth").unlink(), "fold 1 has no checkpoint"),
    "trainer": (lambda results: save(results, 0, {"trainer_name": "nnUNetTrainerMagic"}), "fold 1 was trained as"),
    "foreign class": (lambda results: save(results, 0, {"extra": Harm(results / "ran")}), r"holds what is not weights: .*nothing was run"),
    "no checkpoint at all": (lambda results: (results / "fold_0" / "checkpoint_final.pth").write_bytes(b"abc"), "cannot be read as a checkpoint"),
    "v1 weights in v2": (lambda results: torch.save({"state_dict": {}}, results / "fold_0" / "checkpoint_final.pth"), "is no nnU-Net v2 checkpoint"),
    "architecture": (plans(lambda c: c["architecture"].update(network_class_name="x.PrimusM")), "architecture 'x.PrimusM' is not supported"),
    "batch normalisation": (
        plans(lambda c: c["architecture"]["arch_kwargs"].update(norm_op="torch.nn.BatchNorm3d")),
        "normalisation layer 'torch.nn.BatchNorm3d' is not supported",
    ),
    "cascade": (plans(lambda c: c.update(previous_stage="3d_lowres")), "second stage of a cascade"),
    "resampling": (plans(lambda c: c.update(resampling_fn_data="resample_torch")), "resampling_fn_data resample_torch"),
    "preprocessor": (plans(lambda c: c.update(preprocessor_name="MyPreprocessor")), "preprocessor 'MyPreprocessor'"),
    "normalisation": (plans(lambda c: c.update(normalization_schemes=["Mine"] * 2)), "normalisation 'Mine'"),
    "strides": (
        plans(lambda c: c["architecture"]["arch_kwargs"].update(strides=[[1, 1, 1], [2, 2, 1]])),
        r"enlarges by \(2, 2, 2\), the plans' stride is \(2, 2, 1\)",
    ),
    "too few stages": (plans(lambda c: c["architecture"]["arch_kwargs"].update(strides=[[1, 1, 1]] * 3)), "has no weight"),
    "regions": (dataset(lambda d: d.update(labels={"background": 0, "whole": [1, 2], "core": 2}, regions_class_order=[1, 2])), "region-based"),
    "channel count": (dataset(lambda d: d.update(channel_names={"0": "T1w"})), "names 1 channel, plans.json normalises 2"),
    "channel numbers": (dataset(lambda d: d.update(channel_names={"T1w": "0"})), "dataset.json is not as nnU-Net writes it"),
    "label of words": (dataset(lambda d: d.update(labels={"background": 0, "lesion": "one"})), "dataset.json is not as nnU-Net writes it"),
    "label values": (dataset(lambda d: d.update(labels={"background": 0, "lesion": 7})), "label values must be 0, 1, 2"),
    "classes": (dataset(lambda d: d.update(labels={"background": 0, "a": 1, "b": 2})), "say which labels are lesion"),
    "missing weight": (network(lambda s: s.pop("encoder.stages.1.0.convs.1.norm.bias")), "has no weight 'encoder.stages.1.0.convs.1.norm.bias'"),
    "extra weight": (network(lambda s: s.update({"attention.weight": torch.zeros(3)})), "1 weight that its architecture does not explain"),
    "NaN": (network(lambda s: s["decoder.seg_layers.0.weight"].fill_(float("nan"))), "has NaN or infinite values"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_folder_is_refused_by_name(name: str, folder: Path, tmp_path: Path) -> None:
    spoil, said = BAD[name]
    spoil(folder)

    refused(folder, tmp_path / "models", OPTIONS, said)
    assert not (folder / "ran").exists(), "the checkpoint ran code"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            NnUNetOptions(name="x"),
            r"say which image each channel is .* the dataset calls them 0 = T1w, 1 = FLAIR",
        ),
        (NnUNetOptions(("flair",), "x"), "1 channel role was given, the network takes 2"),
        (NnUNetOptions(("flair", "flair"), "x"), "2 different images"),
        (NnUNetOptions(("flair", "adc"), "x"), "'adc' is not a channel role"),
        (NnUNetOptions(("t1", "flair"), "x", folds=("3",)), "fold 3 is missing; .* has 0, 1"),
        (
            NnUNetOptions(("t1", "flair"), "x", lesion_labels=(2,)),
            "say which labels are lesion .* 1 = lesion",
        ),
        (NnUNetOptions(("t1", "flair"), "x", orientation="RAX"), "orientation 'RAX'"),
        (NnUNetOptions(("t1", "flair"), "x", grid="dwi"), "grid 'dwi'"),
        (NnUNetOptions(("t1", "flair"), "../x"), "cannot name a bundle"),
        (
            NnUNetOptions(("t1", "flair"), "x", weights="int8"),
            "the weights 'int8' are none of auto, float16, float32",
        ),
    ],
)
def test_bad_options_are_refused_by_name(
    options: NnUNetOptions, said: str, folder: Path, tmp_path: Path
) -> None:
    refused(folder, tmp_path / "models", options, said)


def test_a_custom_trainer_is_refused(folder: Path, tmp_path: Path) -> None:
    for fold in (0, 1):
        save(folder, fold, {"trainer_name": "nnUNetTrainerMagic"})

    refused(
        folder, tmp_path / "models", OPTIONS, "the trainer 'nnUNetTrainerMagic' is not one of nnU-Net's own"
    )


def test_a_bundle_that_answers_otherwise_is_not_installed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(layout: Any, arrays: Any) -> Any:
        return reference_network(
            layout, {name: array + 0.01 * (array.ndim > 1) for name, array in arrays.items()}
        )

    monkeypatch.setattr(parity, "reference_network", altered)

    refused(
        folder,
        tmp_path / "models",
        OPTIONS,
        r"does not answer as the original: with Float32 weights .* case synthetic",
    )


@pytest.mark.parametrize(
    ("wanted", "apart", "flipped", "margin", "kept", "because"),
    [
        ("auto", 5e-5, 0, 1e-3, "Float16", "every case is within 0.0001 of the original"),
        (
            "auto",
            2e-4,
            0,
            1e-3,
            "Float32",
            "with Float16 weights the probability differs by 2.0e-04 on average",
        ),
        ("auto", 1e-6, 3, 1e-3, "Float32", "the masks by 1.9e-04 on the case second"),
        ("auto", 1e-6, 1, 1e-7, "Float32", "Float16 weights are not equivalent at a margin of 1e-07"),
        ("float16", 1e-6, 3, 1e-3, "Float16", "asked for"),
        ("float16", 1e-6, 100, 1e-3, "", "with Float16 weights .* nothing was installed"),
        ("float32", 2e-4, 3, 1e-3, "Float32", "asked for"),
    ],
)
def test_float16_is_kept_only_where_it_answers_as_the_original(
    wanted: str,
    apart: float,
    flipped: int,
    margin: float,
    kept: str,
    because: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three cases of 8000 lesion voxels; with Float16 weights the probability moves everywhere, and the second case loses some voxels."""
    theirs = np.full((40, 40, 40), 0.2, np.float32)
    theirs[:20, :20, :20] = 0.8

    def answer(bundle: Any, case: Any, _threads: int) -> Any:
        ours = theirs.copy()
        if bundle == "Float16":
            ours += apart
            ours[0].flat[np.flatnonzero(theirs[0] > 0.5)[: flipped if case[0] == "second" else 0]] = 0.4
        return ours

    monkeypatch.setattr(weights_room, "original_answer", lambda *_: theirs)
    monkeypatch.setattr(weights_room, "answer_of", answer)
    monkeypatch.setattr(weights_room, "MARGIN", margin)
    cases: Any = [(name, None, None) for name in ("first", "second", "third")]
    if not kept:
        with pytest.raises(ImportProblem, match=because):
            weights_room.choose_weights(wanted, lambda kind: kind, None, cases)  # type: ignore[arg-type, return-value]
        return

    choice = weights_room.choose_weights(wanted, lambda kind: kind, None, cases)  # type: ignore[arg-type, return-value]

    assert choice.kept == kept
    assert because in choice.because
    assert len(choice.kept_parity) == 3
    assert (choice.equivalence is None) == (wanted == "float32")


def test_without_a_lesion_there_is_nothing_to_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_room, "original_answer", lambda *_: np.zeros((4, 4, 4), np.float32))
    monkeypatch.setattr(weights_room, "answer_of", lambda *_: np.zeros((4, 4, 4), np.float32))

    choice = weights_room.choose_weights("auto", lambda kind: kind, None, [("a", None, None)] * 6)  # type: ignore[arg-type, return-value, list-item]

    assert (choice.kept, choice.equivalence) == ("Float16", None)
    assert "needs three cases with a lesion" in choice.test_words()


def test_what_the_bundle_keeps_is_written_and_said(folder: Path, tmp_path: Path) -> None:
    narrow, wide = (
        import_nnunet(folder, tmp_path / kind, replace(OPTIONS, weights=kind))
        for kind in ("float16", "float32")
    )

    kinds = [
        {tensor.data_type for tensor in onnx.load(each.bundle.folder / "fold-1.onnx").graph.initializer}
        for each in (narrow, wide)
    ]
    assert onnx.TensorProto.FLOAT16 in kinds[0]
    assert onnx.TensorProto.FLOAT not in kinds[0]
    assert onnx.TensorProto.FLOAT16 not in kinds[1]
    card = (narrow.bundle.folder / "CARD.md").read_text()
    assert "two one-sided tests on 6 cases at a margin of 0.001" in card
    assert "| torch | Float16 |" in card
    measured = tomllib.loads((narrow.bundle.folder / "model.toml").read_text())["measured"]
    assert (measured["weights"], measured["weights_because"], measured["tost_cases"]) == (
        "Float16",
        "asked for",
        6,
    )
    assert 0 < measured["parity_mean_difference"] < 1e-3


def test_weights_beyond_float16(folder: Path, tmp_path: Path) -> None:
    network(lambda state: state["encoder.stages.0.0.convs.0.conv.weight"].mul_(1e6))(folder)

    refused(
        folder,
        tmp_path / "models",
        replace(OPTIONS, weights="float16"),
        r"do not fit Float16.*\(--weights float32\)",
    )
    choice = import_nnunet(folder, tmp_path / "models", OPTIONS).choice

    assert choice.kept == "Float32"
    assert "do not fit Float16" in choice.because
    assert {row.weights for row in choice.parity} == {"Float32"}


def test_a_case_of_the_users_own(folder: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(5).normal(size=(2, 9, 14, 8)).astype(np.float32)
    np.savez(tmp_path / "head.npz", array=image, spacing=(1.0, 1.0, 1.2))
    np.savez(tmp_path / "single.npz", array=image[:1], spacing=(1.0, 1.0, 1.2))
    (tmp_path / "broken.npz").write_bytes(b"no")

    for name, said in (
        ("single", "the case single has the shape"),
        ("broken", "is no case"),
        ("absent", "is no case"),
    ):
        with pytest.raises(ImportProblem, match=said):
            import_nnunet(folder, tmp_path / "models", OPTIONS, cases=(tmp_path / f"{name}.npz",))
        assert list((tmp_path / "models").glob("*")) == []
    choice = import_nnunet(folder, tmp_path / "models", OPTIONS, cases=(tmp_path / "head.npz",)).choice

    assert {row.case for row in choice.parity} == {"head"}
    assert choice.equivalence is None


def test_a_zip_is_imported_as_its_folder_is(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in sorted(folder.rglob("*.*")):
            packed.write(file, file.relative_to(folder.parents[1]))
        packed.writestr("Dataset500_Tiny/readme.txt", "not taken")

    found = import_nnunet(archive, tmp_path / "models", OPTIONS)

    assert [bundle.name for bundle in list_bundles(tmp_path / "models")] == ["tiny"]
    assert sorted(found.bundle.graphs) == ["fold-1.onnx", "model.onnx"]
    assert len(found.choice.parity) == 12
    assert max(each.mean_difference for each in found.choice.kept_parity) < 1e-4
    assert max(each.mask_difference for each in found.choice.kept_parity) < 1e-4
    assert found.facts["folds"] == ["0", "1"]
    assert "| synthetic, two tiles | torch | Float32 |" in (found.bundle.folder / "CARD.md").read_text()
    refused(archive, tmp_path / "models", OPTIONS, "tiny/1.0.0 is there already", left=1)


def bad_members() -> Iterator[Any]:
    for name in ("../plans.json", "/etc/plans.json", "a/../../plans.json", "..\\plans.json", "C:/plans.json"):
        yield pytest.param(zipfile.ZipInfo(name), "leads out of its folder", id=name)
    link = zipfile.ZipInfo("a/plans.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    yield pytest.param(link, "holds the link", id="link")


@pytest.mark.parametrize(("member", "said"), list(bad_members()))
def test_a_zip_that_leads_elsewhere_is_refused(member: zipfile.ZipInfo, said: str, tmp_path: Path) -> None:
    archive = tmp_path / "given" / "export.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr(member, "{}")

    refused(archive, tmp_path / "models", OPTIONS, said)
    assert [path.name for path in tmp_path.rglob("*.json")] == []


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"PK\x05\x06" + bytes(18), "is no nnU-Net result folder"), (b"hello", "neither a folder nor a ZIP")],
)
def test_a_file_that_is_no_export_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(content)

    refused(tmp_path / "file.zip", tmp_path / "models", OPTIONS, said)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", tmp_path / "models", OPTIONS, "does not exist")


def refused(source: Path, models: Path, options: NnUNetOptions, said: str, left: int = 0) -> None:
    with pytest.raises((ImportProblem, BundleError), match=said):
        import_nnunet(source, models, options)
    found = list(models.glob("*/*/*")) if left else list(models.glob("**/*"))
    assert len([path for path in found if path.name == "model.toml"]) == left
    assert left or not found, "something was left behind"
    assert not list(models.glob(".import-*"))
