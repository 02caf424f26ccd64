"""Writes what a model bundle says about its graphs.

Model.toml and CARD.md, as `docs/model-bundle.md` lays down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.counts import counted

STATEMENT = "Trained on synthetic data only. For research use; not for diagnosis."


@dataclass(frozen=True)
class BundleText:
    """What a manifest says beyond numbers that were measured.

    A family writes one for each of its bundles (`families/`).
    """

    name: str
    task: str
    title: str
    intended_use: str
    head: str
    normalise: str
    normalise_parameters: Mapping[str, Any]
    accepts: tuple[tuple[str, ...], ...]
    minimum_volume_mm3: float
    connectivity: int
    data: str
    how: tuple[str, ...]
    known_failures: tuple[str, ...] = field(default=())
    family: str = "patch3d"
    graphs: tuple[str, ...] = ("model.onnx",)
    trained_on: str = ""

    @property
    def statement(self) -> str:
        """What every result says about the network."""
        return (
            f"Trained on {self.trained_on}. For research use; not for diagnosis."
            if self.trained_on
            else STATEMENT
        )


GENERATOR_RANGE = {
    "t1": {"p10": [0.05, 0.83], "p25": [0.17, 0.94], "p75": [1.01, 2.71], "p90": [1.03, 3.48]},
    "flair": {"p10": [0.06, 0.9], "p25": [0.13, 0.98], "p75": [0.99, 2.52], "p90": [1.03, 3.2]},
}
"""A manifest's `[trained]` tables.

Lowest and highest value over 60 subjects of the generator, 5 % wider (`scripts.bench.quality`).
"""


@dataclass(frozen=True)
class Numbers:
    """What was measured, for the manifest and the card.

    Attributes
    ----------
    training
        seed, steps, minutes, compute.
    threshold, thresholds, peaks
        Default, and per channel combination; a combination without a peak is not in `peaks`.
    agreement
        Fields of `agreement.Agreement`.
    calibration
        Keys of the manifest's `output.calibration`; empty where nobody calibrated.
    synthetic, real
        Tables: column names to rows, each with a heading.
    """

    version: str
    channels: tuple[str, ...]
    patch: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    threshold: float
    thresholds: Mapping[str, float]
    training: Mapping[str, Any]
    agreement: Mapping[str, float]
    measured: Mapping[str, float]
    peaks: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)


def write_manifest(
    folder: Path, text: BundleText, numbers: Numbers, table: tuple[str, Mapping[str, Any]] | None = None
) -> None:
    """Write `model.toml` for the graphs that lie in `folder`; `table` is the family's own, by name."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in text.graphs}
    tables: list[tuple[str, Mapping[str, Any]]] = [
        ("", {"schema": 1, "name": text.name, "version": numbers.version, "task": text.task,
              "family": text.family, "statement": text.statement,
              **({"trained_on": text.trained_on} if text.trained_on else {}),
              "intended_use": text.intended_use, "licence": "Apache-2.0"}),
        ("files", digests),
        ("input", {"name": "image", "channels": list(numbers.channels),
                   "accepts": [list(a) for a in text.accepts],
                   "head": text.head, "spacing_mm": list(numbers.spacing_mm), "patch": list(numbers.patch),
                   "dtype": "float32"}),
        ("preprocess", {"resample": "gaussian-linear", "normalise": text.normalise,
                        "normalise_parameters": dict(text.normalise_parameters)}),
        ("window", {"step": 0.5, "gaussian": True}),
        ("output", {"name": "probability", "activation": "in-graph", "threshold": numbers.threshold,
                    "thresholds": dict(numbers.thresholds),
                    **({"peaks": dict(numbers.peaks)} if numbers.peaks else {}),
                    "minimum_volume_mm3": text.minimum_volume_mm3,
                    "connectivity": text.connectivity}),
        *([("output.calibration", numbers.calibration)] if numbers.calibration else []),
        *((f"trained.{role}", GENERATOR_RANGE[role]) for role in numbers.channels if role in GENERATOR_RANGE),
        *([table] if table else []),
        ("training", {"data": text.data, **numbers.training}),
        ("measured", {**numbers.measured, **{f"export_{k}": v for k, v in numbers.agreement.items()}}),
    ]  # fmt: skip
    (folder / "model.toml").write_text("\n".join(_toml_table(name, values) for name, values in tables))


def _toml_table(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"[{name}]"] if name else []
    lines += [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}" if value != int(value) else f"{value:.1f}"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return json.dumps(value)


def write_card(folder: Path, text: BundleText, numbers: Numbers, sections: Mapping[str, str]) -> None:
    """Write `CARD.md`; `sections` (heading to Markdown) holds what was measured and seen."""
    paragraphs = [
        f"# {text.title}", f"`{text.name}` {numbers.version}. **{text.statement}**", text.intended_use,
        "## Data", text.data,
        "## Training", "\n".join(f"- {key}: {value}" for key, value in numbers.training.items()),
        "![curve](curve.png)" if (folder / "curve.png").exists() else "",
        "## Input and output", "\n".join(f"- {line}" for line in text.how)
        + f"\n- Patch {list(numbers.patch)} voxels of {list(numbers.spacing_mm)} mm (slice, row, column)."
        f"\n- Output: probability; threshold {numbers.threshold} "
        f"({', '.join(f'{k}: {v}' for k, v in numbers.thresholds.items())})."
        + ((" A lesion must somewhere reach "
 f"{', '.join(f'{v} ({k})' for k, v in numbers.peaks.items())}."
) if numbers.peaks else ""),
        *(["## Certainty", _certainty_text(numbers.calibration)] if numbers.calibration else []),
        *(["## Export", _export_text(numbers.agreement)] if "cases" in numbers.agreement else []),
    ]  # fmt: skip
    for heading, body in sections.items():
        paragraphs += [f"## {heading}", body]
    (folder / "CARD.md").write_text("\n\n".join(p.strip() for p in paragraphs if p) + "\n")


def _certainty_text(calibration: Mapping[str, Any]) -> str:
    """Return in words what the certainty of a lesion means."""
    findings = counted(calibration["findings"], "finding")
    people = counted(calibration["people"], "person", "people")
    return (
        "The certainty of a lesion is the share of findings of its probability and volume that were right. "
        f"It comes from a logistic regression on {findings} in {people} ({calibration['fitted_on']}). "
        "A finding was right when at least a tenth of it lay inside the outline of an expert. "
        "On slices a finding is a piece on one slice, in the node a whole lesion. "
        "The outline does not depend on the certainty."
    )


def _export_text(agreement: Mapping[str, float]) -> str:
    """Return in words how closely the exported files follow torch."""
    return (
        f"{counted(round(agreement['cases']), 'fresh synthetic case')} (`proof.toml`; "
        "`dicomnode models verify` runs them again where torch is installed). "
        "Largest probability difference: "
        f"ONNX Float32 against torch Float64 {agreement['max_difference_float32']:.1e}, "
        f"against torch Float32 {agreement['max_difference_forms']:.1e}; "
        f"Float16 weights against torch Float64 {agreement['max_difference_float16']:.1e}. "
        "Dice change, Float16 against Float32 weights: "
        f"mean {agreement['dice_change_mean']:.1e}, worst {agreement['dice_change_worst']:.1e}; "
        f"smallest Dice between the two masks (over 1 mL): {agreement['mask_dice_worst']:.4f}. "
        "Equivalence of the Dice with torch Float32 (paired TOST, margin 1e-3): "
        f"Float32 p = {agreement['tost_p_float32']:.1e}, Float16 p = {agreement['tost_p_float16']:.1e}. "
        f"File size: {100 * agreement['size_ratio']:.1f} % of Float32."
    )
