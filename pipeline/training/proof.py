"""`proof.toml`: the cases on which a bundle was proved to answer as torch does, written at export and run again by `models verify`.

The cases are made from seeds, without real lesion maps, so that anybody can make them again.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import onnx

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.errors import BundleError
from pipeline.training.agreement import (
    Agreement,
    CaseAgreement,
    ProofCase,
    compare,
    prove_equivalence,
    summarise,
)
from pipeline.training.checkpoint import CheckpointError
from pipeline.training.onnx_graph import write_onnx
from pipeline.training.pool import VALIDATION_SEED
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.tasks import TASKS, Task, keep_channels
from pipeline.training.transfer import read_exported

PROOF_SEED = VALIDATION_SEED + 700_000
PROOF_CASES = 30
PROOF_FILE = "proof.toml"
LARGEST_DIFFERENCE = 1e-4
"""Of the same weights run by torch and by ONNX Runtime; what is seen is near 1e-6."""


@dataclass(frozen=True)
class Proof:
    """What `proof.toml` holds: the graph that it is about, which weights the Float32 forms had, and the rows."""

    sha256: str
    weights: str
    rows: tuple[CaseAgreement, ...]


def draw_proof_cases(
    task: Task, thresholds: Mapping[str, float], count: int = PROOF_CASES
) -> Iterator[ProofCase]:
    """Yield synthetic cases with the channel combinations in turn."""
    anatomy, names = load_anatomy(), list(task.combinations)
    for number in range(count):
        case, name = task.synthesise(anatomy, PROOF_SEED + number), names[number % len(names)]
        visible = keep_channels(case.image, task.architecture.channels, name)
        inside_image = (visible != 0).any(dim=0)
        yield ProofCase(
            PROOF_SEED + number, name, thresholds[name], visible.numpy(), (case.label & inside_image).numpy()
        )


def write_proof(folder: Path, proof: Proof) -> None:
    """Write `proof.toml`: one array for each column."""
    lines = [f'sha256 = "{proof.sha256}"', f'weights = "{proof.weights}"', "", "[cases]"]
    for column in fields(CaseAgreement):
        values = [getattr(row, column.name) for row in proof.rows]
        cells = [
            f'"{v}"' if isinstance(v, str) else str(v) if isinstance(v, int) else f"{v:.6g}" for v in values
        ]
        # TOML has no integer-looking floats: 1 would come back as an int.
        cells = [
            c if not isinstance(v, float) or any(mark in c for mark in ".en") else c + ".0"
            for c, v in zip(cells, values, strict=True)
        ]
        lines.append(f"{column.name} = [{', '.join(cells)}]")
    (folder / PROOF_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_proof(folder: Path) -> Proof:
    """Read `proof.toml`.

    Raises
    ------
    BundleError
        It is missing or not as `write_proof` writes it.
    """
    try:
        content = tomllib.loads((folder / PROOF_FILE).read_text(encoding="utf-8"))
        columns = [content["cases"][column.name] for column in fields(CaseAgreement)]
        rows = tuple(CaseAgreement(*values) for values in zip(*columns, strict=True))
        return Proof(content["sha256"], content["weights"], rows)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise BundleError(
            f"{folder / PROOF_FILE}: cannot be used: {problem}", code="model-proof-invalid"
        ) from None


def task_of(bundle: Bundle) -> Task:
    """Return the training task whose network a bundle holds.

    Raises
    ------
    BundleError
        None fits: the bundle was not made here.
    """
    for task in TASKS.values():
        is_same_task = (task.name, task.grid.shape, task.architecture.channels) == (
            bundle.task,
            bundle.input.patch,
            bundle.channels,
        )
        if is_same_task and bundle.family == "patch3d":
            return task
    raise BundleError(
        f"{bundle.name} is not one of the networks that this version trains", code="model-proof-invalid"
    )


def run_forms(
    bundle: Bundle, count: int = PROOF_CASES, report: Callable[[str], None] = lambda line: None
) -> tuple[list[CaseAgreement], float]:
    """Run the shipped weights through torch, a Float32 graph and the shipped graph.

    Return the rows and the files' size ratio.

    Raises
    ------
    BundleError
        The weights cannot be read back, or the forms do not agree.
    """
    task = task_of(bundle)
    try:
        network = read_exported(bundle.folder / GRAPH, task.architecture).averaged_network()
    except CheckpointError as problem:
        raise BundleError(f"{bundle.name}: {problem}", code="model-proof-invalid") from None
    with tempfile.TemporaryDirectory(prefix="dicomnode-proof-") as scratch:
        full = write_onnx(network, task.grid.shape, Path(scratch) / "full.onnx")
    half = onnx.load_from_string(bundle.graph_bytes())
    thresholds = {name: bundle.output.threshold_for(name.split("+")) for name in task.combinations}

    def told() -> Iterator[ProofCase]:
        for number, case in enumerate(draw_proof_cases(task, thresholds, count), start=1):
            report(f"{bundle.name}: case {number} of {count}")
            yield case

    rows = compare(network, full, half, told(), task.grid.voxel_ml)
    _check_rows(bundle.name, rows)
    worst = max(max(row.difference_forms, row.difference_float16) for row in rows)
    if worst > LARGEST_DIFFERENCE:
        raise BundleError(
            (
                f"{bundle.name}: torch and ONNX Runtime differ by {worst:.1e} with the same weights "
                f"(limit {LARGEST_DIFFERENCE:g})"
            ),
            code="model-proof-failed",
        )
    return rows, len(half.SerializeToString()) / len(full.SerializeToString())


def verify_proof(
    bundle: Bundle, count: int = PROOF_CASES, report: Callable[[str], None] = lambda line: None
) -> tuple[Agreement, Agreement]:
    """Hold a bundle's proof against its graph and run its cases again.

    Return the agreement at export, and now.

    At export the Float32 weights were those of the training; now all forms have the shipped weights.

    Raises
    ------
    BundleError
        The proof is of another graph or does not hold, or the forms do not agree now.
    """
    proof = read_proof(bundle.folder)
    if proof.sha256 != bundle.sha256:
        raise BundleError(
            f"{bundle.name}: {PROOF_FILE} is about another model.onnx; install the bundle again",
            code="model-proof-invalid",
        )
    _check_rows(bundle.name, proof.rows)
    rows, ratio = run_forms(bundle, count, report)
    return summarise(proof.rows, ratio), summarise(rows, ratio)


def _check_rows(name: str, rows: Sequence[CaseAgreement]) -> None:
    """Raise BundleError when the rows do not prove that the three forms are equivalent."""
    for form, equivalence in zip(("Float32", "Float16"), prove_equivalence(rows), strict=True):
        if not equivalence.equivalent:
            raise BundleError(
                f"{name}: torch and ONNX {form} are not equivalent on {equivalence.cases} cases: mean Dice difference {equivalence.mean_difference:.1e} "
                f"(90 % from {equivalence.low:.1e} to {equivalence.high:.1e}, margin {equivalence.margin:g})",
                code="model-proof-failed",
            )
