"""Another person's lesion in a slice, slices moved to the middle, and planes that see the other side."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch

from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pipeline.training.families.triplanar import PlaneCuts, PlaneProvenance, export_planes, read_average
from pipeline.training.graft import LARGEST_RIM_PX, SOFT_RIM_PX, graft_lesion
from pipeline.training.network import PLANES, Architecture, Exportable
from pipeline.training.onnx_graph import write_plane_graph
from pipeline.training.plane_proof import read_planes
from pipeline.training.plane_schedule import PlaneSchedule, plane_architecture
from pipeline.training.real_slices import read_slices
from pipeline.training.slice_augment import centre_columns
from pipeline.training.synthesis.subject import FINE_GRID, Case
from pipeline.training.train_planes import run_planes
from pipeline.training.transfer import widen_planes
from pipeline.training.volume_pool import VolumePool
from tests.factories.slices import write_slices

pytestmark = pytest.mark.train
ROWS, COLUMNS = 64, 48


def _disc(row: float, column: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


@pytest.mark.parametrize("seed", range(20))
def test_a_graft_brings_the_lesion_and_leaves_the_rest(seed: int) -> None:
    """The donor is a quarter brighter everywhere; its lesion stays brighter than its rim by as much."""
    generator = torch.Generator().manual_seed(seed)
    brain, other_brain = _disc(32, 24, 22).float(), _disc(30, 26, 22).float()
    old, new = _disc(20, 16, 4).float(), _disc(40 - seed, 30, 5).float()
    image, donor = brain * (1 + 0.5 * old), other_brain * 1.25 * (1 + new)

    pasted, mask = graft_lesion(image, old, donor, new, generator)

    in_both = (brain > 0) & (other_brain > 0)
    assert torch.equal(pasted > 0, brain > 0)
    assert bool((mask[(new > 0) & in_both] == 1).all())
    assert float(pasted[(new > 0) & in_both & (old == 0)].median()) == pytest.approx(2.0, rel=0.05)
    far = torch.ones_like(brain, dtype=torch.bool)
    for row, column in new.nonzero().tolist():
        far &= ~_disc(row, column, LARGEST_RIM_PX + SOFT_RIM_PX + 1)
    assert torch.equal(pasted[far], image[far])
    assert torch.equal(mask[far], old[far])


def test_a_graft_without_a_common_brain_changes_nothing() -> None:
    image, donor = _disc(10, 10, 8).float(), _disc(50, 40, 7).float()

    pasted, mask = graft_lesion(image, 0 * image, donor, donor, torch.Generator().manual_seed(0))

    assert torch.equal(pasted, image)
    assert int(mask.sum()) == 0


@pytest.mark.parametrize("column", range(8, 41, 4))
def test_a_slice_is_moved_to_the_middle_of_its_columns(column: int) -> None:
    flair = _disc(30, column, 7).float()
    images = torch.stack((torch.zeros_like(flair), flair))[None]

    moved, masks = centre_columns(images, flair[None, None], torch.Generator().manual_seed(0), jitter=0)

    assert torch.equal(moved[0, 1], _disc(30, 24, 7).float().roll(-1, dims=1)) or torch.equal(
        moved[0, 1], _disc(30, 24, 7).float()
    )
    assert torch.equal(masks[0, 0], moved[0, 1])


def test_an_empty_slice_is_only_jittered() -> None:
    empty = torch.zeros(2, 2, ROWS, COLUMNS)

    moved, masks = centre_columns(empty, empty[:, :1], torch.Generator().manual_seed(0))

    assert torch.equal(moved, empty)
    assert torch.equal(masks, empty[:, :1])


@pytest.mark.parametrize(("plane", "levels"), [("sagittal", 1), ("", 1), ("axial", 4), ("axial", -1)])
def test_only_planes_from_side_to_side_see_the_other_one(plane: str, levels: int) -> None:
    with pytest.raises(ValueError, match="other side"):
        Architecture(("t1", "flair"), (8, 16, 24), plane=plane, other_side=levels)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of planes that see the other side, on grafted slices and with dropout."""
    folder = tmp_path_factory.mktemp("run")
    slices = read_slices(write_slices(tmp_path_factory.mktemp("slices"), range(1, 61)), "train")
    pool = VolumePool(tmp_path_factory.mktemp("pool"))
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in FINE_GRID.shape), indexing="ij"))
    brain = ((places - torch.tensor(FINE_GRID.shape)[:, None, None, None] / 2) ** 2).sum(0) < 70**2
    pool.write(0, Case(torch.stack((brain, brain)).float(), brain & (places[0] < 40), ()))
    schedule = PlaneSchedule(
        minutes=60.0,
        steps=6,
        widths=(8, 16, 24),
        batch=4,
        graft_share=0.9,
        dropout=0.2,
        other_side=2,
        learning_rate=0.05,
    )
    run_planes(schedule, folder, slices, pool, lambda trainers: {}, lambda line: None)
    return folder


def _average(run: Path, plane: str) -> Path:
    return next(run.glob(f"{plane}-*.average.pt"))


def test_the_graph_sees_the_other_side_as_the_network_does(run: Path, tmp_path: Path) -> None:
    """The graph answers as the network does, in every size; without the other side it would answer otherwise."""
    network = read_average(_average(run, "axial"), "axial")
    # A run of seconds hardly moves them from zero.
    for weight in network.other_side.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(3))
    write_plane_graph(network, (2, 64, 48), tmp_path / "axial.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "axial.onnx")
    blind = copy.deepcopy(network)
    for weight in blind.other_side.parameters():
        torch.nn.init.zeros_(weight)

    for shape in ((2, 64, 48), (2, 96, 80)):
        image = torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(shape[1]))
        answer = Exportable(network)(image).detach()
        shipped = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
        assert torch.allclose(torch.from_numpy(shipped), answer, atol=1e-5)
        assert not torch.allclose(Exportable(blind)(image), answer, atol=1e-4)
    assert load_checkpoint(_average(run, "sagittal")).architecture.other_side == 0


def test_a_bundle_of_such_planes_is_read_again(run: Path, tmp_path: Path) -> None:
    bundle = export_planes(
        {plane: _average(run, plane) for plane in PLANES},
        tmp_path,
        version="9.9.9",
        cuts=PlaneCuts(dict.fromkeys(PLANES, 0.5)),
        provenance=PlaneProvenance("made slices", "Made slices.", {}),
    )

    assert {plane: network.architecture.other_side for plane, network in read_planes(bundle).items()} == {
        "axial": 2,
        "coronal": 2,
        "sagittal": 0,
    }


@pytest.mark.parametrize("plane", ["axial", "sagittal"])
def test_planes_that_saw_one_side_go_on_as_they_were(plane: str) -> None:
    torch.manual_seed(1)
    blind = plane_architecture(plane, (8, 16, 24))
    start = Checkpoint(blind, weights := _weights(blind), weights)
    image = torch.rand(1, 2, *((2, 32, 32) if plane == "axial" else (32, 32, 2)))

    seeing = widen_planes(start, plane_architecture(plane, (8, 16, 24), other_side=2))
    wider = widen_planes(seeing, plane_architecture(plane, (9, 20, 30), other_side=2), noise=0.0)

    before = start.averaged_network()(image)
    assert torch.equal(seeing.averaged_network()(image), before)
    assert torch.allclose(wider.averaged_network()(image), before, atol=1e-4)


def test_a_wider_network_compares_the_sides_as_before() -> None:
    torch.manual_seed(2)
    architecture = plane_architecture("axial", (8, 16, 24), other_side=2)
    weights = {
        name: torch.randn_like(value) * 0.2 if name.startswith("other_side.") else value
        for name, value in _weights(architecture).items()
    }
    start, image = Checkpoint(architecture, weights, weights), torch.rand(1, 2, 2, 32, 32)

    wider = widen_planes(start, replace(architecture, widths=(9, 20, 30)), noise=0.0)

    assert torch.allclose(wider.averaged_network()(image), start.averaged_network()(image), atol=1e-4)
    with pytest.raises(CheckpointError, match="cannot be widened"):
        widen_planes(start, replace(architecture, other_side=1))


def _weights(architecture: Architecture) -> dict[str, torch.Tensor]:
    return build_network(architecture).state_dict()
