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
from pipeline.training.onnx_graph import store_as_float16, write_plane_graph
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


def _ship(network: Network, path: Path, *, half: bool = False) -> Path:
    import onnx

    fold_normalisation(network)
    shape = [32, 32, 32]
    shape[PLANES[network.architecture.plane]] = SLICES
    model = write_plane_graph(network, shape, path)
    if half:
        onnx.save(store_as_float16(model), path)
    return path


def _slices(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 2, 32, 48, generator=torch.Generator().manual_seed(seed))


def _as_volume(slices: torch.Tensor, plane: str) -> torch.Tensor:
    return slices.transpose(0, 1)[None].movedim(2, 2 + PLANES[plane])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("plane", "other_side"), [("axial", 2), ("coronal", 0), ("sagittal", 0)])
def test_an_unfolded_network_answers_as_the_graph_and_trains_from_there(
    plane: str, other_side: int, half: bool, tmp_path: Path
) -> None:
    graph = _ship(_trained(plane, other_side), tmp_path / "plane.onnx", half=half)
    seen, image = _slices(SLICES, 1), _as_volume(_slices(SLICES, 2), plane)

    start = unfold_plane(graph, plane_architecture(plane, WIDTHS, other_side), [seen[:1], seen[1:]])

    session = onnxruntime.InferenceSession(graph)
    answer = session.run(None, {"image": image.numpy()})[0]
    network = start.averaged_network()
    assert abs(Exportable(network)(image).detach().numpy() - answer).max() < 1e-4
    # In training the spreads are those of the batch, which are what was measured: still the same answer.
    again = session.run(None, {"image": _as_volume(seen, plane).numpy()})[0]
    training = build_network(start.architecture)
    training.load_state_dict(start.weights)
    outputs = training.train()(_as_volume(seen, plane))
    assert abs(outputs[0].sigmoid().detach().numpy() - again).max() < 1e-3


def test_one_plane_may_start_from_the_graph_of_another(tmp_path: Path) -> None:
    graph = _ship(_trained("axial", 2), tmp_path / "axial.onnx")

    start = unfold_plane(graph, plane_architecture("sagittal", WIDTHS), [_slices(4, 1)])

    # It sees one side only: what looked at the other is left behind.
    assert not any(name.startswith("other_side") for name in start.weights)
    shared = unfold_plane(graph, plane_architecture("coronal", WIDTHS, 2), [_slices(4, 1)])
    assert torch.equal(start.weights["decode.0.first.weight"], shared.weights["decode.0.first.weight"])


@pytest.mark.parametrize("kind", ["no file", "noise", "other widths", "another network"])
def test_what_is_no_graph_of_planes_is_named(kind: str, tmp_path: Path) -> None:
    path, architecture = tmp_path / "plane.onnx", plane_architecture("axial", WIDTHS)
    if kind == "noise":
        path.write_bytes(b"\x00noise" * 20)
    elif kind != "no file":
        _ship(_trained("axial"), path)
        architecture = replace(architecture, widths=(8, 16, 25) if kind == "other widths" else (*WIDTHS, 32))

    with pytest.raises(CheckpointError, match=r"plane\.onnx"):
        unfold_plane(path, architecture, [_slices(2, 1)])


def test_a_network_that_sees_no_slice_is_not_unfolded(tmp_path: Path) -> None:
    graph = _ship(_trained("axial"), tmp_path / "plane.onnx")

    with pytest.raises(CheckpointError, match="no slice"):
        unfold_plane(graph, plane_architecture("axial", WIDTHS), [])


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
    invoke("unfold-planes", "--bundle", "stroke-lesion-triplanar", "--out", str(out), "--source", "axial",
           "--other-side", "3")  # fmt: skip
    start = load_checkpoint(out / "coronal-last.pt")
    again = CliRunner().invoke(
        app, ["unfold-planes", "--bundle", "stroke-lesion-triplanar", "--out", str(out), "--other-side", "3",
              "--slices", str(slices), "--pool", str(pool.folder)],
    )  # fmt: skip
    invoke(
        "train-planes",
        "--out",
        str(out),
        "--minutes",
        "0.01",
        "--other-side",
        "3",
        "--shared",
        "--batch",
        "2",
    )

    assert again.exit_code == 1
    assert "is there already" in again.output
    assert start.run_steps == 0
    assert list(out.glob("coronal-*.average.pt"))
    nowhere = CliRunner().invoke(
        app, ["unfold-planes", "--bundle", "stroke-lesion-triplanar", "--out", str(tmp_path / "other"),
              "--slices", str(slices), "--pool", str(tmp_path / "empty")],
    )  # fmt: skip
    assert nowhere.exit_code == 1
    assert "synthesize-volumes" in nowhere.output
