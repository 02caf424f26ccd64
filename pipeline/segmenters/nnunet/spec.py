"""The `[nnunet]` table of a manifest: what an imported nnU-Net asks for beyond the words of other networks.

Axes are nnU-Net's: (slice, row, column) of the image in `orientation`, and after `transpose` where a key says
"transposed".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.bundles.family import Family
from pipeline.bundles.manifest import GRAPH, FamilySpec, Manifest
from pipeline.bundles.values import Values
from pipeline.errors import BundleError

SCHEMES = ("zscore", "ct", "none", "rescale-0-1", "rgb-0-1")
ORIENTATIONS = tuple("".join(letters) for letters in itertools.product("RL", "AP", "SI"))
REFERENCE = "reference"


@dataclass(frozen=True)
class Intensity:
    """Foreground statistics of the training set, for the "ct" scheme."""

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class NnUNetSpec(FamilySpec):
    """The conventions of one imported nnU-Net.

    Attributes
    ----------
    version
        1: resample, then normalise, average softmax. 2: normalise, then resample, average logits.
    transpose
        Axis k of the network is axis `transpose[k]` of the image.
    planar
        A 2D network: axis 0 (transposed) is neither resampled nor tiled.
    schemes, masked, intensity
        For each channel: how it is normalised, whether over its non-zero box's mask only, and the training
        set's statistics ("ct").
    mirror_axes
        Axes (transposed) over whose flips the answer is averaged; empty: not at all.
    classes, lesion_classes
        How many maps the graphs give; which of them are lesion.
    orientation
        Directions in which the training images' column, row and slice index grow (right, anterior, superior:
        "RAS").
    grid
        The role whose voxels the channels are brought onto, or "reference".
    """

    version: int
    transpose: tuple[int, int, int]
    planar: bool
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    mirror_axes: tuple[int, ...]
    classes: int
    lesion_classes: tuple[int, ...]
    orientation: str
    grid: str = REFERENCE
    intensity: tuple[Intensity, ...] = ()

    def table(self) -> dict[str, Any]:
        """Return the table as it is written."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def count_maps(self, activation: str) -> int:
        """Return how many maps a graph gives: one a class."""
        del activation
        return self.classes


def find_files_problem(names: Collection[str], spec: FamilySpec) -> str:
    """Return what is wrong with the graphs that a manifest lists; empty when nothing is."""
    del spec
    fits = GRAPH in names and all(re.fullmatch(r"fold-[0-9]+\.onnx", name) for name in set(names) - {GRAPH})
    return "" if fits else f"must list {GRAPH}, and fold-1.onnx and so on"


def read_table(values: Values) -> NnUNetSpec:
    """Read the table; lists by channel must be as long as `input.channels`."""
    values.declare(key.name for key in fields(NnUNetSpec))
    channels = values.texts("input.channels")
    transpose = values.row("nnunet.transpose", int, 3)
    spec = NnUNetSpec(
        version=values.one_of("nnunet.version", (1, 2)),
        transpose=(transpose[0], transpose[1], transpose[2]),
        planar=values.value("nnunet.planar", bool),
        schemes=values.row("nnunet.schemes", str, len(channels)),
        masked=values.row("nnunet.masked", bool, len(channels)),
        mirror_axes=values.row("nnunet.mirror_axes", int),
        classes=values.one_of("nnunet.classes", tuple(range(2, 256))),
        lesion_classes=values.row("nnunet.lesion_classes", int),
        orientation=values.one_of("nnunet.orientation", ORIENTATIONS),
        grid=values.one_of("nnunet.grid", (REFERENCE, *channels), REFERENCE),
        intensity=tuple(
            _read_intensity(entry, values) for entry in values.value("nnunet.intensity", list, [])
        ),
    )
    checks = (
        ("transpose", sorted(spec.transpose) == [0, 1, 2]),
        ("schemes", set(spec.schemes) <= set(SCHEMES)),
        ("mirror_axes", set(spec.mirror_axes) <= ({1, 2} if spec.planar else {0, 1, 2})),
        (
            "lesion_classes",
            bool(spec.lesion_classes) and set(spec.lesion_classes) <= set(range(1, spec.classes)),
        ),
        ("intensity", len(spec.intensity) == len(channels) if "ct" in spec.schemes else True),
    )
    for key, fits in checks:
        if not fits:
            raise values.problem(f"nnunet.{key}", f"{getattr(spec, key)!r} cannot be")
    return spec


def check(manifest: Manifest, values: Values) -> None:
    """Refuse what contradicts nnU-Net's conventions elsewhere in the manifest."""
    if manifest.output.activation != "softmax":
        raise values.problem("output.activation", "an nnU-Net's graph gives logits: softmax")
    if manifest.window.mirror_axes:
        raise values.problem("window.mirror_axes", "an nnU-Net's mirroring is said in its own table")


def spec_of(bundle: Manifest) -> NnUNetSpec:
    """Return the conventions of an imported nnU-Net.

    Raises
    ------
    BundleError
        It is another network.
    """
    if not isinstance(bundle.family_spec, NnUNetSpec):
        raise BundleError(
            f"{bundle.name} is no nnU-Net: its manifest has no such table", code="model-manifest-invalid"
        )
    return bundle.family_spec


def _read_intensity(entry: Any, values: Values) -> Intensity:
    keys = tuple(Intensity.__dataclass_fields__)
    numbers = (
        isinstance(entry, dict)
        and set(entry) == set(keys)
        and all(isinstance(number, float) for number in entry.values())
    )
    if not numbers:
        raise values.problem("nnunet.intensity", f"each needs the numbers {', '.join(keys)}, got {entry!r}")
    return Intensity(**entry)


FAMILY = Family("patch3d", find_files_problem, "nnunet", read_table, check, scheme="nnunet")
