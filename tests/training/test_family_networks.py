"""The networks of the other families in small: slices and regions are drawn as said, a few steps lower the loss, bundles are written and run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.bundles.bundle import verify_bundle
from pipeline.plan import plan_network
from pipeline.segmenters.families import infer_channels, load_bundle
from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint, CheckpointError
from pipeline.training.families import proposal3d, triplanar
from pipeline.training.families.proposal3d import export_proposal
from pipeline.training.families.table import TASKS
from pipeline.training.families.triplanar import export_triplanar
from pipeline.training.graph_set import sample_channels
from pipeline.training.network import Architecture
from pipeline.training.planar_network import mirror_difference
from pipeline.training.pool import Pool, fill_pool, read_sample
from pipeline.training.synthesis.fields import Grid
from pipeline.training.tasks import Task, vary
from pipeline.training.train import Schedule, Trainer
from pipeline.training.transfer import take_encoder

pytestmark = pytest.mark.train

ROLES = ("t1", "flair")
SMALL = Grid((32, 32, 32), (5.0, 6.0, 5.0))
WIDTHS = (4, 8, 8)


def small_task(name: str) -> Task:
    """Return a task of the table on a small grid with narrow levels."""
    task = TASKS[name]
    crop = (16, 16, 16) if task.crop else None
    return dataclasses.replace(
        task, grid=SMALL, crop=crop, architecture=dataclasses.replace(task.architecture, widths=WIDTHS)
    )


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    pool = Pool(tmp_path_factory.mktemp("pool"))
    fill_pool(pool, TASKS["tiny"], 0, (), count=12)
    return pool


def fresh(task: Task) -> Checkpoint:
    torch.manual_seed(1)
    weights = build_network(task.architecture).state_dict()
    return Checkpoint(task.architecture, weights, {name: value.clone() for name, value in weights.items()})


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_planar_network_sees_each_slice_by_itself(plane: str) -> None:
    network = build_network(Architecture(ROLES, WIDTHS, pyramid=False, plane=plane)).eval()
    axis = 2 + ("axial", "coronal", "sagittal").index(plane)
    image = torch.randn(1, 2, 8, 12, 16)

    with torch.inference_mode():
        whole = network(image)
        other = image.clone()
        other.select(axis, 3).add_(1.0)
        changed = (network(other) - whole).abs().amax(dim=tuple(each for each in range(5) if each != axis))

    assert whole.shape == (1, 1, 8, 12, 16)
    assert changed.nonzero().flatten().tolist() == [3]


def test_the_mirror_difference_is_of_left_and_right_inside_the_head() -> None:
    image = torch.zeros(1, 1, 1, 1, 4)
    image[..., :] = torch.tensor([0.0, 1.0, 3.0, 2.0])

    assert mirror_difference(image).flatten().tolist() == [0.0, 2.0, 2.0, 2.0]


def test_slices_are_drawn_through_the_lesion_as_often_as_said() -> None:
    task = dataclasses.replace(small_task("triplanar-coronal"), slices=1)
    image, label = torch.ones(2, 32, 32, 32), torch.zeros(32, 32, 32)
    label[:, 7] = 1.0
    generator = torch.Generator().manual_seed(0)

    drawn = [vary(image, label, task, generator, 1.0) for _ in range(200)]

    assert drawn[0][0].shape == (1, 2, 32, 1, 32)
    assert np.mean([bool(found.any()) for _, found in drawn]) == pytest.approx(task.focus, abs=0.1)


def test_regions_are_drawn_on_the_lesion_as_often_as_said() -> None:
    task = small_task("proposal3d")
    image, label = torch.ones(2, 32, 32, 32), torch.zeros(32, 32, 32)
    label[31, 0, 31] = 1.0
    generator = torch.Generator().manual_seed(0)

    drawn = [vary(image, label, task, generator, 1.0)[1] for _ in range(200)]

    assert drawn[0].shape == (1, 1, 16, 16, 16)
    assert np.mean([bool(found.any()) for found in drawn]) == pytest.approx(task.focus, abs=0.1)


@pytest.mark.parametrize(
    "name", ["triplanar-axial", "triplanar-sagittal", "proposal2d", "proposal-coarse", "proposal3d"]
)
def test_a_few_steps_lower_the_loss(name: str, pool: Pool) -> None:
    trainer = Trainer(small_task(name), Schedule(learning_rate=5e-3, crop_share=1.0), pool, None)

    losses = [trainer.train_step(0.0) for _ in range(40)]

    assert np.mean(losses[-8:]) < 0.85 * np.mean(losses[:4])
    assert trainer.checkpoint(0.0).averaged_network().training is False


def test_an_encoder_is_taken_over_and_the_rest_is_fresh() -> None:
    axial, coronal = fresh(small_task("triplanar-axial")), small_task("triplanar-coronal").architecture

    taken = take_encoder(axial, coronal)

    assert taken.architecture == coronal
    assert all(
        torch.equal(value, axial.average[name])
        for name, value in taken.weights.items()
        if name.startswith("encode.")
    )
    assert not torch.equal(taken.weights["decode.0.first.weight"], axial.average["decode.0.first.weight"])
    # A network that also sees the mirrored image keeps its own first convolution.
    mirrored = take_encoder(axial, small_task("proposal2d").architecture)
    assert mirrored.weights["encode.0.first.weight"].shape[1] == 4
    with pytest.raises(CheckpointError, match="has no encoder for"):
        take_encoder(
            fresh(small_task("proposal-coarse")), Architecture(ROLES, (5, 6, 7), pyramid=False, plane="axial")
        )


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "triplanar-axial",
        "triplanar-coronal",
        "triplanar-sagittal",
        "proposal2d",
        "proposal-coarse",
        "proposal3d",
    ):
        for tasks in (TASKS, triplanar.TASKS, proposal3d.TASKS):
            if name in tasks:
                monkeypatch.setitem(tasks, name, small_task(name))  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_tasks")
def test_both_bundles_are_written_verified_and_run(pool: Pool, tmp_path: Path) -> None:
    samples = pool.paths()
    common = {
        "version": "0.1.0",
        "training": {"seed": 1, "compute": "a test"},
        "sections": {"Seen": "nothing"},
        "proved": 3,
    }
    planes = {plane: fresh(TASKS[f"triplanar-{plane}"]) for plane in ("axial", "coronal", "sagittal")}
    parts = {name: fresh(TASKS[name]) for name in ("proposal3d", "proposal2d", "proposal-coarse")}

    folders = [
        export_triplanar(planes, tmp_path, (samples[:2], samples[2:4]), **common),  # type: ignore[arg-type]
        export_proposal(parts, tmp_path, (samples[:2], samples[2:4]), **common, thresholds=(0.4, 0.4)),  # type: ignore[arg-type]
    ]

    image = read_sample(samples[0])[0].numpy()
    for folder in folders:
        bundle = load_bundle(folder)
        verify_bundle(bundle)
        answer, used = infer_channels(bundle, sample_channels(image), plan_network(bundle, (), threshold=0.5))
        assert answer.probability.array.shape == SMALL.shape
        assert 0 <= answer.probability.array.min() <= answer.probability.array.max() <= 1
        card = (folder / "CARD.md").read_text()
        assert all(name in card for name in bundle.graphs)
        assert "Results on held-out synthetic cases" in card
        assert "For research use; not for diagnosis" in card
        assert used["threads"] == 1
    assert load_bundle(folders[0]).training_data.startswith("Synthetic heads")
