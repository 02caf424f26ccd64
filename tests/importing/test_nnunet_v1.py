"""nnU-Net v1: golden answers of the package itself (made by nnunet_v1_original.py), and pickles that are not to be trusted."""

from __future__ import annotations

import pickle
import pickletools
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.importing import nnunet_folder
from pipeline.importing.checkpoint import read_pickle
from pipeline.importing.nnunet_folder import NnUNetOptions, import_nnunet
from pipeline.importing.parity import compare
from pipeline.importing.problem import ImportProblem
from pipeline.inference.session import open_network
from pipeline.segmenters.nnunet.segment import predict_array, window_of
from pipeline.segmenters.nnunet.spec import spec_of
from tests.importing.unchecked import unchecked

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_answers_as_version_1_did(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnunet_folder, "choose_weights", unchecked)
    case = np.load(GOLDEN / name / "case.npz")
    golden = np.load(GOLDEN / name / "answer.npz")["probability"]
    channels = ("flair", "t1")[: len(case["array"])]
    mirroring = name in ("isotropic", "planar")
    options = NnUNetOptions(channels, "old", mirroring=mirroring, weights="float32")

    bundle = import_nnunet(GOLDEN / name, tmp_path, options).bundle
    networks = [open_network(bundle, 1, graph) for graph in bundle.graphs]
    spacing = tuple(float(size) for size in case["spacing"])
    answer, _ = predict_array(
        networks, spec_of(bundle), window_of(bundle), case["array"].astype(np.float32), spacing
    )  # type: ignore[arg-type]

    found = compare(name, "nnunet 1.7.1", answer, golden)
    print(found.row())  # noqa: T201 - the figures of docs/benchmarks.md
    assert golden.std() > 0.01
    assert spec_of(bundle).version == 1
    assert bundle.window.aggregate == "probabilities"
    assert found.mean_difference < 1e-4
    assert found.mask_difference < 1e-4


@pytest.mark.parametrize(
    ("place", "trainer", "said"),
    [
        ("3d_cascade_fullres", "nnUNetTrainerV2CascadeFullRes", "second stage of a cascade"),
        (
            "3d_fullres",
            "nnUNetTrainerV2BraTSRegions_DA4_BN",
            "trainer 'nnUNetTrainerV2BraTSRegions_DA4_BN' is not one of",
        ),
        ("3d_fullres", "OurOwnTrainer", "trainer 'OurOwnTrainer' is not one of"),
    ],
)
def test_other_networks_of_version_1_are_refused(place: str, trainer: str, said: str, tmp_path: Path) -> None:
    (source,) = (GOLDEN / "isotropic").rglob("plans.pkl")
    results = tmp_path / place / "Task777_Tiny" / f"{trainer}__nnUNetPlansv2.1"
    # Without the description beside the checkpoint the folder's name tells the trainer.
    shutil.copytree(source.parent, results, ignore=shutil.ignore_patterns("*.model.pkl"))

    with pytest.raises(ImportProblem, match=said):
        import_nnunet(results, tmp_path / "models", NnUNetOptions(("flair", "t1"), "old"))
    assert not (tmp_path / "models").exists()


class Harm:
    """Pickles as a call of a function of the attacker's choice."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_foreign_classes_are_refused_before_anything_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps({"plans_per_stage": Harm(marker)}))

    with pytest.raises(ImportProblem, match=r"plans\.pkl: the pickle asks for .*nothing was run"):
        read_pickle(tmp_path / "plans.pkl")
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "builtins.getattr",
        "numpy.load",
        "numpy.f2py.run_main",
        "numpy.ndarray.tofile",
        "pickle.loads",
    ],
)
def test_names_outside_the_list_are_refused(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    (tmp_path / "x.pkl").write_bytes(f"c{module}\n{function}\n.".encode())

    with pytest.raises(ImportProblem, match="the pickle asks for"):
        read_pickle(tmp_path / "x.pkl")


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_plans_are_read_from_old_and_new_numpy(tmp_path: Path, protocol: int) -> None:
    plans = {
        "a": np.float64(1.5),
        "b": np.array([1, 2, 3]),
        "c": OrderedDict([(0, "x")]),
        "d": np.array([[0.5, 1.5]], np.float32)[:, ::-1],
    }
    data = pickle.dumps(plans, protocol=protocol)
    # numpy 1 called the same module numpy.core; protocol 2 writes names without a length.
    old = data.replace(b"numpy._core", b"numpy.core") if protocol == 2 else data
    assert protocol != 2 or b"numpy.core.multiarray" in old
    (tmp_path / "plans.pkl").write_bytes(old)

    read = read_pickle(tmp_path / "plans.pkl")

    assert read["a"] == 1.5
    assert read["b"].tolist() == [1, 2, 3]
    assert read["d"].tolist() == [[1.5, 0.5]]
    assert list(pickletools.genops(old))


def test_a_broken_pickle_is_named(tmp_path: Path) -> None:
    (tmp_path / "plans.pkl").write_bytes(b"\x80\x04not a pickle")

    with pytest.raises(ImportProblem, match=r"plans\.pkl cannot be read as a pickle"):
        read_pickle(tmp_path / "plans.pkl")
