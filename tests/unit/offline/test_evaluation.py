"""`dicomnode evaluate` on files: pairs by name, refusals by name, tables that hold the numbers, NIfTI and SEG alike."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dicomnode.commands.cli import cli
from dicomnode.errors import NodeError
from dicomnode.offline.evaluation import Choices, Method, as_json, evaluate, write_evaluation
from dicomnode.offline.masks import find_masks, pair_masks
from dicomnode.results.build import build_answer
from dicomnode.volumes.nifti import write_nifti
from pipeline.records import Array
from tests.factories.nifti import save_nifti
from tests.factories.results import answered_study

SHAPE = (12, 14, 16)
AFFINE = np.diag([2.0, 2.0, 2.5, 1.0])


def ball(middle: tuple[int, int, int], radius: float) -> Array:
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return (np.linalg.norm(index - middle, axis=-1) <= radius).astype(np.uint8)


TRUTH = {f"case-{n}": ball((6, 7, 5 + n), 1.0 + 0.6 * n) for n in range(5)} | {
    "case-5": np.zeros(SHAPE, np.uint8)
}


def write_set(folder: Path, masks: dict[str, Array], affine: Array = AFFINE) -> Path:
    for name, mask in masks.items():
        save_nifti(folder / f"{name}.nii.gz", mask, affine)
    return folder


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_set(tmp_path / "truth", TRUTH)


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    return write_set(tmp_path / "shifted", {name: np.roll(mask, 1, axis=2) for name, mask in TRUTH.items()})


def test_the_truth_against_itself_is_perfect(truth: Path) -> None:
    found = evaluate([Method(truth)], Method(truth), Choices(), lambda _text: None)

    summary = found.summaries["truth"]
    assert [score.name for score in found.scores["truth"]] == sorted(TRUTH)
    assert summary.means["dice"].value == summary.pooled_f1.value == 1
    assert summary.means["distance_95_mm"].value == 0
    assert summary.agreement["slope"].value == pytest.approx(1)
    assert (summary.missed_cases, summary.means["sensitivity"].cases) == (0, 5)


def test_tables_hold_what_was_scored(truth: Path, shifted: Path, tmp_path: Path) -> None:
    choices = Choices(edges_ml=(0.1, 0.5), margin=0.01)
    found = evaluate([Method(shifted), Method(truth)], Method(truth), choices, lambda _text: None)
    write_evaluation(found, choices, tmp_path / "out")

    with (tmp_path / "out" / "cases.csv").open(newline="") as handle:
        rows = {(row["method"], row["case"]): row for row in csv.DictReader(handle)}
    wanted = TRUTH["case-3"]
    both = np.count_nonzero(wanted & np.roll(wanted, 1, axis=2))
    assert len(rows) == 12
    assert float(rows["shifted", "case-3"]["dice"]) == pytest.approx(2 * both / (2 * wanted.sum()), abs=1e-6)
    assert float(rows["shifted", "case-3"]["true_ml"]) == pytest.approx(wanted.sum() * 0.01)
    assert rows["shifted", "case-5"]["sensitivity"] == "n/a"
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told == json.loads(json.dumps(as_json(found, choices)))
    assert told["comparison"]["dice_equivalence"]["equivalent"] is False
    assert told["comparison"]["tests"][0]["mean_difference"] < 0
    for name in ("dice-boxes.png", "volumes.png", "bland-altman.png"):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (720, 560)


def test_a_seg_scores_as_the_nifti_of_the_same_mask(tmp_path: Path) -> None:
    study = answered_study(
        tmp_path / "study",
        roles=("flair",),
        flair={"shape": (32, 64, 64), "spacing_mm": (6.0, 3.0, 3.0)},
    )
    (seg,) = [
        item for item in build_answer(study.context, study.volume, study.result, ()) if item.kind == "seg"
    ]
    labels = study.result.labels
    eroded = np.where(np.roll(labels.array, 1, axis=0) > 0, labels.array, 0)
    files = {
        "seg": tmp_path / "seg" / "sub-01" / "seg.dcm",
        "mask": tmp_path / "nii" / "sub-01" / "lesions.nii.gz",
    }
    for path in files.values():
        path.parent.mkdir(parents=True)
    files["seg"].write_bytes(seg.data)
    write_nifti(files["mask"], labels.array, labels.affine)
    (tmp_path / "truth").mkdir()
    write_nifti(tmp_path / "truth" / "sub-01_label-L_mask.nii.gz", eroded.astype(np.uint8), labels.affine)

    scored = [
        evaluate([Method(tmp_path / name)], Method(tmp_path / "truth"), Choices(), lambda _text: None).scores[
            name
        ][0]
        for name in ("seg", "nii")
    ]
    turned = evaluate(
        [Method(tmp_path / "truth")], Method(tmp_path / "seg"), Choices(), lambda _text: None
    ).scores["truth"][0]
    both_seg = evaluate(
        [Method(tmp_path / "seg")], Method(tmp_path / "seg"), Choices(), lambda _text: None
    ).scores["seg"][0]

    assert scored[0] == scored[1]
    assert 0.5 < scored[0].dice < 1
    assert (turned.dice, turned.precision) == (scored[0].dice, scored[0].sensitivity)
    assert (both_seg.dice, both_seg.true_ml) == (1, pytest.approx(scored[0].predicted_ml))


def test_bids_masks_are_told_from_other_files(tmp_path: Path) -> None:
    for name in ("label-L_mask", "desc-brain_mask", "FLAIR", "label-L_probseg", "label-WM_mask"):
        for session in ("a", "b"):
            save_nifti(
                tmp_path / f"sub-01/ses-{session}/anat/sub-01_ses-{session}_{name}.nii.gz",
                TRUTH["case-1"],
                AFFINE,
            )

    found = find_masks(tmp_path)

    assert {name: path.name for name, path in found.items()} == {
        "sub-01_ses-a": "sub-01_ses-a_label-L_mask.nii.gz",
        "sub-01_ses-b": "sub-01_ses-b_label-L_mask.nii.gz",
    }


def test_folders_name_the_cases_when_all_files_are_called_the_same(tmp_path: Path) -> None:
    for name in ("one", "two/three"):
        save_nifti(tmp_path / name / "lesions.nii.gz", TRUTH["case-1"], AFFINE)

    assert sorted(find_masks(tmp_path)) == ["one", "two/three"]
    assert [pair.name for pair in pair_masks(tmp_path, tmp_path)] == ["one", "two/three"]


def refused(predictions: Path, truth: Path, **patterns: str) -> str:
    with pytest.raises(NodeError) as caught:
        evaluate([Method(predictions, **patterns)], Method(truth), Choices(), lambda _text: None)
    return str(caught.value)


def test_cases_on_one_side_only_are_named(truth: Path, shifted: Path) -> None:
    (shifted / "case-2.nii.gz").unlink()
    (shifted / "case-3.nii.gz").rename(shifted / "case-9.nii.gz")

    message = refused(shifted, truth)

    assert "case-2: there is a truth but no prediction" in message
    assert "case-3: there is a truth but no prediction" in message
    assert "case-9: there is a prediction but no truth" in message


def test_folders_without_masks_are_named(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert f"{tmp_path / 'empty'}: there is no mask" in refused(tmp_path / "empty", truth)
    assert f"{tmp_path / 'absent'}: no such file or folder" in refused(tmp_path / "absent", truth)
    assert "give two files or two folders" in refused(truth / "case-1.nii.gz", truth)
    assert "no file that matches *.mgz" in refused(truth, truth, pattern="*.mgz")


def test_two_files_of_one_case_are_named(truth: Path) -> None:
    for stem in ("sub-1_desc-x", "sub-1_desc-y"):
        save_nifti(truth / f"{stem}_mask.nii.gz", TRUTH["case-1"], AFFINE)

    assert "sub-1: sub-1_desc-x_mask.nii.gz, sub-1_desc-y_mask.nii.gz" in refused(truth, truth)


def test_every_pair_that_does_not_fit_is_named(truth: Path, shifted: Path) -> None:
    save_nifti(shifted / "case-0.nii.gz", TRUTH["case-0"], np.diag([2.0, 2.0, 2.0, 1.0]))
    save_nifti(shifted / "case-1.nii.gz", TRUTH["case-1"][:, :, 1:], AFFINE)
    save_nifti(shifted / "case-2.nii.gz", TRUTH["case-2"] * 0.4, AFFINE)
    save_nifti(shifted / "case-3.nii.gz", np.where(TRUTH["case-3"], np.nan, 0), AFFINE)
    save_nifti(shifted / "case-4.nii.gz", np.stack([TRUTH["case-4"]] * 2, axis=-1), AFFINE)

    lines = refused(shifted, truth).splitlines()[1:]

    assert [(line.split(":")[0].strip(), line.rsplit("(", 1)[1]) for line in lines] == [
        ("case-0", "grid-mismatch)"),
        ("case-1", "grid-mismatch)"),
        ("case-2", "not-a-mask)"),
        ("case-3", "voxels-not-finite)"),
        ("case-4", "not-3d)"),
    ]


def test_the_command_prints_writes_and_refuses(truth: Path, shifted: Path, tmp_path: Path) -> None:
    run = CliRunner()
    arguments = ["evaluate", str(shifted), str(truth), "-o", str(tmp_path / "out")]

    plain = run.invoke(cli, [*arguments, "--against", str(truth)], env={"COLUMNS": "200"})
    as_data = run.invoke(cli, [*arguments, "--json", "--bins", "0.2,1"])
    wrong = run.invoke(cli, [*arguments, "--bins", "5,1"])

    assert plain.exit_code == 0, plain.output
    assert "shifted minus truth" in plain.output
    assert "not shown to be equivalent" in plain.output
    assert json.loads(as_data.stdout)["methods"]["shifted"]["cases"] == 6
    assert "--bins" in str(wrong.exception)


def test_the_same_set_twice_is_refused_as_a_comparison(truth: Path) -> None:
    with pytest.raises(NodeError, match="the same"):
        evaluate([Method(truth), Method(truth)], Method(truth), Choices(), lambda _text: None)


def test_a_single_case_has_no_interval(truth: Path, tmp_path: Path) -> None:
    found = evaluate(
        [Method(truth / "case-3.nii.gz")], Method(truth / "case-3.nii.gz"), Choices(), lambda _text: None
    )

    assert math.isnan(found.summaries["case-3.nii.gz"].means["dice"].low)
    assert as_json(found, Choices())["methods"]["case-3.nii.gz"]["agreement"]["pearson"]["value"] is None
