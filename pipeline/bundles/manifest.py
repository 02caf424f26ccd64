"""A bundle's manifest (`model.toml`): its keys as frozen records.

`reader.py` reads it; `docs/model-bundle.md` lays the keys down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pipeline.records import Calibration

MANIFEST = "model.toml"
GRAPH = "model.onnx"
"""The graph of a bundle that has one graph."""
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class FamilySpec:
    """A family's own table, and what of a bundle follows from it.

    This one is that of a family without a table.
    """

    @property
    def member_digests(self) -> Mapping[str, str]:
        """The other bundles that this one is made of, "name/version" to SHA-256."""
        return {}

    def asks(self, member: str, combination: Collection[str]) -> bool:
        """Return whether a member that was trained for these images is asked about them."""
        del member, combination
        return True

    def least_shape(self, patch: Shape) -> Shape:
        """Return the smallest grid, in voxels, that the family works on."""
        return patch

    def shape_of(self, graph: str, patch: Shape) -> Shape:
        """Return the spatial shape of one graph's input."""
        del graph
        return patch

    def count_maps(self, activation: str) -> int:
        """Return how many maps a graph gives."""
        return 2 if activation == "softmax" else 1


@dataclass(frozen=True)
class InputSpec:
    """What goes in: ONNX input `name`, shape (1, channels, *patch).

    `accepts` lists the combinations that it was trained for.
    """

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
    """How tiles overlap and what is averaged where they do.

    `mirror_axes` (slice, row, column: 0, 1, 2) are looked at both ways round.
    """

    step: float
    gaussian: bool
    aggregate: str = "probabilities"
    mirror_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class CalibrationSpec:
    """How a lesion's certainty is calibrated, and for which channel combinations ("t1+flair") that holds."""

    images: tuple[str, ...]
    calibration: Calibration


@dataclass(frozen=True)
class OutputSpec:
    """What comes out and how it becomes lesions.

    `thresholds` and `peaks` are by channel combination ("t1+flair").

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
    calibration: CalibrationSpec | None = None

    def threshold_for(self, combination: Collection[str]) -> float:
        """Return the threshold for the channels that were given."""
        return self.thresholds.get("+".join(combination), self.threshold)

    def peak_for(self, combination: Collection[str]) -> float:
        """Return the peak for the channels that were given."""
        return self.peaks.get("+".join(combination), self.peak)

    def calibration_for(self, combination: Collection[str]) -> Calibration | None:
        """Return how certainty is calibrated for the channels that were given; None where nobody did so."""
        spec = self.calibration
        return spec.calibration if spec and "+".join(combination) in spec.images else None


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
        The same in a few words, which the statement of every result repeats; empty where the manifest does
        not say.
    family
        The word of the manifest, as every result says it.
    segmenter
        The row of `segmenters/families.py`; two rows may share the manifest's word.
    family_spec
        The family's own table.
    trained
        Channel to statistic (`quality.trained_range.QUANTILES`) to the lowest and highest value in training;
        empty when not known.
    """

    name: str
    version: str
    task: str
    family: str
    segmenter: str
    statement: str
    intended_use: str
    licence: str
    graphs: Mapping[str, str]
    input: InputSpec
    preprocess: PreprocessSpec
    window: WindowSpec
    output: OutputSpec
    trained: Mapping[str, Mapping[str, tuple[float, float]]]
    family_spec: FamilySpec
    training_data: str
    trained_on: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the graph; of several, or of an ensemble's members, that of their hashes, one a line."""
        digests = list((self.family_spec.member_digests or self.graphs).values())
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 over every key of the manifest, prose included; not over where the bundle lies."""
        values = {field.name: getattr(self, field.name) for field in fields(Manifest)}
        text = json.dumps(values, sort_keys=True, default=asdict)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def least_shape(self) -> Shape:
        """The smallest grid, in voxels, that the family works on."""
        return self.family_spec.least_shape(self.input.patch)

    @property
    def maps(self) -> int:
        """How many maps a graph gives."""
        return self.family_spec.count_maps(self.output.activation)

    def patch_of(self, graph: str) -> Shape:
        """Return the spatial shape of one graph's input."""
        return self.family_spec.shape_of(graph, self.input.patch)
