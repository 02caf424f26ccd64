"""A bundle's proof, run again as `models verify` asks for.

The shipped weights run by torch and by ONNX Runtime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from pipeline.bundles.bundle import Bundle
from pipeline.bundles.manifest import GRAPH
from pipeline.errors import BundleError
from pipeline.segmenters.triplanar.spec import TriplanarSpec
from pipeline.training.agreement import Agreement, CaseAgreement, ProofCase, compare, summarise
from pipeline.training.checkpoint import CheckpointError
from pipeline.training.families.table import TASKS
from pipeline.training.onnx_graph import write_onnx
from pipeline.training.plane_proof import read_planes, run_planes
from pipeline.training.proof import PROOF_CASES, PROOF_FILE, Proof, check_rows, draw_proof_cases, read_proof
from pipeline.training.tasks import Task
from pipeline.training.transfer import read_exported

PLANE_CASES = 12
"""How many cases of planes are run again: a head of 1 mm takes some 8 s to make, for three cases."""
LARGEST_DIFFERENCE = 1e-4
"""Of the same weights run by torch and by ONNX Runtime; what is seen is near 1e-6."""


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
    rows, ratio = (run_shipped_planes if _has_planes(bundle) else _run_whole)(bundle, count, report)
    check_rows(bundle.name, rows)
    worst = max(max(row.difference_forms, row.difference_float16) for row in rows)
    if worst > LARGEST_DIFFERENCE:
        raise BundleError(
            (
                f"{bundle.name}: torch and ONNX Runtime differ by {worst:.1e} with the same weights "
                f"(limit {LARGEST_DIFFERENCE:g})"
            ),
            code="model-proof-failed",
        )
    return rows, ratio


def _has_planes(bundle: Bundle) -> bool:
    """Return whether a bundle holds planes at 1 mm, whose graphs take a few slices at a time."""
    return isinstance(bundle.family_spec, TriplanarSpec) and bundle.family_spec.slices > 0


def run_shipped_planes(
    bundle: Bundle, count: int, report: Callable[[str], None]
) -> tuple[list[CaseAgreement], float]:
    """Run the shipped weights of the planes through all forms.

    Raises
    ------
    BundleError
        The weights cannot be read back.
    """
    try:
        networks = read_planes(bundle)
    except CheckpointError as problem:
        raise BundleError(f"{bundle.name}: {problem}", code="model-proof-invalid") from None
    return run_planes(bundle, networks, count, report)


def _run_whole(
    bundle: Bundle, count: int, report: Callable[[str], None]
) -> tuple[list[CaseAgreement], float]:
    task = task_of(bundle)
    try:
        network = read_exported(bundle.folder / GRAPH, task.architecture).averaged_network()
    except CheckpointError as problem:
        raise BundleError(f"{bundle.name}: {problem}", code="model-proof-invalid") from None
    with tempfile.TemporaryDirectory(prefix="dicomnode-proof-") as scratch:
        full = write_onnx(network, task.grid.shape, Path(scratch) / "full.onnx")
    half = onnx.load_from_string(bundle.graph_bytes())
    thresholds = {name: bundle.output.threshold_for(name.split("+")) for name in task.combinations}

    def announced_cases() -> Iterator[ProofCase]:
        for number, case in enumerate(draw_proof_cases(task, thresholds, count), start=1):
            report(f"{bundle.name}: case {number} of {count}")
            yield case

    rows = compare(network, full, half, announced_cases(), task.grid.voxel_ml)
    return rows, len(half.SerializeToString()) / len(full.SerializeToString())


def verify_proof(
    bundle: Bundle, count: int | None = None, report: Callable[[str], None] = lambda line: None
) -> tuple[Agreement, Agreement]:
    """Hold a bundle's proof against its graph and run its cases again.

    Return the agreement at export, and now.

    At export the Float32 weights were those of the training; now all forms have the shipped weights.

    Raises
    ------
    BundleError
        The proof is of another graph or does not hold, or the forms do not agree now.
    """
    proof = _read_own_proof(bundle)
    count = count or (PLANE_CASES if _has_planes(bundle) else PROOF_CASES)
    rows, ratio = run_forms(bundle, count, report)
    return summarise(proof.rows, ratio), summarise(rows, ratio)


def _read_own_proof(bundle: Bundle) -> Proof:
    proof = read_proof(bundle.folder)
    if proof.sha256 != bundle.sha256:
        raise BundleError(
            f"{bundle.name}: {PROOF_FILE} is about other graphs; install the bundle again",
            code="model-proof-invalid",
        )
    check_rows(bundle.name, proof.rows)
    return proof


def check_members(bundle: Bundle) -> tuple[str, ...]:
    """Hold the proofs of an ensemble's members against their graphs; their cases are not run again here.

    Return the members that have no proof.

    Raises
    ------
    BundleError
        A proof is of another graph or does not hold.
    """
    for member in bundle.members:
        if (member.folder / PROOF_FILE).exists():
            _read_own_proof(member)
    return tuple(
        f"{member.name}/{member.version}"
        for member in bundle.members
        if not (member.folder / PROOF_FILE).exists()
    )
