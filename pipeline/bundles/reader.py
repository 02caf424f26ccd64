"""Reads a bundle's manifest strictly.

What it leaves out, gets wrong or says beyond what is known is refused by its key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipeline.bundles.family import Family, choose_family
from pipeline.bundles.manifest import (
    GRAPH,
    CalibrationSpec,
    FamilySpec,
    InputSpec,
    Manifest,
    OutputSpec,
    PreprocessSpec,
    WindowSpec,
)
from pipeline.bundles.values import Values
from pipeline.errors import BundleError
from pipeline.records import Calibration

SCHEMA = 1
TASKS = ("lesion", "brain")
HEADS = ("brain-extracted", "whole-head")
ACTIVATIONS = ("in-graph", "sigmoid", "softmax")
BIAS_CORRECTIONS = ("n4", "none")
REFERENCES = ("flair", "t1")
AGGREGATES = ("probabilities", "logits")
RESAMPLINGS = ("gaussian-linear", "linear")
NORMALISATIONS: Mapping[str, tuple[str, ...]] = {
    "brain-median": ("clip",),
    "percentile": ("low", "high", "of", "range"),
    "z-score": (),
}
"""Scheme to the parameters that it takes."""
TRAINED = ("p10", "p25", "p75", "p90")
MEMBERS_DECIDE = "members"
"""How an ensemble preprocesses: each member in its own way."""


def read_manifest(path: Path, families: Mapping[str, Family]) -> Manifest:
    """Read and check one manifest.

    Parameters
    ----------
    families
        The families that there are, by the name of their row.

    Raises
    ------
    BundleError
        It is missing, not TOML, or a key is missing, wrong or not known; the message names the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}", code="model-missing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise BundleError(f"{path} is not TOML: {problem}", code="model-manifest-invalid") from None
    return _Reader(values, path).manifest(families)


class _Reader(Values):
    """Makes the records out of a manifest's values."""

    def manifest(self, families: Mapping[str, Family]) -> Manifest:
        self._check_schema()
        for record in (Manifest, InputSpec, PreprocessSpec, WindowSpec, OutputSpec):
            self.declare(entry.name for entry in fields(record))
        self.declare(("schema", "files", "training", "measured"))
        segmenter = choose_family(self, families)
        family = families[segmenter]
        for table in () if family.prepares else ("preprocess", "window"):
            if self.has(table):
                raise self.problem(table, "an ensemble's members say this")
        manifest = Manifest(
            name=self.text("name"),
            version=self.text("version"),
            task=self.one_of("task", TASKS),
            family=family.word,
            segmenter=segmenter,
            statement=self._statement(),
            intended_use=self.text("intended_use"),
            licence=self.text("licence"),
            input=(network_input := self._input()),
            trained=self._trained(network_input),
            preprocess=self._preprocess(family)
            if family.prepares
            else PreprocessSpec(MEMBERS_DECIDE, MEMBERS_DECIDE),
            window=self._window() if family.prepares else WindowSpec(1.0, gaussian=False),
            output=self._output(network_input),
            family_spec=(spec := family.read(self)),
            training_data=self.value("training.data", str, ""),
            trained_on=self.value("trained_on", str, ""),
            graphs=self.value("files", dict, None if family.prepares else {}),
        )
        # For people to read; the program asks for no more than that they are tables.
        for table in ("training", "measured"):
            self.value(table, dict, {})
        self.refuse_unknown()
        manifest = replace(manifest, graphs=self._check_graphs(manifest.graphs, family, spec))
        self._check_together(manifest, family)
        return manifest

    def _statement(self) -> str:
        """Return what every result says about the network.

        It must repeat `trained_on` where the manifest has that.
        """
        statement, trained_on = self.text("statement"), self.value("trained_on", str, "")
        right = f"Trained on {trained_on}. For research use; not for diagnosis."
        if trained_on and statement != right:
            raise self.problem("statement", f"must be {right!r}, as trained_on has it")
        return statement

    def _check_schema(self) -> None:
        schema = self.value("schema", int)
        if schema > SCHEMA:
            reason = (
                f"the bundle was made by a newer program (schema {schema}, this one knows {SCHEMA}); "
                "update the node"
            )
            raise self.problem("schema", reason)
        if schema != SCHEMA:
            raise self.problem("schema", f"only schema {SCHEMA} is known")

    def _check_together(self, manifest: Manifest, family: Family) -> None:
        """Refuse what is right by itself and wrong next to the rest."""
        if manifest.task not in family.tasks:
            raise self.problem(
                "task", f"the family {manifest.segmenter} can be a {' or '.join(family.tasks)} network only"
            )
        if manifest.window.aggregate == "logits" and manifest.output.activation == "in-graph":
            raise self.problem(
                "window.aggregate", "logits cannot be averaged when the activation is in the graph"
            )
        family.check(manifest, self)

    def _preprocess(self, family: Family) -> PreprocessSpec:
        if family.scheme and self.value("preprocess.resample", str) != family.scheme:
            reason = f'this table and preprocess.resample = "{family.scheme}" belong together'
            raise self.problem(family.table, reason)
        normalise = self.one_of(
            "preprocess.normalise", (family.scheme,) if family.scheme else tuple(NORMALISATIONS)
        )
        return PreprocessSpec(
            resample=self.one_of("preprocess.resample", (family.scheme,) if family.scheme else RESAMPLINGS),
            normalise=normalise,
            normalise_parameters=self._normalise_parameters(NORMALISATIONS.get(normalise, ())),
            bias_correction=self.one_of("preprocess.bias_correction", BIAS_CORRECTIONS, "n4"),
            reference=self.one_of("preprocess.reference", REFERENCES, "flair"),
        )

    def _normalise_parameters(self, names: tuple[str, ...]) -> dict[str, Any]:
        key = "preprocess.normalise_parameters"
        parameters: dict[str, Any] = self.value(key, dict, {})
        self.refuse_others(key, parameters, names)
        if "clip" in parameters:
            low, high = self.row(f"{key}.clip", float, 2)
            if not low < high:
                raise self.problem(f"{key}.clip", "needs the lower and the higher end")
        low, high = (
            self.number(f"{key}.{name}", 0.0, 100.0, usual) for name, usual in (("low", 0.5), ("high", 99.5))
        )
        if not low < high:
            raise self.problem(f"{key}.low", "must lie below high")
        # Written down for whoever reads the manifest; the program knows no other way.
        if parameters.get("of", "non-zero") != "non-zero":
            raise self.problem(f"{key}.of", f"{parameters['of']!r} is not one of ['non-zero']")
        if list(parameters.get("range", [0.0, 1.0])) != [0.0, 1.0]:
            raise self.problem(f"{key}.range", "is [0.0, 1.0]")
        return parameters

    def _window(self) -> WindowSpec:
        return WindowSpec(
            step=self.number("window.step", 0.1, 1.0),
            gaussian=self.value("window.gaussian", bool),
            aggregate=self.one_of("window.aggregate", AGGREGATES, "probabilities"),
            mirror_axes=self._mirror_axes(),
        )

    def _mirror_axes(self) -> tuple[int, ...]:
        axes = self.row("window.mirror_axes", int, default=[])
        if not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
            raise self.problem("window.mirror_axes", "needs a list of different axes out of 0, 1, 2")
        return axes

    def _check_graphs(self, files: Mapping[str, str], family: Family, spec: FamilySpec) -> dict[str, str]:
        if problem := family.find_files_problem(files, spec):
            raise self.problem(
                "files", f"{problem}, with their SHA-256 (64 hexadecimal digits), and nothing else"
            )
        if not all(
            isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) for digest in files.values()
        ):
            raise self.problem("files", "each file needs its SHA-256 (64 hexadecimal digits)")
        names = sorted(files, key=lambda name: (name != GRAPH, name))
        return {name: files[name] for name in names}

    def _trained(self, network_input: InputSpec) -> dict[str, dict[str, tuple[float, float]]]:
        tables = self.value("trained", dict, {})
        self.refuse_others("trained", tables, network_input.channels)
        ranges: dict[str, dict[str, tuple[float, float]]] = {}
        for channel in tables:
            table = self.value(f"trained.{channel}", dict)
            self.refuse_others(f"trained.{channel}", table, TRAINED)
            for name in table:
                low, high = self.row(f"trained.{channel}.{name}", float, 2)
                if not low < high:
                    raise self.problem(
                        f"trained.{channel}.{name}", "needs the lowest and the highest value in training"
                    )
                ranges.setdefault(channel, {})[name] = (low, high)
        return ranges

    def _input(self) -> InputSpec:
        channels = self.texts("input.channels")
        accepts = tuple(
            tuple(roles) if isinstance(roles, list) else () for roles in self.value("input.accepts", list)
        )
        if not accepts or any(not roles or not set(map(str, roles)) <= set(channels) for roles in accepts):
            raise self.problem(
                "input.accepts", f"each combination must be made of the channels {list(channels)}"
            )
        spacing, patch = self.row("input.spacing_mm", float), self.row("input.patch", int)
        if len(spacing) != 3 or len(patch) != 3 or min(spacing) <= 0 or min(patch) <= 0:
            raise self.problem("input.patch", "spacing_mm and patch need 3 positive numbers each")
        return InputSpec(
            name=self.text("input.name"),
            channels=channels,
            accepts=accepts,
            head=self.one_of("input.head", HEADS),
            spacing_mm=(spacing[0], spacing[1], spacing[2]),
            patch=(patch[0], patch[1], patch[2]),
            dtype=self.one_of("input.dtype", ("float32",)),
        )

    def _output(self, network_input: InputSpec) -> OutputSpec:
        connectivity = self.value("output.connectivity", int)
        if connectivity not in (6, 26):
            raise self.problem("output.connectivity", "6 and 26 are known")
        combinations = [
            "+".join(channel for channel in network_input.channels if channel in roles)
            for roles in network_input.accepts
        ]
        return OutputSpec(
            name=self.text("output.name"),
            activation=self.one_of("output.activation", ACTIVATIONS),
            threshold=self.number("output.threshold", 0.0, 1.0),
            minimum_volume_mm3=self.number("output.minimum_volume_mm3", 0.0, 1e6),
            connectivity=connectivity,
            thresholds=self.shares("output.thresholds", combinations, {}),
            brain_margin_mm=self.number("output.brain_margin_mm", 0.0, 50.0, 0.0),
            peak=self.number("output.peak", 0.0, 1.0, 0.0),
            peaks=self.shares("output.peaks", combinations, {}),
            calibration=self._calibration(combinations),
        )

    def _calibration(self, combinations: list[str]) -> CalibrationSpec | None:
        key = "output.calibration"
        if not self.has(key):
            self.value(key, dict, {})
            return None
        if self.text("task") != "lesion":
            raise self.problem(key, "only the certainty of lesions is calibrated")
        images = self.texts(f"{key}.images")
        if not set(images) <= set(combinations):
            raise self.problem(
                f"{key}.images", f"needs combinations out of {combinations}, got {list(images)}"
            )
        slope, volume_slope, intercept = (
            self.number(f"{key}.{name}", low, 100.0, usual)
            for name, low, usual in (
                ("slope", 0.0, None),
                ("volume_slope", 0.0, 0.0),
                ("intercept", -100.0, None),
            )
        )
        if slope == 0:
            raise self.problem(f"{key}.slope", "must lie above 0: the certainty rises with the probability")
        findings, people = (self.value(f"{key}.{name}", int) for name in ("findings", "people"))
        if findings < 1 or people < 1:
            raise self.problem(f"{key}.findings", "needs at least one finding in one person")
        fitted_on = self.text(f"{key}.fitted_on")
        return CalibrationSpec(
            images, Calibration(slope, volume_slope, intercept, findings, people, fitted_on)
        )
