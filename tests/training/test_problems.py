"""What goes wrong around a training is named, and the run goes on where it stopped."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.training.__main__ import app
from pipeline.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pipeline.training.devices import choose_device
from pipeline.training.families.table import TASKS
from pipeline.training.pool import Pool, fill_pool
from pipeline.training.problem import TrainingProblem
from pipeline.training.synthesis.lesion_maps import LesionMapError, check_maps
from pipeline.training.synthesis.subject import Case
from pipeline.training.train import Schedule, Trainer, Watch, run_training
from tests.training.test_network import make_network

TINY = TASKS["tiny"]
QUIET = Watch(report=lambda line: None)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose pool holds eight samples."""
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(Pool(folder), TINY, 0, [], count=8)
    return folder


def run_folder(tmp_path: Path, pool: Path) -> Path:
    """A run folder of its own over the shared samples."""
    (tmp_path / "pool").symlink_to(pool)
    return tmp_path


def some(folder: Path) -> list[Path]:
    """Return one sample to validate on."""
    return sorted((folder / "pool").glob("sample-*.npz"))[:1]


def fail(*arguments: object) -> str:
    """Run a command that must end with one named problem and no traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


def save_map(path: Path, spacing_mm: float = 1.0, ndim: int = 3) -> Path:
    """Write a lesion map with one small cube."""
    array = np.zeros((20, 20, 20, 2)[:ndim], np.uint8)
    array[5:9, 5:9, 5:9] = 1
    nibabel.save(nibabel.Nifti1Image(array, np.diag([spacing_mm] * 3 + [1.0])), path)
    return path


def test_maps_of_the_wrong_grid_stop_a_run_before_it_starts(tmp_path: Path) -> None:
    for n in range(3):
        save_map(tmp_path / f"{n}.nii.gz")
    save_map(tmp_path / "coarse.nii.gz", spacing_mm=2.0)

    output = fail("train", "--task", "tiny", "--out", tmp_path / "run", "--lesion-maps", tmp_path)

    assert "coarse.nii.gz" in output
    assert "2x2x2" in output
    assert not (tmp_path / "run").exists()


def test_every_map_is_looked_at(tmp_path: Path) -> None:
    good, damaged = save_map(tmp_path / "good.nii.gz"), tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"no NIfTI")
    check_maps([good])

    with pytest.raises(LesionMapError, match=r"damaged\.nii\.gz cannot be read"):
        check_maps([good, damaged])
    with pytest.raises(LesionMapError, match="three axes"):
        check_maps([save_map(tmp_path / "series.nii.gz", ndim=4)])


def test_a_folder_without_maps_is_named(tmp_path: Path) -> None:
    assert "leave out --lesion-maps" in fail(
        "train", "--task", "tiny", "--out", tmp_path / "run", "--lesion-maps", tmp_path
    )


def test_a_checkpoint_of_another_architecture_is_named(tmp_path: Path) -> None:
    network = make_network()
    state = network.state_dict()
    Checkpoint(network.architecture, state, state).save(tmp_path / "other.pt")

    output = fail("train", "--task", "tiny", "--out", tmp_path / "run", "--init", tmp_path / "other.pt")

    assert "other.pt holds Architecture" in output


def test_an_unknown_task_or_device_is_named(tmp_path: Path) -> None:
    assert "'large' is not one of lesion, " in fail("train", "--task", "large", "--out", tmp_path)
    with pytest.raises(TrainingProblem, match="'nowhere' cannot be used"):
        choose_device("nowhere")


def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path: Path) -> None:
    network = make_network()
    state = network.state_dict()
    first = Checkpoint(network.architecture, state, state, step=1)
    first.save(tmp_path / "last.pt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A real failure of write(2), as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"step 2 could not be written.*checkpoint before is kept.*Free space"
        ):
            replace(first, step=2).save(tmp_path / "last.pt")
        with pytest.raises(TrainingProblem, match="could not be written"):
            Pool(tmp_path / "pool").write(0, Case(torch.ones(2, 32, 32, 32), torch.ones(32, 32, 32) > 0, ()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert load_checkpoint(tmp_path / "last.pt").step == 1
    assert list(tmp_path.glob("*.part")) == []
    assert list((tmp_path / "pool").iterdir()) == []


def test_a_device_without_memory_is_named(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(TINY, Schedule(batch=2), Pool(run_folder(tmp_path, pool) / "pool"), None)

    def exhausted(image: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "forward", exhausted)
    with pytest.raises(
        TrainingProblem, match=r"ran out of memory at step 0 with 2 samples of \[32, 32, 32\]: lower --batch"
    ):
        trainer.train_step(0.0)


def test_a_dead_generator_stops_the_run(pool: Path, tmp_path: Path) -> None:
    def dead() -> None:
        raise TrainingProblem("a generator process ended with status 1")

    with pytest.raises(TrainingProblem, match="generator process ended"):
        run_training(
            TINY, Schedule(steps=100), run_folder(tmp_path, pool), [], None, replace(QUIET, check=dead)
        )


def test_an_interrupted_run_goes_on_at_its_place_in_the_schedule(pool: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pool)
    schedule = Schedule(minutes=60, steps=12, batch=2)

    def interrupt(progress: float, text: str) -> None:
        if text.startswith("step 5 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(TINY, schedule, folder, some(folder), None, replace(QUIET, advance=interrupt))
    stopped = load_checkpoint(folder / "last.pt", TINY.architecture)
    progress: list[float] = []
    finished = run_training(
        TINY,
        schedule,
        folder,
        some(folder),
        None,
        replace(QUIET, advance=lambda place, text: progress.append(place)),
    )
    said: list[str] = []
    again = run_training(TINY, schedule, folder, some(folder), None, replace(QUIET, report=said.append))

    assert (stopped.step, stopped.run_steps) == (5, 5)
    # Step 6 of 12 is the first of the second piece: neither the schedule nor the optimiser starts anew.
    assert progress[0] == pytest.approx(5 / 12)
    assert (finished.step, again.step) == (12, 12)
    assert len(finished.optimiser["state"]) > 0
    assert "has ended after 12 steps" in said[0]


def test_a_run_in_pieces_ends_with_the_same_files(pool: Path, tmp_path: Path) -> None:
    folder = run_folder(tmp_path, pool)
    schedule = Schedule(minutes=60, steps=6, piece_minutes=1e-9)

    pieces = 0
    while run_training(TINY, schedule, folder, some(folder), None, QUIET).run_steps < 6:
        pieces += 1
        schedule = replace(schedule, piece_minutes=1e-9 if pieces < 2 else None)

    assert load_checkpoint(folder / "last.pt", TINY.architecture).run_steps == 6
    assert sorted(path.name for path in folder.iterdir()) == ["curve.csv", "curve.png", "last.pt", "pool"]


def test_other_weights_begin_a_run_of_their_own(tmp_path: Path) -> None:
    network = make_network(TINY.architecture)
    state = network.state_dict()
    old = Checkpoint(TINY.architecture, state, state, step=50, run_steps=50, run_seconds=100.0)

    anew = old.started_anew()

    assert (anew.step, anew.run_steps, anew.run_seconds) == (50, 0, 0.0)
