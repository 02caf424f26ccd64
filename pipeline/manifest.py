"""A bundle's manifest (`model.toml`): its keys as frozen records, read strictly.

What a manifest leaves out is refused, not guessed; the keys are laid down in `docs/model-bundle.md`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import BundleError
from pipeline.nnunet_manifest import NnUNetSpec, read_nnunet

MANIFEST = "model.toml"
GRAPH = "model.onnx"
FURTHER_GRAPH = r"fold-[0-9]+\.onnx"
"""Name of the graph of a further fold, whose answers are averaged with those of `GRAPH`."""
TASKS = ("lesion", "brain")
FAMILIES = ("patch3d",)
HEADS = ("brain-extracted", "whole-head")
ACTIVATIONS = ("in-graph", "sigmoid", "softmax")
BIAS_CORRECTIONS = ("n4", "none")
REFERENCES = ("flair", "t1")
AGGREGATES = ("probabilities", "logits")


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
    """What comes out and how it becomes lesions; `thresholds` is by channel combination ("t1+flair")."""

    name: str
    activation: str
    threshold: float
    minimum_volume_mm3: float
    connectivity: int
    thresholds: Mapping[str, float] = field(default_factory=dict)
    brain_margin_mm: float = 0.0

    def threshold_for(self, combination: Collection[str]) -> float:
        """Return the threshold for the channels that were given."""
        return self.thresholds.get("+".join(combination), self.threshold)


@dataclass(frozen=True)
class Manifest:
    """Everything that `model.toml` says.

    Attributes
    ----------
    graphs
        File name to SHA-256 of every graph; `GRAPH` first, then further folds.
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

    @property
    def sha256(self) -> str:
        """SHA-256 of the graph; of several, that of their hashes, one a line."""
        digests = list(self.graphs.values())
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def least_shape(self) -> tuple[int, int, int]:
        """The smallest grid, in voxels, that the family works on."""
        return self.input.patch

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


class _Reader:
    """Takes typed values out of a manifest; a missing or wrong one names its key."""

    def __init__(self, manifest: Mapping[str, Any], path: Path) -> None:
        self._manifest = manifest
        self._path = path

    def manifest(self) -> Manifest:
        schema = self.value("schema", int)
        if schema > 1:
            raise self._problem("schema", f"the bundle was made by a newer program (schema {schema}, this one knows 1); update the node")
        if schema != 1:
            raise self._problem("schema", "only schema 1 is known")
        manifest = Manifest(
            name=self.text("name"),
            version=self.text("version"),
            task=self.one_of("task", TASKS),
            family=self.one_of("family", FAMILIES),
            statement=self.text("statement"),
            intended_use=self.text("intended_use"),
            licence=self.text("licence"),
            graphs=self._graphs(),
            input=self._input(),
            preprocess=PreprocessSpec(
                self.text("preprocess.resample"),
                self.text("preprocess.normalise"),
                self.value("preprocess.normalise_parameters", dict, {}),
                self.one_of("preprocess.bias_correction", BIAS_CORRECTIONS, "n4"),
                self.one_of("preprocess.reference", REFERENCES, "flair"),
            ),
            trained=self._trained(),
            window=WindowSpec(
                self.number("window.step", 0.1, 1.0),
                self.value("window.gaussian", bool),
                self.one_of("window.aggregate", AGGREGATES, "probabilities"),
                self._mirror_axes(),
            ),
            output=self._output(),
            nnunet=self._nnunet(),
        )
        if len(manifest.graphs) > 1 and manifest.nnunet is None:
            raise self._problem("files", "only an nnU-Net has further folds")
        if manifest.window.aggregate == "logits" and manifest.output.activation == "in-graph":
            raise self._problem("window.aggregate", "logits cannot be averaged when the activation is in the graph")
        return manifest

    def _graphs(self) -> dict[str, str]:
        files = self.value("files", dict)
        names = sorted(set(files) - {GRAPH})
        right = GRAPH in files and all(re.fullmatch(FURTHER_GRAPH, name) for name in names)
        if not right or not all(isinstance(each, str) and re.fullmatch("[0-9a-f]{64}", each) for each in files.values()):
            raise self._problem(
                "files", f"must list {GRAPH}, and fold-1.onnx and so on, with their SHA-256 (64 hexadecimal digits) and nothing else"
            )
        return {name: files[name] for name in (GRAPH, *names)}

    def _mirror_axes(self) -> tuple[int, ...]:
        axes = self.value("window.mirror_axes", list, [])
        if any(isinstance(axis, bool) or axis not in (0, 1, 2) for axis in axes) or len(set(axes)) != len(axes):
            raise self._problem("window.mirror_axes", "needs a list of different axes out of 0, 1, 2")
        if axes and "nnunet" in self._manifest:
            raise self._problem("window.mirror_axes", "an nnU-Net's mirroring is said in its own table")
        return tuple(axes)

    def _nnunet(self) -> NnUNetSpec | None:
        scheme = self.text("preprocess.resample")
        if ("nnunet" in self._manifest) != (scheme == "nnunet"):
            raise self._problem("nnunet", 'this table and preprocess.resample = "nnunet" belong together')
        if "nnunet" not in self._manifest:
            return None
        if self.one_of("task", TASKS) != "lesion":
            raise self._problem("task", "an nnU-Net can be a lesion network only")
        if self.one_of("output.activation", ACTIVATIONS) != "softmax":
            raise self._problem("output.activation", "an nnU-Net's graph gives logits: softmax")
        return read_nnunet(self.value("nnunet", dict), self._texts("input.channels"), str(self._path))

    def _trained(self) -> dict[str, dict[str, tuple[float, float]]]:
        ranges: dict[str, dict[str, tuple[float, float]]] = {}
        for channel, table in self.value("trained", dict, {}).items():
            if channel not in self._texts("input.channels") or not isinstance(table, dict):
                raise self._problem(f"trained.{channel}", "must be a table for one of input.channels")
            for name, ends in table.items():
                numbers = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, (int, float)) for end in ends)
                if not numbers or not ends[0] < ends[1]:
                    raise self._problem(f"trained.{channel}.{name}", "needs the lowest and the highest value in training")
                ranges.setdefault(channel, {})[name] = (float(ends[0]), float(ends[1]))
        return ranges

    def _input(self) -> InputSpec:
        channels = self._texts("input.channels")
        accepts = tuple(tuple(str(role) for role in roles) for roles in self.value("input.accepts", list))
        if not accepts or any(not roles or not set(roles) <= set(channels) for roles in accepts):
            raise self._problem("input.accepts", f"each combination must be made of the channels {list(channels)}")
        spacing = [float(size) for size in self.value("input.spacing_mm", list)]
        patch = [int(size) for size in self.value("input.patch", list)]
        if len(spacing) != 3 or len(patch) != 3 or min(spacing) <= 0 or min(patch) <= 0:
            raise self._problem("input.patch", "spacing_mm and patch need 3 positive numbers each")
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
        thresholds = self.value("output.thresholds", dict, {})
        if any(not isinstance(level, float) or not 0 < level < 1 for level in thresholds.values()):
            raise self._problem("output.thresholds", "each must lie between 0 and 1")
        connectivity = self.value("output.connectivity", int)
        if connectivity not in (6, 26):
            raise self._problem("output.connectivity", "6 and 26 are known")
        return OutputSpec(
            name=self.text("output.name"),
            activation=self.one_of("output.activation", ACTIVATIONS),
            threshold=self.number("output.threshold", 0.0, 1.0),
            minimum_volume_mm3=self.number("output.minimum_volume_mm3", 0.0, 1e6),
            connectivity=connectivity,
            thresholds=dict(thresholds),
            brain_margin_mm=self.number("output.brain_margin_mm", 0.0, 50.0, 0.0),
        )

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        here: Any = self._manifest
        for part in key.split("."):
            here = here.get(part) if isinstance(here, dict) else None
        if here is None:
            here = default
        if here is None:
            raise self._problem(key, "is missing")
        if not isinstance(here, kind) or (kind is int and isinstance(here, bool)):
            raise self._problem(key, f"must be {kind.__name__}, got {here!r}")
        return here

    def text(self, key: str) -> str:
        text: str = self.value(key, str)
        if not text.strip():
            raise self._problem(key, "is empty")
        return text

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        number = float(self.value(key, (int, float), default))  # type: ignore[arg-type]
        if not low <= number <= high:
            raise self._problem(key, f"must lie between {low:g} and {high:g}, got {number:g}")
        return number

    def one_of(self, key: str, known: Collection[str], default: str | None = None) -> str:
        text: str = self.value(key, str, default)
        if text not in known:
            raise self._problem(key, f"{text!r} is not one of {list(known)}")
        return text

    def _texts(self, key: str) -> tuple[str, ...]:
        texts = self.value(key, list)
        if not texts or not all(isinstance(text, str) and text for text in texts) or len(set(texts)) != len(texts):
            raise self._problem(key, "needs a list of different names")
        return tuple(texts)

    def _problem(self, key: str, what: str) -> BundleError:
        return BundleError(f"{self._path}: {key}: {what}", code="model-manifest-invalid")
