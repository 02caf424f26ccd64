"""`validate --bundle --samples`: every family at its own thresholds and minimum volume, on samples whose answer is known; misfits are named."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline.segmenters.families import load_bundle
from pipeline.training.__main__ import app
from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.families.table import TASKS
from pipeline.training.held_out import score_bundle, summarise_bundle
from pipeline.training.pool import Pool
from pipeline.training.synthesis.subject import Case
from scripts.bench.families import render
from tests.factories.families import BRIGHT, NEVER, write_ensemble, write_proposal, write_triplanar
from tests.factories.onnx import known_brain_bundle, known_lesion_bundle

pytestmark = pytest.mark.train

GRID = TASKS["lesion"].grid
OWN = {"t1+flair": 0.5, "flair": 0.3}
"""The faint lesion of the samples has a probability of 0.35: it is found on FLAIR alone and missed on both."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples: a bright lesion of 8 mL, a faint one of 4.1 mL and a speck of 0.03 mL that is none; and a head without a lesion."""
    image, label = torch.zeros(2, *GRID.shape), torch.zeros(GRID.shape, dtype=torch.bool)
    image[:, 10:70, 12:84, 10:70] = 1.0
    empty = Case(image.clone(), label.clone(), ())
    for part, value in (((20, 30), 2.8), ((32, 40), 1.5)):
        box = (slice(*part),) * 3
        image[1][box], label[box] = value, True
    image[1, 20:22, 34:36, 50] = 2.8
    folder = tmp_path_factory.mktemp("held")
    for number, case in enumerate((empty, Case(image, label, ()), empty)):
        Pool(folder).write(number, case)
    return folder


def make_patch3d(models: Path) -> Path:
    return known_lesion_bundle(models, output__thresholds=OWN).folder


def make_triplanar(models: Path) -> Path:
    return write_triplanar(
        models, dict.fromkeys(("axial", "coronal", "sagittal"), BRIGHT), output__thresholds=OWN
    )


def make_proposal(models: Path) -> Path:
    return write_proposal(models, proposal=BRIGHT, coarse=BRIGHT, output__thresholds=OWN)


def make_ensemble(models: Path) -> Path:
    members = [load_bundle(make(models)) for make in (make_patch3d, make_proposal)]
    # Its own threshold is another than its members': theirs are moved onto it.
    return write_ensemble(
        models,
        {f"{each.name}/{each.version}": each.sha256 for each in members},
        output__threshold=0.6,
        output__thresholds={},
    )


def make_ensemble_that_asks_some(models: Path) -> Path:
    """Give an ensemble whose silent member is asked about a T1 alone, where nobody finds anything."""
    silent = write_triplanar(
        models, dict.fromkeys(("axial", "coronal", "sagittal"), NEVER), name="known-silent"
    )
    members = [load_bundle(folder) for folder in (make_patch3d(models), make_proposal(models), silent)]
    digests = {f"{each.name}/{each.version}": each.sha256 for each in members}
    return write_ensemble(
        models,
        digests,
        asked={list(digests)[-1]: {"t1": 0.5}},
        output__threshold=0.6,
        output__thresholds={},
    )


def validate(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "make",
    [make_patch3d, make_triplanar, make_proposal, make_ensemble, make_ensemble_that_asks_some],
)
def test_every_family_is_scored_at_its_own_thresholds(
    make: Callable[[Path], Path], samples: Path, tmp_path: Path
) -> None:
    folder, table = make(tmp_path / "models"), tmp_path / "scores" / "table.csv"

    code, said = validate(
        "--bundle", folder, "--samples", samples, "--count", 3, "--choosing", 1, "--csv", table
    )

    assert code == 0, said
    rows = {(row["sample"], row["input"]): row for row in csv.DictReader(table.read_text().splitlines())}
    assert {sample for sample, _ in rows} == {"sample-00001", "sample-00002"}
    both, flair, t1 = (rows["sample-00001", name] for name in ("t1+flair", "flair", "t1"))
    # 1,000 and 512 voxels of 8 mm3; the speck of 4 voxels is smaller than the bundle's minimum of 50 mm3.
    assert [float(row["found_ml"]) for row in (both, flair, t1)] == pytest.approx([8.0, 12.096, 0.0])
    assert [float(row["dice"]) for row in (both, flair, t1)] == pytest.approx(
        [2000 / 2512, 1.0, 0.0], abs=1e-4
    )
    assert [row["lesions_detected"] + "/" + row["lesions_true"] for row in (both, flair, t1)] == [
        "1/2",
        "2/2",
        "0/2",
    ]
    assert [float(rows["sample-00002", name]["dice"]) for name in ("t1+flair", "t1", "flair")] == [
        1.0,
        1.0,
        1.0,
    ]
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in said.splitlines()
        if "|" in line
    }
    assert lines["figure"] == ["t1+flair", "t1", "flair"]
    assert lines["dice"] == ["0.90", "0.50", "1.00"]
    assert lines["lesion f1"] == ["0.67", "0.00", "1.00"]
    assert lines["dice 5 to 20 ml"] == ["0.80", "0.00", "1.00"]
    assert "on 2 samples, sample-00001 to sample-00002" in said


@pytest.mark.parametrize("make", [make_patch3d, make_ensemble])
def test_thresholds_and_peaks_that_suit_a_bundle_are_said(
    make: Callable[[Path], Path], samples: Path, tmp_path: Path
) -> None:
    code, said = validate(
        "--bundle", make(tmp_path / "models"), "--samples", samples, "--count", 2, "--choosing", 2, "--settle"
    )

    assert code == 0, said
    told = tomllib.loads("\n".join(line for line in said.splitlines() if "=" in line))
    # The faint lesion, of a probability of 0.35, is found by a threshold below it. A peak above it would lose it, and the speck costs less.
    assert set(told["thresholds"]) == {"t1+flair", "t1", "flair"}
    if make is make_ensemble:
        assert set(told["thresholds"].values()) == {0.6}
    if make is make_patch3d:
        assert told["thresholds"]["flair"] <= 0.35
        assert "flair" not in told["peaks"]


def test_a_lesion_that_nowhere_reaches_the_peak_is_not_found(samples: Path, tmp_path: Path) -> None:
    peaks = {"t1+flair": 0.3, "flair": 0.6}
    folder, table = (
        known_lesion_bundle(tmp_path / "models", output__thresholds=OWN, output__peaks=peaks).folder,
        tmp_path / "table.csv",
    )

    code, said = validate(
        "--bundle", folder, "--samples", samples, "--count", 2, "--choosing", 1, "--csv", table
    )

    assert code == 0, said
    rows = {row["input"]: row for row in csv.DictReader(table.read_text().splitlines())}
    # On FLAIR alone the faint lesion is above the threshold of 0.3, and nowhere at the peak of 0.6.
    assert float(rows["flair"]["found_ml"]) == pytest.approx(8.0)
    assert "| peak | 0.30 | 0.00 | 0.60 |" in said


def test_what_cannot_be_scored_is_named(samples: Path, tmp_path: Path) -> None:
    held = ("--samples", samples, "--count", 2)
    brain = known_brain_bundle(tmp_path / "models").folder
    fine = known_lesion_bundle(tmp_path / "models", name="fine", input__spacing_mm=[1.0, 1.0, 1.0]).folder
    good = make_patch3d(tmp_path / "models")

    answers = [
        validate("--bundle", brain, *held),
        validate("--bundle", fine, *held),
        validate("--bundle", "absent", *held, "--models", tmp_path / "models"),
        validate("--bundle", good, *held, "--choosing", 2),
        validate("--bundle", good, *held, "--task", "tiny"),
        validate("--bundle", good, *held, "--csv", good / "model.toml" / "table.csv"),
    ]

    assert [code for code, _ in answers] == [1] * 6
    words = [
        "made for the task 'brain'",
        "at (1.0, 1.0, 1.0) mm",
        "no model bundle 'absent'",
        "no sample is left",
        "at (5.0, 6.0, 5.0) mm",
        "written",
    ]
    assert [word for word, (_, said) in zip(words, answers, strict=True) if word not in said] == []


def test_a_checkpoint_is_scored_on_the_samples_that_settled_nothing(tmp_path: Path) -> None:
    task, folder = TASKS["tiny"], tmp_path / "held"
    torch.manual_seed(3)
    weights = build_network(task.architecture).state_dict()
    Checkpoint(task.architecture, weights, weights, {}, 7, 1.0, 7, 1.0).save(tmp_path / "last.pt")
    label = torch.zeros(task.grid.shape, dtype=torch.bool)
    for number in range(4):
        # Nothing to see in the first two, which settle the cut; a lesion that an untrained network does not find in the others.
        if number == 2:
            label[4:20, 4:20, 4:20] = True
        Pool(folder).write(number, Case(torch.ones(2, *task.grid.shape), label.clone(), ()))

    code, said = validate(
        "--checkpoint",
        tmp_path / "last.pt",
        "--samples",
        folder,
        "--task",
        "tiny",
        "--count",
        4,
        "--choosing",
        2,
    )

    assert code == 0, said
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in said.splitlines()
        if "|" in line
    }
    assert lines["figure"] == ["t1+flair", "t1", "flair"]
    assert lines["cases"] == ["2.00"] * 3
    assert all(0.0 <= float(cell) < 0.5 for cell in lines["dice"])
    missing = validate(
        "--checkpoint", tmp_path / "absent.pt", "--samples", folder, "--task", "tiny", "--count", 4
    )
    assert missing[0] == 1
    assert "absent.pt" in missing[1]


def test_a_checkpoint_and_a_bundle_together_are_not_guessed_about(samples: Path, tmp_path: Path) -> None:
    code, said = validate(
        "--bundle", "stroke-lesion-2mm", "--samples", samples, "--checkpoint", tmp_path / "last.pt"
    )

    assert code == 2
    assert validate("--checkpoint", tmp_path / "last.pt", "--samples", samples, "--settle")[0] == 2
    assert "either --checkpoint FILE or --bundle NAME" in " ".join(said.replace("│", " ").split())


def test_the_page_says_what_is_reached_and_what_was_chosen_on_these_heads() -> None:
    figures = {
        "cases": 4.0,
        "dice": 0.71,
        "lesion_f1": 0.59,
        "volume_correlation": 0.9,
        "dice_5_to_20_ml": 0.5,
    }
    both = {
        name: {**figures, "dice": dice} for name, dice in (("t1+flair", 0.71), ("t1", 0.4499), ("flair", 0.6))
    }
    row = {
        "name": "known/1",
        "by": both,
        "untouched": {"t1+flair": {**figures, "cases": 3.0}},
        "peak_mb": 500.0,
        "file_mb": 5.8,
    }

    lines = list(render([row], []))

    assert "| dice, t1+flair | 0.70 | **0.710** |" in lines
    assert "| lesion f1, t1+flair | 0.60 | 0.590 |" in lines
    assert "| dice, flair | 0.60 | **0.600** |" in lines
    assert "| dice, t1 | 0.45 | 0.450 |" in lines
    assert "| known/1 | t1+flair |  |  | 0.50 |  |  |" in lines
    assert any("The last 3 of these heads" in line for line in lines)


def test_what_does_not_show_is_not_asked_for(tmp_path: Path) -> None:
    image, label = torch.zeros(2, *GRID.shape), torch.zeros(GRID.shape, dtype=torch.bool)
    image[:, 10:70, 12:84, 10:70] = 1.0
    bright, hidden = (slice(20, 30),) * 3, (slice(40, 50),) * 3
    image[1][bright] = 2.8
    label[bright] = label[hidden] = True
    shown = torch.zeros_like(image, dtype=torch.bool)
    shown[1][bright] = True
    Pool(tmp_path / "held").write(0, Case(image, label, (), shown))
    Pool(tmp_path / "held").write(1, Case(image, label, ()))
    bundle = load_bundle(make_patch3d(tmp_path / "models"))

    rows = [
        row
        for row in score_bundle(bundle, TASKS["lesion"], Pool(tmp_path / "held").paths())
        if row.combination != "t1"
    ]
    table = summarise_bundle(bundle, rows)

    assert [row.shown is None for row in rows] == [row.sample == "sample-00001" for row in rows]
    for row in rows:
        assert row.score.truth_ml == pytest.approx(16.0)
        assert row.dice == pytest.approx(2 / 3, abs=0.01)
        assert table[row.combination]["shown_dice"] == pytest.approx(1.0, abs=0.01)
        assert table[row.combination]["shown_truth_ml"] == pytest.approx(8.0)
        assert table[row.combination]["dice"] == pytest.approx(2 / 3, abs=0.01)
