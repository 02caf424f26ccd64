"""`proof.toml`: the cases on which a bundle was proved to answer as torch does, written at export.

The cases are made from seeds, without real lesion maps, so that anybody can make them again (`verify`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.errors import BundleError
from pipeline.training.agreement import CaseAgreement, ProofCase, prove_equivalence
from pipeline.training.bounds import VALIDATION_SEED
from pipeline.training.synthesis.anatomy import load_anatomy
from pipeline.training.tasks import Task, keep_channels

PROOF_SEED = VALIDATION_SEED + 700_000
PROOF_CASES = 30
PROOF_FILE = "proof.toml"


@dataclass(frozen=True)
class Proof:
    """What `proof.toml` holds: the graph that it is about and the rows.

    It also names the weights that the Float32 forms had.
    """

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


def check_rows(name: str, rows: Sequence[CaseAgreement]) -> None:
    """Raise BundleError when the rows do not prove that the three forms are equivalent."""
    for form, equivalence in zip(("Float32", "Float16"), prove_equivalence(rows), strict=True):
        if not equivalence.equivalent:
            raise BundleError(
                f"{name}: torch and ONNX {form} are not equivalent on {equivalence.cases} cases: "
                f"mean Dice difference {equivalence.mean_difference:.1e} "
                f"(90 % from {equivalence.low:.1e} to {equivalence.high:.1e}, margin {equivalence.margin:g})",
                code="model-proof-failed",
            )
