"""The planes: trained for some steps on made slices and made volumes, stopped and gone on with, exported, scored through the shipped path."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pipeline.bundles.bundle import Bundle, verify_bundle
from pipeline.errors import BundleError
from pipeline.segmenters.families import load_bundle
from pipeline.training import plane_proof
from pipeline.training.__main__ import app
from pipeline.training.build import build_network
from pipeline.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from pipeline.training.families.triplanar import PlaneCuts, PlaneProvenance, export_planes, read_average
from pipeline.training.network import PLANES, Exportable
from pipeline.training.onnx_graph import open_session, run_session, store_as_float16, write_onnx
from pipeline.training.planar_network import fold_normalisation
from pipeline.training.plane_proof import weigh_slices
from pipeline.training.plane_schedule import PlaneSchedule, plane_architecture
from pipeline.training.problem import TrainingProblem
from pipeline.training.proof import PROOF_FILE, read_proof
from pipeline.training.real_slices import read_slices
from pipeline.training.slice_answers import answer_slices
from pipeline.training.synthesis.subject import FINE_GRID, Case
from pipeline.training.train_planes import PlaneTrainer, plane_loss, run_planes
from pipeline.training.transfer import widen_planes
from pipeline.training.verify import check_members, verify_proof
from pipeline.training.volume_pool import VolumePool, open_volume, scale_volume
from tests.factories.slices import write_slices

pytestmark = pytest.mark.train
STEPS = 9
SCHEDULE = PlaneSchedule(minutes=60.0, steps=STEPS, widths=(8, 16, 24), batch=4)


def _made_volume(seed: int) -> Case:
    """A ball of brain with a brighter ball in it, T1 and FLAIR."""
    generator = np.random.default_rng(seed)
    places = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in FINE_GRID.shape), indexing="ij")
    )
    brain = ((places - torch.tensor([80.0, 96.0, 80.0])[:, None, None, None]) ** 2).sum(0) < 70**2
    centre = torch.from_numpy(generator.uniform([50, 60, 50], [110, 130, 110])).float()
    lesion = ((places - centre[:, None, None, None]) ** 2).sum(0) < generator.uniform(8, 18) ** 2
    flair = torch.where(lesion, 1.8, 1.0) * brain
    return Case(torch.stack((brain.float() - 0.3 * lesion, flair)).clamp(0, 3), lesion & brain, ())


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slices(tmp_path_factory.mktemp("slices"), range(1, 61))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> VolumePool:
    pool = VolumePool(tmp_path_factory.mktemp("pool"))
    for seed in range(2):
        pool.write(seed, _made_volume(seed))
    return pool


@pytest.fixture(scope="module")
def run(slices: Path, pool: VolumePool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_planes(SCHEDULE, folder, read_slices(slices, "train"), pool, lambda trainers: {}, lambda line: None)
    return folder


def test_a_volume_is_stored_in_eight_bits(pool: VolumePool) -> None:
    case = _made_volume(0)

    packed = open_volume(pool.path_of(0))

    assert packed.dtype == np.uint8
    assert np.abs(scale_volume(packed[:2]) - case.image.numpy()).max() <= 1.5 / 255 + 1e-6
    assert np.array_equal(packed[2] > 0, case.label.numpy())


def test_the_planes_learn_what_the_slices_show() -> None:
    torch.manual_seed(0)
    trainer = PlaneTrainer("coronal", plane_architecture("coronal", (8, 16)), None)
    image = torch.rand(4, 2, 32, 32) * 0.2 + 1.0
    target = torch.zeros(4, 1, 32, 32)
    target[:, :, 8:20, 10:22] = 1.0
    image[:, 1:] += 0.6 * target

    losses = [trainer.train_step(image, target, 2e-3) for _ in range(40)]

    assert losses[-1] < 0.5 * losses[0]


def test_a_run_becomes_a_bundle_that_answers(run: Path, slices: Path, tmp_path: Path) -> None:
    averages = {plane: next(run.glob(f"{plane}-*.average.pt")) for plane in PLANES}
    provenance = PlaneProvenance("60 made people", "Made slices.", {"seed": 0})
    fitted = {
        "images": ["flair"],
        "slope": 0.9,
        "volume_slope": 0.4,
        "intercept": -1.4,
        "findings": 80,
        "people": 60,
        "fitted_on": 'made "slices"',
    }
    cuts = PlaneCuts(dict.fromkeys(PLANES, 0.5), calibration=fitted)
    bundle = export_planes(averages, tmp_path, version="0.9.0", cuts=cuts, provenance=provenance)
    verify_bundle(bundle)
    people = [item for item in read_slices(slices, "test") if item.subject % 2]

    answers = answer_slices(bundle, people)

    for item, answer in zip(people, answers, strict=True):
        assert answer.shape == item.image.shape
        assert not answer[item.image == 0].any()
        assert 0.0 < answer.max() <= 1.0
    assert bundle.statement == "Trained on 60 made people. For research use; not for diagnosis."
    card = (bundle.folder / "CARD.md").read_text()
    assert "60 made people" in card
    calibration = bundle.output.calibration_for(["flair"])
    assert calibration is not None
    assert {"images": ["flair"], **vars(calibration)} == fitted
    assert "80 findings in 60 people" in card


def test_the_same_command_goes_on(slices: Path, pool: VolumePool, tmp_path: Path) -> None:
    train = read_slices(slices, "train")
    piece = PlaneSchedule(minutes=60.0, steps=12, widths=(4, 8), batch=4)
    run_planes(
        PlaneSchedule(minutes=60.0, steps=6, widths=(4, 8), batch=4),
        tmp_path,
        train,
        pool,
        lambda trainers: {},
        lambda line: None,
    )
    first = load_checkpoint(tmp_path / "axial-last.pt")

    run_planes(piece, tmp_path, train, pool, lambda trainers: {}, lambda line: None)
    second = load_checkpoint(tmp_path / "axial-last.pt")

    assert (first.run_steps, second.run_steps) == (2, 4)
    assert second.run_seconds > first.run_seconds
    assert not torch.equal(first.weights["heads.0.weight"], second.weights["heads.0.weight"])
    with (tmp_path / "curve.csv").open() as stream:
        assert [float(row["step"]) for row in csv.DictReader(stream)] == [2.0, 4.0]


def test_processes_train_the_planes_side_by_side(slices: Path, pool: VolumePool, tmp_path: Path) -> None:
    """Each process keeps its own plane and its own curve; together they are a run that can be exported."""
    for plane in PLANES:
        schedule = replace(SCHEDULE, steps=2, planes=(plane,))
        run_planes(
            schedule, tmp_path, read_slices(slices, "train"), pool, lambda trainers: {}, lambda line: None
        )

        assert (tmp_path / f"curve-{plane}.csv").exists()

    assert sorted(path.name.split("-")[0] for path in tmp_path.glob("*-last.pt")) == sorted(PLANES)
    assert all(load_checkpoint(path).run_steps == 2 for path in tmp_path.glob("*-last.pt"))


@pytest.mark.parametrize("plane", list(PLANES))
@pytest.mark.parametrize(
    ("before", "after"), [((4, 6, 10), (5, 13, 20)), ((8, 12, 16), (11, 12, 40)), ((9, 9, 9), (9, 9, 10))]
)
def test_a_widened_network_answers_as_before(
    plane: str, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    """Without noise the answer is the same; what is trained after is wider."""
    torch.manual_seed(2)
    narrow = plane_architecture(plane, before)
    network = build_network(narrow)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    start = Checkpoint(narrow, network.state_dict(), network.state_dict())
    image = torch.rand(1, 2, 24, 16, 32)

    wide = plane_architecture(plane, after)
    widened = widen_planes(start, wide, noise=0.0).averaged_network()
    noisy = widen_planes(start, wide, noise=0.1).averaged_network()

    assert torch.allclose(widened(image), network.eval()(image), atol=1e-4)
    assert not torch.allclose(noisy(image), widened(image), atol=1e-3)
    with pytest.raises(CheckpointError, match="cannot be widened"):
        widen_planes(start, plane_architecture(plane, (*after[:2], before[2] - 1)))
    with pytest.raises(CheckpointError, match="cannot be widened"):
        widen_planes(start, plane_architecture(plane, (*after, 99)))


def test_commands_widen_a_run_and_train_one_of_its_planes(
    slices: Path, pool: VolumePool, tmp_path: Path
) -> None:
    """What one process of three writes can be read by whoever exports the run."""
    four = PlaneSchedule(minutes=60.0, steps=3, widths=(8, 8, 8, 8), batch=2)
    run_planes(
        four, tmp_path / "a", read_slices(slices, "train"), pool, lambda trainers: {}, lambda line: None
    )
    minute = next((tmp_path / "a").glob("axial-*.average.pt")).name.split("-")[1].split(".")[0]
    widths = ["--out", str(tmp_path / "b"), "--widths", "9,9,9,12"]

    widened = CliRunner().invoke(
        app, ["widen-planes", "--run", str(tmp_path / "a"), "--minute", minute, *widths]
    )
    again = CliRunner().invoke(
        app, ["widen-planes", "--run", str(tmp_path / "a"), "--minute", minute, *widths]
    )
    inputs = ["--slices", str(slices), "--pool", str(pool.folder), "--minutes", "0.02", "--plane", "coronal"]
    inputs += ["--device", "auto"]
    trained = CliRunner().invoke(app, ["train-planes", *widths, *inputs])

    assert widened.exit_code == 0, widened.output
    assert again.exit_code != 0
    assert trained.exit_code == 0, trained.output
    assert load_checkpoint(tmp_path / "b" / "coronal-last.pt").run_steps > 0
    assert load_checkpoint(tmp_path / "b" / "axial-last.pt").run_steps == 0
    assert [path.name for path in (tmp_path / "b").glob("curve*")] == ["curve-coronal.csv"]


def test_a_run_is_widened_and_goes_on(run: Path, slices: Path, pool: VolumePool, tmp_path: Path) -> None:
    minute = int(next(run.glob("axial-*.average.pt")).name.split("-")[1].split(".")[0])
    for plane in PLANES:
        content = load_checkpoint(run / f"{plane}-{minute:04d}.average.pt")
        wide = widen_planes(content, plane_architecture(plane, (9, 18, 24)))
        wide.save(tmp_path / f"{plane}-last.pt")
    schedule = replace(SCHEDULE, steps=3, widths=(9, 18, 24))

    run_planes(schedule, tmp_path, read_slices(slices, "train"), pool, lambda trainers: {}, lambda line: None)

    assert {load_checkpoint(path).run_steps for path in tmp_path.glob("*-last.pt")} == {1}


@pytest.mark.parametrize("widths", ["24,48,96", "24,48,96,x", "24,48,96,0", "", "24,48,96,-160"])
def test_widths_that_are_no_widths_are_refused(tmp_path: Path, widths: str) -> None:
    command = ["widen-planes", "--run", str(tmp_path), "--minute", "1", "--out", str(tmp_path / "out")]

    ended = CliRunner().invoke(app, [*command, "--widths", widths])

    assert ended.exit_code != 0
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_is_saved(
    slices: Path, pool: VolumePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(PlaneSchedule, "rate", interrupt)
    lines: list[str] = []

    with pytest.raises(KeyboardInterrupt):
        run_planes(SCHEDULE, tmp_path, read_slices(slices, "train"), pool, lambda trainers: {}, lines.append)

    assert (tmp_path / "sagittal-last.pt").exists()
    assert "run the same command again" in lines[-1]


def test_what_cannot_be_trained_on_is_named(slices: Path, pool: VolumePool, tmp_path: Path) -> None:
    train = read_slices(slices, "train")
    with pytest.raises(TrainingProblem, match="run `synthesize-volumes` first"):
        run_planes(SCHEDULE, tmp_path, train, VolumePool(tmp_path / "none"), lambda trainers: {})
    with pytest.raises(TrainingProblem, match="no sagittal slice"):
        run_planes(
            SCHEDULE,
            tmp_path,
            [item for item in train if item.plane != "sagittal"],
            pool,
            lambda trainers: {},
        )
    (tmp_path / "axial-last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"axial-last\.pt is not a checkpoint"):
        run_planes(SCHEDULE, tmp_path, train, pool, lambda trainers: {})


def test_a_full_disk_leaves_no_half_volume(
    pool: VolumePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)

    with pytest.raises(TrainingProblem, match="No space left on device"):
        VolumePool(tmp_path).write(3, _made_volume(3))
    assert list(tmp_path.iterdir()) == []


def test_the_loss_prefers_the_truth() -> None:
    target = torch.zeros(2, 1, 16, 16)
    target[0, 0, 4:9, 4:9] = 1.0
    right, wrong, silent = (12 * (2 * target - 1), -12 * (2 * target - 1), torch.full_like(target, -12.0))

    losses = [
        float(plane_loss([logits, torch.nn.functional.avg_pool2d(logits, 2)], target))
        for logits in (right, silent, wrong)
    ]

    assert losses == sorted(losses)
    assert losses[0] < 0.3


@pytest.mark.parametrize("plane", list(PLANES))
def test_folded_networks_answer_as_before_and_so_does_onnx(plane: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build_network(plane_architecture(plane, (4, 8)))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    image = torch.rand(1, 2, 24, 16, 20)
    before = Exportable(network).eval()(image).detach()

    fold_normalisation(network.eval())
    graph = write_onnx(network, image.shape[2:], tmp_path / "graph.onnx")

    assert torch.allclose(Exportable(network).eval()(image), before, atol=1e-5)
    assert np.allclose(run_session(open_session(graph), image[0].numpy()), before[0, 0].numpy(), atol=1e-5)
    assert np.allclose(
        run_session(open_session(store_as_float16(graph)), image[0].numpy()), before[0, 0].numpy(), atol=5e-3
    )


def test_score_slices_prints_the_table(run: Path, slices: Path, tmp_path: Path) -> None:
    averages = {plane: next(run.glob(f"{plane}-*.average.pt")) for plane in PLANES}
    export_planes(
        averages,
        tmp_path,
        version="0.9.0",
        cuts=PlaneCuts(dict.fromkeys(PLANES, 0.5)),
        provenance=PlaneProvenance("made people", "", {}),
    )
    command = [
        "score-slices",
        "--bundle",
        "stroke-lesion-triplanar",
        "--models",
        str(tmp_path),
        "--slices",
        str(slices),
        "--split",
        "test",
    ]

    ended = CliRunner().invoke(app, [*command, "--csv", str(tmp_path / "scores.csv")])

    assert ended.exit_code == 0, ended.output
    assert "| axial |" in ended.output
    assert "Lesions that show" in ended.output
    with (tmp_path / "scores.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == len(read_slices(slices, "test"))
    assert load_bundle(tmp_path / "stroke-lesion-triplanar" / "0.9.0").takes(("flair",))


@pytest.fixture
def bundle(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle of the run, whose proof takes balls instead of synthetic heads."""
    monkeypatch.setattr(plane_proof, "synthesise_acute_case", lambda anatomy, seed: _made_volume(seed))
    monkeypatch.setattr(plane_proof, "load_anatomy", lambda: None)
    return export_planes(
        {plane: next(run.glob(f"{plane}-*.average.pt")) for plane in PLANES},
        tmp_path,
        version="0.9.0",
        cuts=PlaneCuts(dict.fromkeys(PLANES, 0.5)),
        provenance=PlaneProvenance("made people", "", {}),
    )


def test_the_planes_are_proved_and_verified(run: Path, bundle: Bundle) -> None:
    minute = next(run.glob("axial-*.average.pt")).name.split("-")[1].split(".")[0]
    command = ["prove", str(bundle.folder), "--count", "6", "--run", str(run), "--minute", minute]

    ended = CliRunner().invoke(app, command)
    proof = read_proof(bundle.folder)
    exported, now = verify_proof(bundle, count=3)

    assert ended.exit_code == 0, ended.output
    assert proof.weights == "as trained, in Float32"
    assert sorted({row.combination for row in proof.rows}) == sorted(
        f"{plane} {roles}" for plane in PLANES for roles in ("t1+flair", "flair")
    )
    assert exported.tost_p_float16 < 0.05
    # At export the weights had not been rounded; now all forms have the shipped ones.
    assert exported.max_difference_float16 > 1e-5 > now.max_difference_float16
    assert check_members(replace(bundle, members=(bundle,))) == ()


def test_a_proof_of_other_planes_is_refused(bundle: Bundle) -> None:
    assert CliRunner().invoke(app, ["prove", str(bundle.folder), "--count", "3"]).exit_code == 0
    other = replace(bundle, graphs=bundle.graphs | {"model-axial.onnx": "0" * 64})

    with pytest.raises(BundleError, match="about other graphs"):
        verify_proof(other, count=3)
    with pytest.raises(BundleError, match="about other graphs"):
        check_members(replace(bundle, members=(other,)))
    (bundle.folder / PROOF_FILE).unlink()
    assert check_members(replace(bundle, members=(bundle,))) == ("stroke-lesion-triplanar/0.9.0",)


def test_float16_weights_are_weighed_on_slices(run: Path, slices: Path, bundle: Bundle) -> None:
    networks = {plane: read_average(next(run.glob(f"{plane}-*.average.pt")), plane) for plane in PLANES}
    people = [item for item in read_slices(slices, "test") if item.subject % 2]

    result = weigh_slices(bundle, networks, people)

    assert result.cases == sum(int(item.mask.sum()) >= 20 for item in people)
    assert abs(result.mean_difference) < 0.05
