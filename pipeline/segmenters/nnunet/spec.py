"""The `[nnunet]` table of a manifest: what an imported nnU-Net asks for beyond the words of other networks.

Axes are nnU-Net's: (slice, row, column) of the image in `orientation`, and after `transpose` where a key says "transposed".
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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
class NnUNetSpec:
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
        For each channel: how it is normalised, whether over its non-zero box's mask only, and the training set's statistics ("ct").
    mirror_axes
        Axes (transposed) over whose flips the answer is averaged; empty: not at all.
    classes, lesion_classes
        How many maps the graphs give; which of them are lesion.
    orientation
        Directions in which the training images' column, row and slice index grow (right, anterior, superior: "RAS").
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
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def read_nnunet(values: Mapping[str, Any], channels: tuple[str, ...], where: str) -> NnUNetSpec:
    """Read the table; `where` names the manifest in messages.

    Raises
    ------
    BundleError
        A key is missing or wrong; the message names it.
    """

    def problem(key: str, what: str) -> BundleError:
        return BundleError(f"{where}: nnunet.{key}: {what}", code="model-manifest-invalid")

    def row(key: str, kind: type, length: int | None = None) -> tuple[Any, ...]:
        items = values.get(key)
        if not isinstance(items, list) or any(type(item) is not kind for item in items) or length not in (None, len(items)):
            raise problem(key, f"must be a list of {kind.__name__}" + (f", {length} of them" if length else ""))
        return tuple(items)

    def one_of(key: str, known: tuple[Any, ...], default: Any = None) -> Any:
        if values.get(key, default) not in known:
            raise problem(key, f"{values.get(key)!r} is not one of {list(known)}")
        return values.get(key, default)

    strange = sorted(set(values) - set(NnUNetSpec.__dataclass_fields__))
    if strange:
        raise problem(strange[0], "is not known")
    spec = NnUNetSpec(
        version=one_of("version", (1, 2)),
        transpose=row("transpose", int, 3),
        planar=one_of("planar", (True, False)),
        schemes=row("schemes", str, len(channels)),
        masked=row("masked", bool, len(channels)),
        mirror_axes=row("mirror_axes", int),
        classes=one_of("classes", tuple(range(2, 256))),
        lesion_classes=row("lesion_classes", int),
        orientation=one_of("orientation", ORIENTATIONS),
        grid=one_of("grid", (REFERENCE, *channels), REFERENCE),
        intensity=tuple(_intensity(each, problem) for each in values.get("intensity", [])),
    )
    checks = (
        ("transpose", sorted(spec.transpose) == [0, 1, 2]),
        ("schemes", set(spec.schemes) <= set(SCHEMES)),
        ("mirror_axes", set(spec.mirror_axes) <= ({1, 2} if spec.planar else {0, 1, 2})),
        ("lesion_classes", bool(spec.lesion_classes) and set(spec.lesion_classes) <= set(range(1, spec.classes))),
        ("intensity", len(spec.intensity) == len(channels) if "ct" in spec.schemes else True),
    )
    for key, right in checks:
        if not right:
            raise problem(key, f"{values.get(key)!r} cannot be")
    return spec


def _intensity(values: Any, problem: Any) -> Intensity:
    keys = tuple(Intensity.__dataclass_fields__)
    if not isinstance(values, dict) or set(values) != set(keys) or not all(isinstance(each, float) for each in values.values()):
        raise problem("intensity", f"each needs the numbers {', '.join(keys)}")
    return Intensity(**values)
