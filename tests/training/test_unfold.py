"""Planes that go on from a shipped bundle, and planes that share their convolutions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pipeline.training.__main__ import app
from pipeline.training.build import Network, build_network
from pipeline.training.checkpoint import CheckpointError, load_checkpoint
from pipeline.training.network import PLANES, Exportable
from pipeline.training.onnx_graph import write_plane_graph
from pipeline.training.planar_network import fold_normalisation
from pipeline.training.plane_schedule import PlaneSchedule, plane_architecture
from pipeline.training.real_slices import read_slices
from pipeline.training.synthesis.subject import FINE_GRID, Case
from pipeline.training.train_planes import run_planes
from pipeline.training.unfold import unfold_plane
from pipeline.training.volume_pool import VolumePool
from tests.factories.slices import write_slices

pytestmark = pytest.mark.train
WIDTHS = (8, 16, 24)
SLICES = 4


def _trained(plane: str, other_side: int = 0) -> Network:
    """Return a network whose normalisations and other side have moved away from where they began."""
    generator = torch.Generator().manual_seed(5)
    network = build_network(plane_architecture(plane, WIDTHS, other_side))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.5, generator=generator)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.3, 3.0, generator=generator)  # type: ignore[arg-type]
    for weight in network.other_side.parameters():
        nn.init.normal_(weight, 0.0, 0.1, generator=generator)
    return network.eval()


def _ship(network: Network, path: Path) -> Path:
    fold_normalisation(network)
    shape = [32, 32, 32]
    shape[PLANES[network.architecture.plane]] = SLICES
    write_plane_graph(network, shape, path)
    return path


def _slices(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 2, 32, 48, generator=torch.Generator().manual_seed(seed))


def _as_volume(slices: torch.Tensor, plane: str) -> torch.Tensor:
    return slices.transpose(0, 1)[None].movedim(2, 2 + PLANES[plane])


@pytest.mark.parametrize(("plane", "other_side"), [("axial", 2), ("coronal", 0), ("sagittal", 0)])
def test_an_unfolded_network_answers_as_the_graph_and_trains_from_there(
    plane: str, other_side: int, tmp_path: Path
) -> None:
    network = _trained(plane, other_side)
    session = onnxruntime.InferenceSession(_ship(network, tmp_path / "plane.onnx"))
    seen, image = _slices(SLICES, 1), _as_volume(_slices(SLICES, 2), plane)

    start = unfold_plane(network, plane, [seen[:1], seen[1:]])

    answer = session.run(None, {"image": image.numpy()})[0]
    assert abs(Exportable(start.averaged_network())(image).detach().numpy() - answer).max() < 1e-4
    # In training the spreads are those of the batch, which are what was measured: still the same answer.
    again = session.run(None, {"image": _as_volume(seen, plane).numpy()})[0]
    training = build_network(start.architecture)
    training.load_state_dict(start.weights)
    outputs = training.train()(_as_volume(seen, plane))
    assert abs(outputs[0].sigmoid().detach().numpy() - again).max() < 1e-3


def test_one_plane_may_start_from_the_network_of_another() -> None:
    axial = _trained("axial", 2)
    fold_normalisation(axial)

    sagittal, coronal = (unfold_plane(axial, plane, [_slices(4, 1)]) for plane in ("sagittal", "coronal"))

    # It sees one side only: what looked at the other is left behind.
    assert not any(name.startswith("other_side") for name in sagittal.weights)
    assert coronal.architecture.other_side == 2
    assert torch.equal(coronal.weights["other_side.0.weight"], axial.other_side[0].weight)
    for start in (sagittal, coronal):
        assert torch.equal(start.weights["decode.0.first.weight"], axial.decode[0].first.weight)


def test_a_network_that_sees_no_slice_is_not_unfolded() -> None:
    axial = _trained("axial")
    fold_normalisation(axial)

    with pytest.raises(CheckpointError, match="no slice"):
        unfold_plane(axial, "axial", [])


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> VolumePool:
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in FINE_GRID.shape), indexing="ij"))
    brain = ((places - torch.tensor(FINE_GRID.shape)[:, None, None, None] / 2) ** 2).sum(0) < 70**2
    made = VolumePool(tmp_path_factory.mktemp("pool"))
    made.write(0, Case(torch.stack((brain, brain)).float(), brain & (places[0] < 40), ()))
    return made


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(tmp_path_factory.mktemp("slices"), range(1, 61))


def test_planes_share_their_convolutions_and_nothing_else(
    slices: Path, pool: VolumePool, tmp_path: Path
) -> None:
    schedule = PlaneSchedule(
        minutes=60.0, steps=6, widths=WIDTHS, batch=4, other_side=2, shared=True, learning_rate=0.01
    )

    # The second time it goes on from what the first wrote.
    for steps in (6, 12):
        run_planes(
            replace(schedule, steps=steps),
            tmp_path,
            read_slices(slices, "train"),
            pool,
            lambda trainers: {},
            lambda line: None,
        )
        planes = {plane: load_checkpoint(tmp_path / f"{plane}-last.pt") for plane in PLANES}

        assert [checkpoint.run_steps for checkpoint in planes.values()] == [steps // 3] * 3
        axial = planes["axial"].weights
        assert any(bool(value.any()) for name, value in axial.items() if name.startswith("other_side."))
        for plane in ("coronal", "sagittal"):
            weights = planes[plane].weights
            norms = [name for name in weights if ".norms." in name and name.endswith(".weight")]
            assert norms
            assert not any(torch.equal(weights[name], axial[name]) for name in norms)
            assert all(
                torch.equal(value, axial[name]) for name, value in weights.items() if ".norms." not in name
            )


def test_a_run_begins_with_the_graphs_of_a_bundle(slices: Path, pool: VolumePool, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--slices", str(slices), "--pool", str(pool.folder)])
        assert result.exit_code == 0, result.output
        return result.output

    out = tmp_path / "run"
    wrote = invoke(
        "unfold-planes", "--bundle", "stroke-lesion-triplanar", "--out", str(out), "--source", "axial"
    )
    options = wrote.partition(f"--out {out}")[2].partition(" goes on")[0].split()
    start = load_checkpoint(out / "coronal-last.pt")
    invoke("train-planes", "--out", str(out), "--minutes", "0.01", "--shared", "--batch", "2", *options)

    # What the graph holds says how wide it is, and how much of the other side it sees.
    assert start.architecture == plane_architecture("coronal", (24, 48, 96, 160), 3)
    assert start.run_steps == 0
    assert list(out.glob("coronal-*.average.pt"))


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("unfold-planes", ["--bundle", "stroke-lesion-triplanar", "--out", "begun", "--pool", "pool"], "there already"),
        ("unfold-planes", ["--bundle", "stroke-lesion-ensemble", "--out", "new", "--pool", "pool"], "no bundle of planes"),
        ("unfold-planes", ["--bundle", "stroke-lesion-triplanar", "--out", "new", "--pool", "none"], "synthesize-volumes"),
        ("train-planes", ["--out", "new", "--pool", "pool", "--shared", "--plane", "axial"], "leave out --plane"),
        ("train-planes", ["--out", "new", "--pool", "pool", "--device", "nowhere"], "the device 'nowhere' cannot be used"),
    ],
)  # fmt: skip
def test_what_no_run_can_begin_with_is_named_and_leaves_nothing(
    command: str, options: list[str], words: str, slices: Path, pool: VolumePool, tmp_path: Path
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "sagittal-last.pt").write_bytes(b"a run of before")
    folders = {"pool": str(pool.folder), **{name: str(tmp_path / name) for name in ("begun", "new", "none")}}

    refused = CliRunner().invoke(
        app, [command, "--slices", str(slices), *(folders.get(option, option) for option in options)]
    )

    assert refused.exit_code == 1
    assert words in " ".join(refused.output.split())
    assert [path.name for path in tmp_path.rglob("*-last.pt")] == ["sagittal-last.pt"]
