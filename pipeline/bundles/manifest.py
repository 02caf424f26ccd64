"""A bundle's manifest (`model.toml`): its keys as frozen records, read strictly.

What a manifest leaves out is refused, not guessed; the keys are laid down in `docs/model-bundle.md`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.bundles.families import FAMILIES, GRAPH, FamilySpec, find_files_problem, read_family
from pipeline.bundles.values import Values
from pipeline.errors import BundleError
from pipeline.segmenters.ensemble.spec import EnsembleSpec
from pipeline.segmenters.nnunet.spec import NnUNetSpec, read_nnunet
from pipeline.segmenters.proposal3d.spec import COARSE_GRAPH, PROPOSAL_GRAPH, ProposalSpec

MANIFEST = "model.toml"
TASKS = ("lesion", "brain")
HEADS = ("brain-extracted", "whole-head")
ACTIVATIONS = ("in-graph", "sigmoid", "softmax")
BIAS_CORRECTIONS = ("n4", "none")
REFERENCES = ("flair", "t1")
AGGREGATES = ("probabilities", "logits")
MEMBERS_DECIDE = "members"
"""How an ensemble preprocesses: each member in its own way."""


@dataclass(frozen=True)
class InputSpec:
    """What goes in: ONNX input `name`, shape (1, channels, *patch); `accepts` lists the combinations that it was trained for."""

    name: str
    channels: tuple[str, ...]
    accepts: tuple[tuple[str, ...], ...]
    head: str
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    dtype: str


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image gets onto the network's grid and scale: names of the schemes of `pipeline.preprocess`.

    Attributes
    ----------
    bias_correction
        "n4" or "none".
    reference
        Role that the other image is brought onto, and on whose grid the result lies, where both are there.
    """

    resample: str
    normalise: str
    normalise_parameters: Mapping[str, Any] = field(default_factory=dict)
    bias_correction: str = "n4"
    reference: str = "flair"


@dataclass(frozen=True)
class WindowSpec:
    """How tiles overlap and what is averaged where they do; `mirror_axes` (slice, row, column: 0, 1, 2) are looked at both ways round."""

    step: float
    gaussian: bool
    aggregate: str = "probabilities"
    mirror_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class OutputSpec:
    """What comes out and how it becomes lesions; `thresholds` and `peaks` are by channel combination ("t1+flair").

    `peak` is the probability that a lesion must reach somewhere, 0 where the manifest asks for none.
    """

    name: str
    activation: str
    threshold: float
    minimum_volume_mm3: float
    connectivity: int
    thresholds: Mapping[str, float] = field(default_factory=dict)
    brain_margin_mm: float = 0.0
    peak: float = 0.0
    peaks: Mapping[str, float] = field(default_factory=dict)

    def threshold_for(self, combination: Collection[str]) -> float:
        """Return the threshold for the channels that were given."""
        return self.thresholds.get("+".join(combination), self.threshold)

    def peak_for(self, combination: Collection[str]) -> float:
        """Return the peak for the channels that were given."""
        return self.peaks.get("+".join(combination), self.peak)


@dataclass(frozen=True)
class Manifest:
    """Everything that `model.toml` says.

    Attributes
    ----------
    graphs
        File name to SHA-256 of every graph; the one that answers first, then further folds, planes or stages.
    training_data
        What the network was trained on, at length; empty where the manifest does not say.
    trained_on
        The same in a few words, which every result prints in its statement; empty where the manifest does not say.
    family_spec
        The family's own table; None for the plain family "patch3d".
    nnunet
        The conventions of an imported nnU-Net; None for every other network.
    trained
        Channel to statistic (`quality.trained_range.QUANTILES`) to the lowest and highest value in training; empty when not known.
    """

    name: str
    version: str
    task: str
    family: str
    statement: str
    intended_use: str
    licence: str
    graphs: Mapping[str, str]
    input: InputSpec
    preprocess: PreprocessSpec
    window: WindowSpec
    output: OutputSpec
    nnunet: NnUNetSpec | None
    trained: Mapping[str, Mapping[str, tuple[float, float]]]
    family_spec: FamilySpec | None
    training_data: str
    trained_on: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the graph; of several, or of an ensemble's members, that of their hashes, one a line."""
        digests = list(self.family_spec.members.values() if isinstance(self.family_spec, EnsembleSpec) else self.graphs.values())
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 over every key of the manifest, prose included; not over where the bundle lies."""
        values = {field.name: getattr(self, field.name) for field in fields(Manifest)}
        text = json.dumps(values, sort_keys=True, default=asdict)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def least_shape(self) -> tuple[int, int, int]:
        """The smallest grid, in voxels, that the family works on."""
        return self.family_spec.patch if isinstance(self.family_spec, ProposalSpec) else self.input.patch

    def patch_of(self, graph: str) -> tuple[int, int, int]:
        """Return the spatial shape of one graph's input."""
        return self.least_shape if graph in (PROPOSAL_GRAPH, COARSE_GRAPH) else self.input.patch

    @property
    def maps(self) -> int:
        """How many maps a graph gives."""
        if self.nnunet is not None:
            return self.nnunet.classes
        return 2 if self.output.activation == "softmax" else 1


def read_manifest(path: Path) -> Manifest:
    """Read and check one manifest.

    Raises
    ------
    BundleError
        It is missing, not TOML, or a key is missing or wrong; the message names the key.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise BundleError(f"{path} cannot be read: {problem.strerror}", code="model-missing") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise BundleError(f"{path} is not TOML: {problem}", code="model-manifest-invalid") from None
    return _Reader(values, path).manifest()


class _Reader(Values):
    """Makes the records out of a manifest's values."""

    def manifest(self) -> Manifest:
        schema = self.value("schema", int)
        if schema > 1:
            raise self.problem("schema", f"the bundle was made by a newer program (schema {schema}, this one knows 1); update the node")
        if schema != 1:
            raise self.problem("schema", "only schema 1 is known")
        family = self.one_of("family", FAMILIES)
        spec = read_family(family, self.values, str(self.path))
        alone = not isinstance(spec, EnsembleSpec)
        manifest = Manifest(
            name=self.text("name"),
            version=self.text("version"),
            task=self.one_of("task", TASKS),
            family=family,
            statement=self._statement(),
            intended_use=self.text("intended_use"),
            licence=self.text("licence"),
            graphs=self._graphs(family, coarse=isinstance(spec, ProposalSpec) and spec.coarse),
            input=self._input(),
            trained=self._trained(),
            preprocess=self._preprocess() if alone else PreprocessSpec(MEMBERS_DECIDE, MEMBERS_DECIDE),
            window=self._window() if alone else WindowSpec(1.0, gaussian=False),
            output=self._output(),
            nnunet=self._nnunet() if alone else None,
            family_spec=spec,
            training_data=self.value("training.data", str, ""),
            trained_on=self.value("trained_on", str, ""),
        )
        self._check_together(manifest)
        return manifest

    def _statement(self) -> str:
        """Return what every result says about the network; `trained_on` takes the place of a statement about the training data."""
        trained_on = self.value("trained_on", str, "")
        if not trained_on:
            return self.text("statement")
        return f"Trained on {trained_on}. For research use; not for diagnosis."

    def _check_together(self, manifest: Manifest) -> None:
        """Refuse what is right by itself and wrong beside the rest."""
        if manifest.family != "patch3d" and manifest.task != "lesion":
            raise self.problem("task", f"the family {manifest.family} can be a lesion network only")
        if manifest.family == "patch3d" and len(manifest.graphs) > 1 and manifest.nnunet is None:
            raise self.problem("files", "only an nnU-Net has further folds")
        if manifest.family != "patch3d" and manifest.nnunet is not None:
            raise self.problem("nnunet", "an nnU-Net is of the family patch3d")
        if manifest.window.aggregate == "logits" and manifest.output.activation == "in-graph":
            raise self.problem("window.aggregate", "logits cannot be averaged when the activation is in the graph")
        if manifest.family == "proposal3d" and (manifest.window.aggregate == "logits" or manifest.window.mirror_axes):
            raise self.problem("window", "the family proposal3d averages probabilities and mirrors nothing")
        if not isinstance(manifest.family_spec, EnsembleSpec):
            return
        for table in ("preprocess", "window", "nnunet"):
            if table in self.values:
                raise self.problem(table, "an ensemble's members say this")

    def _preprocess(self) -> PreprocessSpec:
        return PreprocessSpec(
            self.text("preprocess.resample"),
            self.text("preprocess.normalise"),
            self.value("preprocess.normalise_parameters", dict, {}),
            self.one_of("preprocess.bias_correction", BIAS_CORRECTIONS, "n4"),
            self.one_of("preprocess.reference", REFERENCES, "flair"),
        )

    def _window(self) -> WindowSpec:
        return WindowSpec(
            self.number("window.step", 0.1, 1.0),
            self.value("window.gaussian", bool),
            self.one_of("window.aggregate", AGGREGATES, "probabilities"),
            self._mirror_axes(),
        )

    def _graphs(self, family: str, *, coarse: bool) -> dict[str, str]:
        files = self.value("files", dict, {} if family == "ensemble" else None)
        if problem := find_files_problem(family, files, coarse=coarse):
            raise self.problem("files", f"{problem}, with their SHA-256 (64 hexadecimal digits), and nothing else")
        if not all(isinstance(each, str) and re.fullmatch("[0-9a-f]{64}", each) for each in files.values()):
            raise self.problem("files", "each file needs its SHA-256 (64 hexadecimal digits)")
        names = sorted(files, key=lambda name: (name != GRAPH, name))
        return {name: files[name] for name in names}

    def _mirror_axes(self) -> tuple[int, ...]:
        axes = self.value("window.mirror_axes", list, [])
        if any(isinstance(axis, bool) or axis not in (0, 1, 2) for axis in axes) or len(set(axes)) != len(axes):
            raise self.problem("window.mirror_axes", "needs a list of different axes out of 0, 1, 2")
        if axes and "nnunet" in self.values:
            raise self.problem("window.mirror_axes", "an nnU-Net's mirroring is said in its own table")
        return tuple(axes)

    def _nnunet(self) -> NnUNetSpec | None:
        scheme = self.text("preprocess.resample")
        if ("nnunet" in self.values) != (scheme == "nnunet"):
            raise self.problem("nnunet", 'this table and preprocess.resample = "nnunet" belong together')
        if "nnunet" not in self.values:
            return None
        if self.one_of("task", TASKS) != "lesion":
            raise self.problem("task", "an nnU-Net can be a lesion network only")
        if self.one_of("output.activation", ACTIVATIONS) != "softmax":
            raise self.problem("output.activation", "an nnU-Net's graph gives logits: softmax")
        return read_nnunet(self.value("nnunet", dict), self.texts("input.channels"), str(self.path))

    def _trained(self) -> dict[str, dict[str, tuple[float, float]]]:
        ranges: dict[str, dict[str, tuple[float, float]]] = {}
        for channel, table in self.value("trained", dict, {}).items():
            if channel not in self.texts("input.channels") or not isinstance(table, dict):
                raise self.problem(f"trained.{channel}", "must be a table for one of input.channels")
            for name, ends in table.items():
                numbers = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, (int, float)) for end in ends)
                if not numbers or not ends[0] < ends[1]:
                    raise self.problem(f"trained.{channel}.{name}", "needs the lowest and the highest value in training")
                ranges.setdefault(channel, {})[name] = (float(ends[0]), float(ends[1]))
        return ranges

    def _input(self) -> InputSpec:
        channels = self.texts("input.channels")
        accepts = tuple(tuple(str(role) for role in roles) for roles in self.value("input.accepts", list))
        if not accepts or any(not roles or not set(roles) <= set(channels) for roles in accepts):
            raise self.problem("input.accepts", f"each combination must be made of the channels {list(channels)}")
        spacing = [float(size) for size in self.value("input.spacing_mm", list)]
        patch = [int(size) for size in self.value("input.patch", list)]
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

    def _output(self) -> OutputSpec:
        levels: dict[str, dict[str, float]] = {key: self.value(f"output.{key}", dict, {}) for key in ("thresholds", "peaks")}
        for key, table in levels.items():
            if any(not isinstance(level, float) or not 0 < level < 1 for level in table.values()):
                raise self.problem(f"output.{key}", "each must lie between 0 and 1")
        connectivity = self.value("output.connectivity", int)
        if connectivity not in (6, 26):
            raise self.problem("output.connectivity", "6 and 26 are known")
        return OutputSpec(
            name=self.text("output.name"),
            activation=self.one_of("output.activation", ACTIVATIONS),
            threshold=self.number("output.threshold", 0.0, 1.0),
            minimum_volume_mm3=self.number("output.minimum_volume_mm3", 0.0, 1e6),
            connectivity=connectivity,
            thresholds=dict(levels["thresholds"]),
            brain_margin_mm=self.number("output.brain_margin_mm", 0.0, 50.0, 0.0),
            peak=self.number("output.peak", 0.0, 1.0, 0.0),
            peaks=dict(levels["peaks"]),
        )
